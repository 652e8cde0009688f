"""A request for a code is one row under its request_id until it expires."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.journal.journal import Challenge, ChallengeState
from tests.booking.house import HookedJournal
from tests.journal.rows import TENANT, open_journal
from tests.postgres import Place


@pytest.fixture
async def journal(place: Place) -> AsyncIterator[HookedJournal]:
    async with open_journal(place) as journal:
        yield journal


def a_challenge(journal: HookedJournal, life_s: float = 60, **changes: Any) -> Challenge:
    now = journal.now()
    challenge = Challenge(
        tenant=TENANT,
        request_id="code-0001",
        fingerprint=b"fingerprint",
        connection="main",
        create_time=now,
        expire_time=now + timedelta(seconds=life_s),
    )
    return replace(challenge, **changes)


async def test_a_repeat_meets_the_row_that_stands(journal: HookedJournal) -> None:
    first, second = a_challenge(journal), a_challenge(journal, fingerprint=b"another")

    assert (await journal.open_challenge(first)).is_new
    met = await journal.open_challenge(second)
    assert not met.is_new
    assert met.challenge == first
    assert await journal.find_challenge(TENANT, "code-0001") == first
    assert await journal.find_challenge("another", "code-0001") is None


async def test_of_many_at_one_moment_one_is_new(journal: HookedJournal) -> None:
    met = await asyncio.gather(
        *(
            journal.open_challenge(a_challenge(journal, fingerprint=bytes([number])))
            for number in range(8)
        )
    )

    assert [it.is_new for it in met].count(True) == 1
    assert len({it.challenge.fingerprint for it in met}) == 1


async def test_of_two_replicas_one_is_new(postgres_dsn: str) -> None:
    async with (
        open_journal(postgres_dsn) as one,
        open_journal(postgres_dsn, boot_id="boot-2") as two,
    ):
        for number in range(20):
            met = await asyncio.gather(
                *(
                    it.open_challenge(a_challenge(it, request_id=f"code-{number:04}"))
                    for it in (one, two)
                )
            )
            assert sorted(it.is_new for it in met) == [False, True]


async def test_the_end_of_a_challenge_is_written_once(journal: HookedJournal) -> None:
    challenge = a_challenge(journal)
    await journal.open_challenge(challenge)
    issued = replace(
        challenge,
        state=ChallengeState.ISSUED,
        answer_sealed=b"sealed",
        expire_time=challenge.expire_time + timedelta(seconds=5),
    )

    assert await journal.settle_challenge(issued)
    assert (await journal.open_challenge(a_challenge(journal))).challenge == issued
    failed = replace(challenge, state=ChallengeState.FAILED, reason=Reason.PROVIDER_UNREACHABLE)
    assert not await journal.settle_challenge(failed)
    assert await journal.find_challenge(TENANT, "code-0001") == issued


async def test_an_expired_row_may_be_taken_anew_and_its_late_end_is_not_written(
    journal: HookedJournal,
) -> None:
    old = a_challenge(journal, life_s=-1)
    assert (await journal.open_challenge(old)).is_new
    new = a_challenge(journal, fingerprint=b"another")

    assert (await journal.open_challenge(new)).is_new
    assert not await journal.settle_challenge(replace(old, state=ChallengeState.ISSUED))
    assert await journal.find_challenge(TENANT, "code-0001") == new


HOUR_S = 3_600.0


async def stand(journal: HookedJournal, request_ids: Sequence[str]) -> list[bool]:
    return [await journal.find_challenge(TENANT, it) is not None for it in request_ids]


async def test_what_expired_an_hour_ago_is_pruned_and_nothing_else(
    journal: HookedJournal,
) -> None:
    lives = {"alive": HOUR_S, "just expired": -60, "long expired": -HOUR_S - 60}
    for request_id, life_s in lives.items():
        await journal.open_challenge(a_challenge(journal, life_s, request_id=request_id))
    await journal.open_challenge(a_challenge(journal, -2 * HOUR_S, tenant="another"))

    assert not await journal.prune_challenges(TENANT, 100), "there are no more"
    assert not await journal.prune_challenges(TENANT, 100), "there is none at all"
    assert await stand(journal, list(lives)) == [True, True, False]
    assert await journal.find_challenge("another", "code-0001") is not None


async def test_many_are_pruned_a_few_at_a_time(journal: HookedJournal) -> None:
    names = [f"code-{number}" for number in range(5)]
    for name in names:
        await journal.open_challenge(a_challenge(journal, -2 * HOUR_S, request_id=name))

    assert await journal.prune_challenges(TENANT, 2)
    assert sum(await stand(journal, names)) == 3
    assert await journal.prune_challenges(TENANT, 2)
    assert not await journal.prune_challenges(TENANT, 2)
    assert sum(await stand(journal, names)) == 0


async def test_replicas_that_prune_at_one_moment_do_not_wait_for_each_other(
    postgres_dsn: str,
) -> None:
    async with open_journal(postgres_dsn) as journal:
        for name in ("code-1", "code-2"):
            await journal.open_challenge(a_challenge(journal, -2 * HOUR_S, request_id=name))
        async with await psycopg.AsyncConnection.connect(postgres_dsn) as other:
            await other.execute(b"DELETE FROM challenge WHERE request_id = 'code-1'")
            assert not await journal.prune_challenges(TENANT, 100)

        assert await stand(journal, ["code-1", "code-2"]) == [False, False]
