"""One reference of a vendor is one booking's; who claims another's ends with it at a person's."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import Operation, Order, Reference
from loyalty_gateway.journal.writer import Change, Opening
from tests.booking.house import HookedJournal
from tests.journal.rows import TENANT, a_booking, moved, open_journal, opened, succeeded
from tests.journal.test_writer import queued
from tests.postgres import Place

R1 = Reference("receipt", "R-1")


@pytest.fixture
async def journal(place: Place) -> AsyncIterator[HookedJournal]:
    async with open_journal(place) as journal:
        yield journal


def claiming(booking: Booking, reference: Reference = R1) -> Change:
    change = succeeded(booking)
    after = replace(change.after, references=(reference,))
    return replace(change, after=after, claims=reference)


async def now(journal: HookedJournal, booking: Booking) -> Booking:
    found = await journal.find(TENANT, booking_id=booking.booking_id)
    assert found is not None
    return found


async def test_a_settle_makes_its_reference_the_bookings(journal: HookedJournal) -> None:
    booking = await opened(journal)

    assert await journal.change(claiming(booking))
    found = await journal.find_by_reference(TENANT, "main", "receipt", "R-1")
    assert found is not None and found.booking_id == booking.booking_id
    assert await journal.find_by_reference(TENANT, "main", "receipt", "R-2") is None
    assert await journal.find_by_reference(TENANT, "second", "receipt", "R-1") is None
    assert await journal.find_by_reference("another", "main", "receipt", "R-1") is None


@pytest.mark.parametrize("together", [True, False])
async def test_two_bookings_with_one_reference_both_become_a_persons(
    journal: HookedJournal, together: bool
) -> None:
    first, second, neighbour = [await opened(journal) for _ in range(3)]
    other = claiming(neighbour, Reference("receipt", "R-2"))
    if together:
        landed = await queued(
            journal,
            journal.change(claiming(first)),
            journal.change(claiming(second)),
            journal.change(other),
        )
    else:
        landed = [
            await journal.change(claiming(first)),
            await journal.change(claiming(second)),
            await journal.change(other),
        ]

    assert landed == [True, False, True]
    stand = [await now(journal, booking) for booking in (first, second, neighbour)]
    review = State.NEEDS_REVIEW
    assert [it.state for it in stand] == [review, review, State.SUCCEEDED]
    assert [it.reason for it in stand[:2]] == [Reason.PROVIDER_KEY_CONFLICT] * 2
    assert stand[0].answer_bytes == b"answer", "what was told once is told for ever"
    assert stand[1].references == (R1,), "the evidence is kept"
    assert not stand[1].is_answered, "and what its caller was never told is no answer"
    history, _ = await journal.story(TENANT, first.booking_id)
    assert second.booking_id in history[-1].note
    history, _ = await journal.story(TENANT, second.booking_id)
    assert first.booking_id in history[-1].note
    assert journal.is_healthy


async def test_a_booking_may_claim_its_own_reference_again(journal: HookedJournal) -> None:
    booking = await opened(journal)
    first = claiming(booking)
    assert await journal.change(first)
    undone = moved(first.after, State.SUCCEEDED)

    assert await journal.change(replace(undone, claims=R1))
    assert (await now(journal, booking)).state is State.SUCCEEDED


async def test_a_settle_that_does_not_land_claims_nothing(journal: HookedJournal) -> None:
    booking = await opened(journal)
    assert await journal.change(moved(booking, State.IN_DOUBT))

    assert not await journal.change(claiming(booking))
    assert await journal.find_by_reference(TENANT, "main", "receipt", "R-1") is None


async def test_a_reference_of_a_booking_that_ended_without_effect_stays_with_it(
    journal: HookedJournal,
) -> None:
    first, second = await opened(journal), await opened(journal)
    declined = replace(moved(first, State.DECLINED, status_bytes=b"no"), claims=R1)
    assert await journal.change(declined)

    assert not await journal.change(claiming(second))
    assert (await now(journal, first)).state is State.DECLINED
    assert (await now(journal, second)).state is State.NEEDS_REVIEW


@pytest.mark.parametrize("length", [200, 201, 5_000])
async def test_a_reference_may_be_of_any_length(journal: HookedJournal, length: int) -> None:
    long = Reference("receipt", "7" * length)
    booking, other = await opened(journal), await opened(journal)
    assert await journal.change(claiming(booking, long))
    assert await journal.change(claiming(other, Reference("receipt", "7" * (length - 1) + "8")))

    found = await journal.find_by_reference(TENANT, "main", "receipt", "7" * length)
    assert found is not None and found.booking_id == booking.booking_id


# --- undo and holds -----------------------------------------------------------------------------


async def test_what_follows_a_booking_is_found_oldest_first(journal: HookedJournal) -> None:
    original = await opened(journal)
    tip = await opened(journal, original_booking=original.name)
    undo = await opened(journal, original_booking=original.name)
    await opened(journal, original_booking="bookings/another")

    following = await journal.following(TENANT, [original.name])
    assert [it.booking_id for it in following] == [tip.booking_id, undo.booking_id]
    assert await journal.following(TENANT, []) == ()
    assert await journal.following("another", [original.name]) == []


def an_undo(original: Booking) -> Booking:
    operation = Operation.REVERSE_POINTS
    return a_booking(
        operation=operation,
        order=Order(operation, asked=original.asked),
        original_booking=original.name,
    )


async def test_a_booking_may_hold_its_account_from_its_first_moment_on(
    journal: HookedJournal,
) -> None:
    first, second, other = a_booking(), a_booking(), a_booking(account_hash=b"another")
    results = await queued(
        journal,
        journal.open(Opening(first, "caller", holds_account=True)),
        journal.open(Opening(second, "caller", holds_account=True)),
        journal.open(Opening(other, "caller", holds_account=True)),
    )
    plain = await journal.open(Opening(a_booking(), "caller"))
    undo = await journal.open(Opening(an_undo(first), "caller"))

    assert [(it.is_new, it.is_held) for it in results] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert plain.is_held
    assert undo.is_new, "an undo passes"
    settle = replace(succeeded(first), holds_account=False)
    assert await journal.change(settle)
    again = await journal.open(Opening(second, "caller", holds_account=True))
    assert again.is_new


async def test_of_two_replicas_one_holds_an_account(postgres_dsn: str) -> None:
    async with (
        open_journal(postgres_dsn) as one,
        open_journal(postgres_dsn, boot_id="boot-2") as two,
    ):
        for number in range(20):
            account = f"account-{number:04}".encode()
            opened_ = await asyncio.gather(
                *(
                    journal.open(
                        Opening(a_booking(account_hash=account), "caller", holds_account=True)
                    )
                    for journal in (one, two)
                )
            )
            assert sorted(it.is_new for it in opened_) == [False, True]
            assert sorted(it.is_held for it in opened_) == [False, True]
        holds = await one.on_the_writers_connection(
            lambda it: it.execute(text("SELECT count(*) FROM account_hold")).scalar_one()
        )

    assert holds == 20


async def test_our_bookings_are_named_by_a_vendors_references_that_are_theirs(
    journal: HookedJournal,
) -> None:
    short, long = Reference("receipt", "R-1"), Reference("receipt", "R" * 300)
    first, second = [await opened(journal) for _ in range(2)]
    await journal.change(claiming(first, short))
    await journal.change(claiming(second, long))
    asked = (short, long, Reference("receipt", "R-9"), Reference("order", "R-1"))

    assert await journal.names_behind(TENANT, "main", asked) == {
        short.value: first.name,
        long.value: second.name,
    }
    assert await journal.names_behind(TENANT, "second", asked) == {}
    assert await journal.names_behind(TENANT, "main", ()) == {}


async def test_a_claim_that_fails_for_another_reason_is_told_so_and_claims_nothing(
    journal: HookedJournal,
) -> None:
    """An OK without an answer is refused by the database; nobody holds the reference."""
    booking = await opened(journal)
    change = claiming(booking)
    broken = replace(change, after=replace(change.after, answer_bytes=None))
    with pytest.raises(RuntimeError, match="nobody holds"):
        await journal.change(broken)

    assert await now(journal, booking) == booking
    assert await journal.find_by_reference(TENANT, "main", "receipt", "R-1") is None
    assert await journal.change(change), "the writer goes on"
