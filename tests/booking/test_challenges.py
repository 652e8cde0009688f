"""Codes are sent once, whoever asks, and whatever becomes of the answer."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loyalty_gateway.booking.calls import (
    AccountKey,
)
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Destination,
    Issued,
    Person,
)
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.journal import Challenge, ChallengeState
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import (
    CodeWish,
    ProviderError,
    StatusRow,
)
from tests.booking.codes import (
    EMAIL,
    PHONE,
    CodeVendor,
    Sending,
    a_code,
    a_wish,
    breaks,
    create,
    create_fails,
    fails,
    sends,
    state,
)
from tests.booking.house import (
    BRIEF_S,
    CARD,
    KEYRING,
    TENANT,
    failure,
    open_house,
    until,
)
from tests.postgres import Place


async def loses_the_answer(wish: CodeWish) -> Issued:
    raise ProviderError(StatusRow(Reason.PROVIDER_INTERNAL), "no answer", rule="time-out")


# --- a code is sent once ----------------------------------------------------------------------


async def test_a_code_is_sent_to_where_the_caller_says(place: Place) -> None:
    vendor = CodeVendor()
    person = Person(given_name="Jane", phone=PHONE)
    async with open_house(place, vendor) as house:
        issued = await create(house, purpose=ChallengePurpose.SIGN_UP, person=person, fault="slow")

    (wish,) = vendor.wishes
    assert (wish.purpose, wish.destination) == (ChallengePurpose.SIGN_UP, Destination(phone=PHONE))
    assert (wish.person, wish.fault) == (person, "slow")
    assert "link-0001" not in wish.outbound_id
    assert issued.masked_destination == "•" * 8 + "0001"
    assert issued.expire_time is not None and issued.expire_time > datetime.now(UTC)


async def test_a_repeat_answers_the_same_token_and_sends_no_second_code(place: Place) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        first = await create(house)
        again = await create(house)
    async with open_house(place, vendor, boot_id="boot-2") as house:
        after_a_restart = await create(house)

    assert first == again == after_a_restart
    assert len(vendor.wishes) == 1


async def test_many_at_once_are_one_code(place: Place) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        issued = await asyncio.gather(*(create(house) for _ in range(20)))

    assert len(vendor.wishes) == 1
    assert len({each.challenge_token for each in issued}) == 1


async def test_many_at_once_over_two_replicas_are_one_code(postgres_dsn: str) -> None:
    vendor = CodeVendor()
    async with (
        open_house(postgres_dsn, vendor, boot_id="boot-a") as first,
        open_house(postgres_dsn, vendor, boot_id="boot-b") as second,
    ):
        issued = await asyncio.gather(
            *(create((first, second)[number % 2]) for number in range(20))
        )

    assert len(vendor.wishes) == 1
    assert len({each.challenge_token for each in issued}) == 1


OTHERS: tuple[dict[str, Any], ...] = (
    {"phone": "+41790000002"},
    {"phone": "", "email": EMAIL},
    {"purpose": ChallengePurpose.LOG_IN},
    {"person": Person(given_name="Jane")},
    {"phone": "", "account": AccountKey("main", plain_id=CARD)},
)


@pytest.mark.parametrize("other", OTHERS, ids=[next(iter(it)) + str(len(it)) for it in OTHERS])
async def test_a_request_id_belongs_to_one_challenge(place: Place, other: dict[str, Any]) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        await create(house)
        error = await create_fails(house, **other)

    assert error.reason is Reason.REQUEST_ID_REUSED
    assert error.fate is None
    assert len(vendor.wishes) == 1


async def test_another_wish_while_a_code_is_on_its_way_is_refused_at_once(place: Place) -> None:
    go = asyncio.Event()

    async def waits(wish: CodeWish) -> Issued:
        await go.wait()
        return await sends(wish)

    vendor = CodeVendor(waits)
    async with open_house(place, vendor) as house:
        caller = asyncio.create_task(create(house))
        await until(lambda: len(vendor.wishes) == 1)
        error = await create_fails(house, phone="+41790000002")
        go.set()
        await caller

    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_an_account_by_id_and_by_token_is_the_same_challenge(place: Place) -> None:
    vendor = CodeVendor()
    token = AccountKey("main", token=KEYRING.token(TENANT, "main", CARD))
    async with open_house(place, vendor) as house:
        first = await create(house, phone="", account=AccountKey("main", plain_id=CARD))
        again = await create(house, phone="", account=token)

    assert first == again
    assert vendor.wishes[0].destination == Destination(account_id=CARD)
    assert first.masked_destination == "•" * 12 + CARD[-4:]


async def test_a_booking_may_have_the_same_request_id_and_has_another_outbound_id(
    place: Place,
) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        await create(house, "sale-0001")
        await house.book("sale-0001")

    assert vendor.wishes[0].outbound_id != vendor.effects[0].outbound_id


async def test_after_its_life_a_request_id_may_be_taken_anew(place: Place) -> None:
    async def sends_for_a_moment(wish: CodeWish) -> Issued:
        return Issued("vr_1", datetime.now(UTC) + timedelta(milliseconds=20))

    vendor = CodeVendor(sends_for_a_moment, sends)
    async with open_house(place, vendor) as house:
        first = await create(house)
        assert first.expire_time is not None
        end = first.expire_time
        await until(lambda: house.journal.now() > end)
        second = await create(house)

    assert len(vendor.wishes) == 2
    assert first.challenge_token != second.challenge_token


async def test_a_challenge_of_which_the_vendor_tells_no_end_lives_as_long_as_configured(
    place: Place,
) -> None:
    async def sends_without_an_end(wish: CodeWish) -> Issued:
        return Issued("vr_1")

    limits = Limits(challenge_life_s=120)
    async with open_house(place, CodeVendor(sends_without_an_end), limits=limits) as house:
        before = house.journal.now()
        issued = await create(house)

    assert issued.expire_time is not None
    assert timedelta(seconds=119) < issued.expire_time - before < timedelta(seconds=125)


# --- an answer is lost ------------------------------------------------------------------------


async def cancels_itself(wish: CodeWish) -> Issued:
    raise asyncio.CancelledError


async def answers_with_an_endless_handle(wish: CodeWish) -> Issued:
    return Issued("h" * 4_000)


LOSSES = {
    "no answer": loses_the_answer,
    "an answer that nobody can read": fails(Reason.PROVIDER_ANSWER_UNREADABLE),
    "a code that no table lists": fails(Reason.PROVIDER_INTERNAL),
    "a refusal that proves nothing": fails(Reason.PROVIDER_REJECTED_ARGUMENT),
    "a bug": breaks,
    "a stray cancellation": cancels_itself,
    "a handle that nobody can bring back": answers_with_an_endless_handle,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
async def test_a_lost_answer_is_told_and_no_second_code_is_ever_sent(
    place: Place, loss: Sending
) -> None:
    vendor = CodeVendor(loss)
    async with open_house(place, vendor) as house:
        errors = [await create_fails(house) for _ in range(3)]
        assert await state(house) is ChallengeState.LOST

    assert len(vendor.wishes) == 1
    assert {error.reason for error in errors} == {Reason.PROVIDER_PENDING}
    assert {(error.fate, error.is_final) for error in errors} == {(Fate.UNKNOWN, False)}
    assert all("new one" in error.message for error in errors)
    assert all(error.is_retry_forbidden for error in errors)


async def test_where_a_code_needs_no_handle_a_lost_answer_can_still_be_used(place: Place) -> None:
    vendor = CodeVendor(loses_the_answer, needs_handle=False)
    async with open_house(place, vendor) as house:
        error = await create_fails(house)
        issued = await create(house)
        again = await create(house)
        verified = await house.engine.verify_challenge(a_code(issued))

    assert (error.reason, error.fate) == (Reason.PROVIDER_PENDING, Fate.UNKNOWN)
    assert "repeat this request_id" in error.message
    assert error.retry_after_s is not None
    assert issued == again
    assert len(vendor.wishes) == 1
    assert (vendor.checks[0].destination, vendor.checks[0].handle) == (Destination(phone=PHONE), "")
    assert verified.is_verified


async def test_a_vendor_that_takes_too_long_has_lost_its_answer(place: Place) -> None:
    async def never_answers(wish: CodeWish) -> Issued:
        await asyncio.Event().wait()
        raise AssertionError("nothing wakes it")

    vendor = CodeVendor(never_answers)
    async with open_house(place, vendor, limits=Limits(attempt_total_s=0.05)) as house:
        error = await create_fails(house)

    assert (error.reason, error.fate) == (Reason.PROVIDER_PENDING, Fate.UNKNOWN)


async def test_a_caller_who_leaves_breaks_nothing_off(place: Place) -> None:
    go = asyncio.Event()

    async def waits(wish: CodeWish) -> Issued:
        await go.wait()
        return await sends(wish)

    vendor = CodeVendor(waits)
    async with open_house(place, vendor) as house:
        caller = asyncio.create_task(create(house))
        await until(lambda: len(vendor.wishes) == 1)
        caller.cancel()
        impatient = await create_fails(house, within_s=BRIEF_S)
        go.set()
        issued = await create(house)

    assert (impatient.reason, impatient.fate) == (Reason.PROVIDER_PENDING, Fate.UNKNOWN)
    assert impatient.retry_after_s is not None
    assert issued.challenge_token != ""
    assert len(vendor.wishes) == 1


async def test_a_process_that_died_while_it_sent_has_lost_the_answer(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loyalty_gateway.booking.challenges._OTHERS_MARGIN_S", 0.1)
    monkeypatch.setattr("loyalty_gateway.booking.challenges._OTHERS_POLL_S", 0.01)

    async def never_answers(wish: CodeWish) -> Issued:
        await asyncio.Event().wait()
        raise AssertionError("nothing wakes it")

    vendor = CodeVendor(never_answers, sends)
    limits = Limits(attempt_total_s=0.2)
    async with open_house(place, vendor, limits=replace(limits, attempt_total_s=20)) as house:
        caller = asyncio.create_task(create(house))
        await until(lambda: len(vendor.wishes) == 1)
        await house.stop(timeout_s=0)
        await failure(caller)
    async with open_house(place, vendor, limits=limits, boot_id="boot-2") as house:
        assert await state(house) is ChallengeState.OPEN
        error = await create_fails(house)
        assert await state(house) is ChallengeState.LOST

    assert (error.reason, error.fate) == (Reason.PROVIDER_PENDING, Fate.UNKNOWN)
    assert error.is_retry_forbidden
    assert len(vendor.wishes) == 1


async def test_a_code_that_was_sent_is_answered_even_where_its_end_cannot_be_written_down(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:

        async def settles_nothing(challenge: object) -> bool:
            raise LoyaltyError(Reason.JOURNAL_UNAVAILABLE, "the disk is full")

        monkeypatch.setattr(house.journal, "settle_challenge", settles_nothing)
        issued = await create(house)
        verified = await house.engine.verify_challenge(a_code(issued))

    assert verified.is_verified


async def test_nothing_is_sent_before_the_intent_is_on_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:

        async def opens_nothing(challenge: object) -> object:
            raise LoyaltyError(Reason.JOURNAL_UNAVAILABLE, "the disk is full")

        monkeypatch.setattr(house.journal, "open_challenge", opens_nothing)
        error = await create_fails(house)

    assert error.reason is Reason.JOURNAL_UNAVAILABLE
    assert vendor.wishes == []


async def test_nobody_who_has_gone_meanwhile_is_sent_a_code(place: Place) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        async with house.journal.writer_held():
            error = await create_fails(house, within_s=BRIEF_S)
        await until(lambda: not house.engine._challenges._flights)
        assert vendor.wishes == []
        issued = await create(house)

    assert (error.reason, error.fate) == (Reason.PROVIDER_PENDING, Fate.UNKNOWN)
    assert issued.challenge_token != ""
    assert len(vendor.wishes) == 1


# --- a code is not sent -----------------------------------------------------------------------


async def test_what_the_vendor_refuses_is_refused_again_without_asking_it(place: Place) -> None:
    refusing = fails(Reason.ACCOUNT_NOT_FOUND, Fate.NOT_EXECUTED, is_refusal=True)
    vendor = CodeVendor(refusing)
    async with open_house(place, vendor) as house:
        errors = [await create_fails(house) for _ in range(2)]

    assert {(it.reason, it.fate, it.is_final) for it in errors} == {
        (Reason.ACCOUNT_NOT_FOUND, Fate.NOT_EXECUTED, True)
    }
    assert len(vendor.wishes) == 1


async def test_a_code_that_provably_was_not_sent_may_be_asked_for_again(place: Place) -> None:
    vendor = CodeVendor(fails(Reason.PROVIDER_UNREACHABLE, Fate.NOT_EXECUTED), sends)
    async with open_house(place, vendor) as house:
        error = await create_fails(house)
        issued = await create(house)

    assert (error.reason, error.fate, error.is_final) == (
        Reason.PROVIDER_UNREACHABLE,
        Fate.NOT_EXECUTED,
        False,
    )
    assert error.retry_after_s is not None
    assert issued.challenge_token != ""
    assert len(vendor.wishes) == 2


async def test_a_code_that_another_replica_did_not_send_is_sent_by_the_one_that_waited(
    postgres_dsn: str,
) -> None:
    """The caller has left the first one, where the vendor was not reached, and repeats."""
    go = asyncio.Event()

    async def is_not_reached(wish: CodeWish) -> Issued:
        await go.wait()
        raise ProviderError(
            StatusRow(Reason.PROVIDER_UNREACHABLE, Fate.NOT_EXECUTED), "no", rule="refused"
        )

    vendor = CodeVendor(is_not_reached, sends)
    async with (
        open_house(postgres_dsn, vendor, boot_id="boot-a") as first,
        open_house(postgres_dsn, vendor, boot_id="boot-b") as second,
    ):
        early = asyncio.create_task(create(first))
        await until(lambda: len(vendor.wishes) == 1)
        # Clocks of replicas differ by what a read of the database's takes.
        second.journal.ahead = timedelta(seconds=5)
        late = asyncio.create_task(create(second))
        await asyncio.sleep(0.3)
        go.set()
        error = await failure(early)
        issued = await late

    assert (error.reason, error.is_final) == (Reason.PROVIDER_UNREACHABLE, False)
    assert issued.challenge_token
    assert len(vendor.wishes) == 2


async def test_what_the_vendor_cannot_do_is_refused_without_asking_it(place: Place) -> None:
    async with open_house(place) as house:
        error = await create_fails(house)

    assert error.reason is Reason.CAPABILITY_NOT_SUPPORTED


async def test_a_field_that_the_vendor_needs_is_asked_for_without_asking_the_vendor(
    place: Place,
) -> None:
    vendor = CodeVendor(needed_fields=("phone", "profile.given_name"))
    async with open_house(place, vendor) as house:
        error = await create_fails(house, filled_fields=frozenset({"phone"}))

    assert error.reason is Reason.FIELD_REQUIRED_BY_PROVIDER
    assert [violation.field for violation in error.violations] == ["profile.given_name"]
    assert vendor.wishes == []


async def test_a_token_of_another_connection_is_no_destination(place: Place) -> None:
    vendor = CodeVendor()
    token = AccountKey("main", token=KEYRING.token(TENANT, "elsewhere", CARD))
    async with open_house(place, vendor) as house:
        error = await create_fails(house, phone="", account=token)

    assert error.reason is Reason.REQUEST_INVALID
    assert vendor.wishes == []


async def test_a_paused_connection_sends_no_code_and_answers_a_known_challenge(
    place: Place,
) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        first = await create(house)
        house.link.is_paused = True
        again = await create(house)
        error = await create_fails(house, "link-0002")

    assert first == again
    assert (error.reason, error.fate) == (Reason.CONNECTION_PAUSED, Fate.NOT_EXECUTED)
    assert len(vendor.wishes) == 1


async def test_a_challenge_that_another_process_has_under_way_is_told_while_none_is_sent_here(
    place: Place,
) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor, is_paused=True) as house:
        wish = house.engine._challenges._wish(a_wish())
        await house.journal.open_challenge(wish.challenge)
        error = await create_fails(house)

    assert (error.reason, error.fate) == (Reason.PROVIDER_PENDING, Fate.UNKNOWN)
    assert not error.is_retry_forbidden
    assert vendor.wishes == []


async def test_a_challenge_whose_row_is_gone_while_it_is_waited_for_is_not_sent_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expired and was cleared away; nobody knows here whether its code was sent."""
    monkeypatch.setattr("loyalty_gateway.booking.challenges._OTHERS_POLL_S", 0.01)
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        wish = house.engine._challenges._wish(a_wish())
        await house.journal.open_challenge(wish.challenge)
        find = house.journal.find_challenge

        async def finds_it_gone(tenant: str, request_id: str) -> Challenge | None:
            await house.journal.on_the_writers_connection(
                lambda connection: connection.execute(schema.challenge.delete())
            )
            return await find(tenant, request_id)

        monkeypatch.setattr(house.journal, "find_challenge", finds_it_gone)
        error = await create_fails(house)

    assert error.reason is Reason.PROVIDER_PENDING
    assert vendor.wishes == []


async def test_a_challenge_sealed_under_a_key_that_is_gone_asks_for_a_new_request_id(
    place: Place,
) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        await create(house)
    rotated = Keyring([("k2", b"t" * 32)], b"p" * 32)
    async with open_house(place, vendor, keyring=rotated) as house:
        error = await create_fails(house)

    assert error.reason is Reason.CODE_EXPIRED
    assert "new request_id" in error.message
    assert len(vendor.wishes) == 1


async def test_a_server_that_stops_sends_no_code_and_answers_a_known_challenge(
    place: Place,
) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        first = await create(house)
        house.engine.drain()
        again = await create(house)
        reused = await create_fails(house, phone="+41790000002")
        error = await create_fails(house, "link-0002")

    assert first == again
    assert reused.reason is Reason.REQUEST_ID_REUSED
    assert (error.reason, error.fate) == (Reason.DRAINING, Fate.NOT_EXECUTED)
    assert len(vendor.wishes) == 1


async def test_too_little_time_and_too_many_at_once_are_refused_unsent(place: Place) -> None:
    go = asyncio.Event()

    async def waits(wish: CodeWish) -> Issued:
        await go.wait()
        return await sends(wish)

    vendor = CodeVendor(waits)
    async with open_house(place, vendor, limits=Limits(in_flight_max=1)) as house:
        late = await create_fails(house, "link-0003", within_s=0.1)
        caller = asyncio.create_task(create(house))
        await until(lambda: len(vendor.wishes) == 1)
        crowded = await create_fails(house, "link-0002")
        go.set()
        await caller

    assert late.reason is Reason.DEADLINE_TOO_SHORT
    assert crowded.reason is Reason.OVERLOADED
    assert len(vendor.wishes) == 1


async def test_a_stop_waits_for_a_code_that_is_on_its_way(place: Place) -> None:
    go = asyncio.Event()

    async def waits(wish: CodeWish) -> Issued:
        await go.wait()
        return await sends(wish)

    vendor = CodeVendor(waits)
    async with open_house(place, vendor) as house:
        caller = asyncio.create_task(create(house))
        await until(lambda: len(vendor.wishes) == 1)
        stopping = asyncio.create_task(house.stop())
        go.set()
        await stopping
        issued = await caller
    async with open_house(place, vendor) as house:
        assert await create(house) == issued
