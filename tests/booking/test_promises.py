"""Promises put to the proof: what counts, what is written down, and what is only reported."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from loyalty_gateway.booking.calls import Promise, PromiseSource
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import Operation, RecoveryMode
from loyalty_gateway.journal.journal import PromiseRow
from loyalty_gateway.journal.writer import unavailable
from loyalty_gateway.providers.port import NotShown, PromiseFacts, ProviderError, StatusRow
from tests.booking.house import KEYRING, QUICK, TENANT, House, failure, open_house, until
from tests.booking.vendor import RESEND_IS_SAFE, FakeVendor, loses_the_answer
from tests.postgres import Place

ECHO = "amount_echo_unit"
RESEND = RESEND_IS_SAFE

Proof = Callable[[], Awaitable[str]]


async def holds() -> str:
    return "sent twice, booked once"


async def is_broken() -> str:
    raise LookupError("sent twice, booked twice on card 6299123412341234")


async def has_no_account() -> str:
    raise NotShown("the setting proof_card names no card to prove this on")


async def finds_nobody() -> str:
    raise ProviderError(StatusRow(Reason.PROVIDER_UNREACHABLE), "away", rule="connect refused")


async def has_a_bug() -> str:
    empty: dict[str, str] = {}
    return empty["transactionId"]


class ProvableVendor(FakeVendor):
    """A vendor of two promises that can be proven, and one that can only be declared."""

    promises: Mapping[str, PromiseFacts] = {
        RESEND_IS_SAFE: PromiseFacts("a booking that is sent twice is booked once"),
        ECHO: PromiseFacts("the amount comes back in the unit that it was sent in"),
        "no_other_channel_books": PromiseFacts("nobody else books", is_provable=False),
    }

    def __init__(self, **proofs: Proof) -> None:
        super().__init__(loses_the_answer)
        self.proofs = {RESEND_IS_SAFE: holds, ECHO: holds, **proofs}
        self.proven: list[str] = []

    async def prove(self, promise: str) -> str:
        self.proven.append(promise)
        return await self.proofs[promise]()


async def rows(house: House) -> dict[str, PromiseRow]:
    return {row.name: row for row in await house.journal.promises(TENANT)}


async def shown(house: House, name: str = RESEND_IS_SAFE) -> Promise:
    """A promise as GetCapabilities tells it."""
    capabilities = await house.engine.capabilities(TENANT, "main")
    (debit,) = (it for it in capabilities if it.operation is Operation.DEBIT_BALANCE)
    (promise,) = (it for it in debit.promises if it.name == name)
    return promise


async def mode(house: House) -> RecoveryMode | None:
    capabilities = await house.engine.capabilities(TENANT, "main")
    (debit,) = (it for it in capabilities if it.operation is Operation.DEBIT_BALANCE)
    return debit.recovery_mode


async def test_every_promise_that_can_be_proven_is_put_to_the_proof_and_written_down(
    place: Place,
) -> None:
    vendor = ProvableVendor()
    async with open_house(place, vendor, promises={}) as house:
        assert await mode(house) is RecoveryMode.MANUAL
        proven = await house.engine.prove(TENANT, "main")
        written = await rows(house)
        seen = await shown(house)
        assert await mode(house) is RecoveryMode.SAFE_RESEND

    assert vendor.proven == [ECHO, RESEND_IS_SAFE]
    assert [(promise.name, promise.value) for promise in proven] == [
        (ECHO, True),
        (RESEND_IS_SAFE, True),
    ]
    row = written[RESEND_IS_SAFE]
    assert (row.value, row.evidence) == (True, "sent twice, booked once")
    assert row.target_hash == KEYRING.target_hash(vendor.target)
    assert seen == proven[1]
    assert (seen.source, seen.time) == (PromiseSource.PROVEN, row.time)


async def test_a_proof_is_remembered_by_the_next_process_for_the_same_target_alone(
    place: Place,
) -> None:
    async with open_house(place, ProvableVendor(), promises={}) as house:
        await house.engine.prove(TENANT, "main")
    async with open_house(place, ProvableVendor(), promises={}) as house:
        assert (await shown(house)).value
    moved = ProvableVendor()
    moved.target = "https://vendor.test|credential-2"
    async with open_house(place, moved, promises={}) as house:
        assert (await shown(house)).source is PromiseSource.DEFAULT


async def test_a_promise_that_once_held_and_is_seen_broken_counts_no_more(place: Place) -> None:
    vendor = ProvableVendor()
    async with open_house(place, vendor, promises={}, policy=QUICK) as house:
        await house.engine.prove(TENANT, "main")
        vendor.proofs[RESEND_IS_SAFE] = is_broken
        proven = await house.engine.prove(TENANT, "main")
        assert await mode(house) is RecoveryMode.MANUAL
        # A lost answer is now a person's: it is not sent again.
        error = await house.fails()
        assert (await house.get()).state is State.NEEDS_REVIEW
        written = await rows(house)

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW
    assert len(vendor.sends) == 1
    assert not proven[1].value
    assert not written[RESEND_IS_SAFE].value


async def test_no_card_number_stands_in_the_evidence(place: Place) -> None:
    vendor = ProvableVendor(**{RESEND_IS_SAFE: is_broken})
    async with open_house(place, vendor, promises={}) as house:
        (_, broken) = await house.engine.prove(TENANT, "main")
        written = await rows(house)

    assert "booked twice" in broken.evidence
    assert "6299123412341234" not in broken.evidence + written[RESEND_IS_SAFE].evidence


def saves_no_bad_news(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, PromiseRow], Awaitable[None]]:
    """From now on nothing can be written of a promise that was seen broken; how it was written."""
    save = house.journal.save_promise

    async def saves(tenant: str, row: PromiseRow) -> None:
        if not row.value:
            raise unavailable(OSError("the disk is full"))
        await save(tenant, row)

    monkeypatch.setattr(house.journal, "save_promise", saves)
    return save


async def test_a_broken_promise_counts_even_where_it_cannot_be_written_down(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = ProvableVendor()

    async with open_house(place, vendor, promises={}) as house:
        await house.engine.prove(TENANT, "main")
        assert await mode(house) is RecoveryMode.SAFE_RESEND
        vendor.proofs[RESEND_IS_SAFE] = is_broken
        saves_no_bad_news(house, monkeypatch)
        error = await failure(house.engine.prove(TENANT, "main"))
        assert await mode(house) is RecoveryMode.MANUAL
        # What the journal says is read again, and is older.
        vendor.proofs[RESEND_IS_SAFE] = finds_nobody
        await house.engine.prove(TENANT, "main")
        assert await mode(house) is RecoveryMode.MANUAL
        vendor.proofs[RESEND_IS_SAFE] = holds
        await house.engine.prove(TENANT, "main")
        assert await mode(house) is RecoveryMode.SAFE_RESEND

    assert error.reason is Reason.JOURNAL_UNAVAILABLE


async def test_a_broken_promise_is_written_down_as_soon_as_that_can_be(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next start would rely on what was proven before."""
    monkeypatch.setattr("loyalty_gateway.booking.promises._REFRESH_S", 0.02)
    vendor = ProvableVendor()
    async with open_house(place, vendor, promises={}) as house:
        await house.engine.prove(TENANT, "main")
        vendor.proofs[RESEND_IS_SAFE] = is_broken
        save, tries, is_full = house.journal.save_promise, 0, True

        async def fails_while_full(tenant: str, row: PromiseRow) -> None:
            nonlocal tries
            tries += row.name == RESEND_IS_SAFE
            if row.name == RESEND_IS_SAFE and is_full:
                raise unavailable(OSError("the disk is full"))
            await save(tenant, row)

        monkeypatch.setattr(house.journal, "save_promise", fails_while_full)
        await failure(house.engine.prove(TENANT, "main"))
        await until(lambda: tries >= 3)
        assert (await rows(house))[RESEND_IS_SAFE].value
        is_full = False
        async with asyncio.timeout(10):
            while (await rows(house))[RESEND_IS_SAFE].value:
                await asyncio.sleep(0.01)

    async with open_house(place, ProvableVendor(), promises={}) as house:
        assert await mode(house) is RecoveryMode.MANUAL


async def test_a_promise_that_is_recorded_anew_is_never_away(place: Place) -> None:
    async with open_house(place, ProvableVendor(), promises={}) as house:
        await house.engine.prove(TENANT, "main")
        row = (await rows(house))[RESEND_IS_SAFE]

        async def records() -> None:
            for _ in range(100):
                await house.journal.save_promise(TENANT, row)

        recording = asyncio.create_task(records())
        while not recording.done():
            assert RESEND_IS_SAFE in await rows(house)
        await recording


async def test_what_was_shown_again_is_not_overwritten_by_an_older_no(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loyalty_gateway.booking.promises._REFRESH_S", 0.2)
    vendor = ProvableVendor(**{RESEND_IS_SAFE: is_broken})
    async with open_house(place, vendor, promises={}) as house:
        save = saves_no_bad_news(house, monkeypatch)
        await failure(house.engine.prove(TENANT, "main"))
        vendor.proofs[RESEND_IS_SAFE] = holds
        await house.engine.prove(TENANT, "main")
        monkeypatch.setattr(house.journal, "save_promise", save)
        await asyncio.sleep(0.5)

        assert (await rows(house))[RESEND_IS_SAFE].value
        assert await mode(house) is RecoveryMode.SAFE_RESEND


async def test_a_promise_that_holds_does_not_count_before_it_is_written_down(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def saves_nothing(tenant: str, row: PromiseRow) -> None:
        raise unavailable(OSError("the disk is full"))

    async with open_house(place, ProvableVendor(), promises={}) as house:
        monkeypatch.setattr(house.journal, "save_promise", saves_nothing)
        await failure(house.engine.prove(TENANT, "main"))
        assert await mode(house) is RecoveryMode.MANUAL


async def test_without_a_test_account_nothing_is_shown_and_an_older_proof_stays(
    place: Place,
) -> None:
    vendor = ProvableVendor()
    async with open_house(place, vendor, promises={}) as house:
        before = await house.engine.prove(TENANT, "main")
        vendor.proofs = dict.fromkeys(vendor.proofs, has_no_account)
        after = await house.engine.prove(TENANT, "main")
        written = await rows(house)
        assert await mode(house) is RecoveryMode.SAFE_RESEND

    assert [promise.not_shown for promise in after] == 2 * [
        "the setting proof_card names no card to prove this on"
    ]
    assert [(it.value, it.time, it.evidence) for it in after] == [
        (it.value, it.time, it.evidence) for it in before
    ]
    assert written[RESEND_IS_SAFE].time == before[1].time


async def test_what_an_operator_declared_stays_where_nothing_could_be_shown(place: Place) -> None:
    vendor = ProvableVendor(**{RESEND_IS_SAFE: has_no_account})
    declared = Promise(RESEND_IS_SAFE, True, PromiseSource.DECLARED, evidence="seen by us")
    async with open_house(place, vendor, promises={}) as house:
        house.link.declared = {RESEND_IS_SAFE: declared}
        (_, promise) = await house.engine.prove(TENANT, "main")
        assert await shown(house) == declared
        assert RESEND_IS_SAFE not in await rows(house)

    assert (promise.value, promise.source) == (True, PromiseSource.DECLARED)
    assert promise.not_shown != ""


async def test_a_vendor_that_is_away_is_not_asked_for_every_promise(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = ProvableVendor(**{ECHO: finds_nobody})
    async with open_house(place, vendor) as house:
        with caplog.at_level(logging.WARNING):
            proven = await house.engine.prove(TENANT, "main")
        assert await mode(house) is RecoveryMode.SAFE_RESEND

    assert vendor.proven == [ECHO]
    assert {promise.not_shown for promise in proven} == {
        "the proof was broken off: PROVIDER_UNREACHABLE"
    }
    assert "PROVIDER_UNREACHABLE" in caplog.text


async def test_a_bug_of_an_adapter_says_nothing_about_its_vendor(place: Place) -> None:
    vendor = ProvableVendor(**{RESEND_IS_SAFE: has_a_bug})
    async with open_house(place, vendor) as house:
        with pytest.raises(KeyError):
            await house.engine.prove(TENANT, "main")
        assert await mode(house) is RecoveryMode.SAFE_RESEND


async def test_two_wishes_for_a_proof_are_one_proof(place: Place) -> None:
    go = asyncio.Event()

    async def waits() -> str:
        await go.wait()
        return await holds()

    vendor = ProvableVendor(**{ECHO: waits})
    async with open_house(place, vendor) as house:
        callers = [asyncio.create_task(house.engine.prove(TENANT, "main")) for _ in range(2)]
        await until(lambda: vendor.proven == [ECHO])
        callers[0].cancel()
        go.set()
        proven = await callers[1]
        with pytest.raises(asyncio.CancelledError):
            await callers[0]

    assert [promise.value for promise in proven] == [True, True]
    assert vendor.proven == [ECHO, RESEND_IS_SAFE]


async def test_a_stop_ends_a_proof_that_runs(place: Place) -> None:
    async def waits() -> str:
        await asyncio.Event().wait()
        return "never"

    vendor = ProvableVendor(**{ECHO: waits})
    async with open_house(place, vendor) as house:
        caller = asyncio.create_task(house.engine.prove(TENANT, "main"))
        await until(lambda: vendor.proven == [ECHO])
        await house.stop()
        with pytest.raises(asyncio.CancelledError):
            await caller


async def test_a_connection_that_is_not_there_cannot_be_proven(place: Place) -> None:
    async with open_house(place) as house:
        error = await failure(house.engine.prove(TENANT, "elsewhere"))

    assert isinstance(error, LoyaltyError)
    assert error.reason is Reason.CONNECTION_NOT_FOUND


async def test_the_sandbox_proves_itself_at_its_start(place: Place) -> None:
    vendor = ProvableVendor(**{ECHO: is_broken})
    async with open_house(place, vendor, promises={}, starts=False) as house:
        await house.engine.start(proves_itself=True)
        assert await mode(house) is RecoveryMode.SAFE_RESEND
        written = await rows(house)

    assert {name: row.value for name, row in written.items()} == {
        RESEND_IS_SAFE: True,
        ECHO: False,
    }


async def test_the_sandbox_proves_again_what_a_vendor_that_was_away_could_not_show(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it comes back nothing is relied upon; and a journal that fails once ends nothing."""
    monkeypatch.setattr("loyalty_gateway.booking.promises._PROVE_AGAIN_S", 0.02)
    vendor = ProvableVendor(**dict.fromkeys((RESEND_IS_SAFE, ECHO), finds_nobody))
    async with open_house(place, vendor, promises={}, starts=False) as house:
        await house.engine.start(proves_itself=True)
        assert await mode(house) is RecoveryMode.MANUAL
        save, fails = house.journal.save_promise, [True]

        async def fails_once(tenant: str, row: PromiseRow) -> None:
            if fails:
                fails.pop()
                raise unavailable(OSError("the disk does not answer"))
            await save(tenant, row)

        monkeypatch.setattr(house.journal, "save_promise", fails_once)
        vendor.proofs.update(dict.fromkeys((RESEND_IS_SAFE, ECHO), holds))
        await until(lambda: house.link.promise(RESEND_IS_SAFE).value)
        await until(lambda: house.link.promise(ECHO).value)

        assert await mode(house) is RecoveryMode.SAFE_RESEND
        assert "could not be recorded" in caplog.text


async def test_a_replica_hears_of_what_another_one_saw_broken(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loyalty_gateway.booking.promises._REFRESH_S", 0.02)
    async with (
        open_house(postgres_dsn, ProvableVendor(), boot_id="boot-a", promises={}) as first,
        open_house(postgres_dsn, ProvableVendor(), boot_id="boot-b", promises={}) as second,
    ):
        await first.engine.prove(TENANT, "main")
        await until(lambda: second.link.promise(RESEND_IS_SAFE).value)
        await first.journal.save_promise(
            TENANT,
            PromiseRow(
                "main", RESEND_IS_SAFE, first.link.target_hash, False, datetime.now(UTC), "broken"
            ),
        )
        await until(lambda: not second.link.promise(RESEND_IS_SAFE).value)
        assert await mode(second) is RecoveryMode.MANUAL


async def test_two_replicas_are_never_at_a_proof_of_one_connection_at_once(
    postgres_dsn: str,
) -> None:
    at_it: list[str] = []
    most = 0

    async def counts_who_is_at_it() -> str:
        nonlocal most
        at_it.append("")
        most = max(most, len(at_it))
        await asyncio.sleep(0.05)
        at_it.pop()
        return "sent twice, booked once"

    proofs = {RESEND_IS_SAFE: counts_who_is_at_it, ECHO: counts_who_is_at_it}
    vendors = [ProvableVendor(**proofs) for _ in range(3)]
    async with AsyncExitStack() as stack:
        houses = [
            await stack.enter_async_context(
                open_house(postgres_dsn, vendor, boot_id=f"boot-{number}", promises={})
            )
            for number, vendor in enumerate(vendors)
        ]
        shown = await asyncio.gather(*(it.engine.prove(TENANT, "main") for it in houses))
        # Clocks of replicas differ by what a read of the database's takes.
        houses[0].journal.ahead = timedelta(minutes=1)
        again = await houses[0].engine.prove(TENANT, "main")

    assert most == 1
    assert [[it.value for it in promises] for promises in shown] == [[True, True]] * 3
    # Whoever was asked after the others had begun proves anew.
    assert again[0].time is not None
    assert all(promises[0].time is not None for promises in shown)
    assert again[0].time > max(it[0].time for it in shown if it[0].time is not None)


@pytest.mark.parametrize(
    ("ahead", "proven_anew"), [(timedelta(hours=1), []), (-timedelta(hours=1), [ECHO, RESEND])]
)
async def test_what_another_replica_began_to_prove_after_the_wish_is_not_proven_again(
    postgres_dsn: str, ahead: timedelta, proven_anew: list[str]
) -> None:
    other = ProvableVendor()
    async with (
        open_house(postgres_dsn, ProvableVendor(), boot_id="boot-a", promises={}) as first,
        open_house(postgres_dsn, other, boot_id="boot-b", promises={}) as second,
    ):
        # As if the first one had been at it after, or before, the second one was asked.
        first.journal.ahead = ahead
        await first.engine.prove(TENANT, "main")
        promises = await second.engine.prove(TENANT, "main")

    assert other.proven == proven_anew
    assert [it.name for it in promises if it.value] == [ECHO, RESEND]


async def test_a_proof_is_remembered_for_the_target_it_was_made_on(place: Place) -> None:
    row = PromiseRow(
        "main",
        RESEND_IS_SAFE,
        KEYRING.target_hash(FakeVendor().target),
        True,
        datetime(2026, 11, 21, tzinfo=UTC),
        "seen",
    )
    async with open_house(place, promises={}) as house:
        await house.journal.save_promise(TENANT, row)
    async with open_house(place, promises={}) as house:
        known = house.link.promise(RESEND_IS_SAFE)
    moved = FakeVendor(target="https://vendor.test|credential-2")
    async with open_house(place, moved, promises={}) as house:
        unknown = house.link.promise(RESEND_IS_SAFE)

    assert (known.value, known.source) == (True, PromiseSource.PROVEN)
    assert (unknown.value, unknown.source) == (False, PromiseSource.DEFAULT)
