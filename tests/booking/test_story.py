"""A booking's story, read by somebody who was woken at night: who, what, and what comes next."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import NoReturn

import pytest
from sqlalchemy import Connection

from loyalty_gateway.booking.calls import AccountKey, BookingKey, Decision
from loyalty_gateway.booking.story import _FAULTS
from loyalty_gateway.domain.booking import OWN_UNDO, State, Story, WhoseFault
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import Operation, Receipt
from loyalty_gateway.providers.port import (
    Candidate,
    Finding,
    ProviderError,
    Question,
    StatusRow,
)
from tests.booking.house import CARD, QUICK, TENANT, House, failure, open_house, until
from tests.booking.stages import (
    BOOKED,
    NOT_BOOKED,
    crashed_while_resending,
    crashed_while_sending,
    doubt,
    kicked_to,
    resolve,
)
from tests.booking.undoing import a_house, a_vendor
from tests.booking.vendor import (
    ASKED,
    QUERY_ANSWERS,
    RESENT,
    FakeVendor,
    Gate,
    Reply,
    books,
    breaks,
    contradicts,
    contradicts_the_question,
    is_not_reached,
    is_silent,
    limits_the_rate,
    loses_the_answer,
    loses_the_request,
    refuses,
)
from tests.journal.rows import lengthening
from tests.postgres import Place


async def told(house: House, request_id: str = "sale-0001") -> Story:
    story = await house.engine.explain(TENANT, BookingKey(request_id=request_id))
    times = [step.time for step in story.steps]
    assert times == sorted(times), "a story is told in order"
    assert CARD not in str(story), "no account id is shown"
    return story


def lines(story: Story) -> list[str]:
    return [step.text for step in story.steps]


def has(line: str, *words: str) -> None:
    for word in words:
        assert word in line, f"{word!r} is missing in: {line}"


async def test_a_plain_success_is_three_lines_and_nobodys_fault(place: Place) -> None:
    async with open_house(place) as house:
        await house.book()
        story = await told(house)

    written, sent, done = lines(story)
    has(written, "SENDING", "DebitBalance", "10.00 CHF", "••••1234", "main", "before anything was")
    has(sent, "Attempt 1", "fakevendor", "HTTP 200", "it was booked", "200, complete")
    has(done, "SUCCEEDED", "vendor confirmed")
    assert story.whose_fault is WhoseFault.NOBODY
    assert "done" in story.next_step
    assert story.next_time is None
    (attempt,) = [step.attempt for step in story.steps if step.attempt]
    assert (attempt.request_text, attempt.answer_text) == ("POST /book", "200 booked")


async def test_a_refusal_names_the_vendors_code_and_says_that_nothing_was_booked(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(refuses())) as house:
        await house.fails()
        story = await told(house)

    _, sent, done = lines(story)
    has(sent, "HTTP 422", "insufficient_balance", "booked nothing", "rule: refusal")
    has(done, "DECLINED", "refused")
    assert story.whose_fault is WhoseFault.CALLER
    has(story.next_step, "Nothing", "nothing was booked")


async def test_a_lost_answer_that_was_found_tells_every_try_in_its_order(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, is_not_reached, books)
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.book()
        story = await told(house)

    told_lines = lines(story)
    starts = [line.split(":")[0].split(" was ")[0].split(" did ")[0] for line in told_lines]
    assert starts == [
        "SENDING",
        "Attempt 1",
        "IN_DOUBT",
        "IN_DOUBT",
        "IN_DOUBT",
        "Attempt 2",
        "IN_DOUBT",
        "IN_DOUBT",
        "IN_DOUBT",
        "Attempt 3",
        "SUCCEEDED",
    ]
    has(told_lines[1], "no HTTP answer", "proves nothing", "read time-out")
    has(told_lines[3], "taken up", "recovery")
    has(told_lines[4], "again", "same id", "recovery")
    has(told_lines[5], "did not leave again", "booked nothing", "connect refused")
    has(told_lines[9], "sent again", "HTTP 200", "it was booked")
    has(told_lines[10], "found to have been booked", "recovery")
    assert story.whose_fault is WhoseFault.PROVIDER


async def test_a_doubt_says_what_happens_next_and_when(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        await doubt(house)
        story = await told(house)
        booking = await house.get()

    has(lines(story)[-1], "IN_DOUBT", "proves nothing")
    has(story.next_step, "sends the same booking again", "same id")
    assert story.next_time == booking.next_attempt_time
    assert story.next_time is not None
    assert story.whose_fault is WhoseFault.PROVIDER


async def test_a_refused_resend_does_not_make_the_doubt_the_callers_fault(place: Place) -> None:
    policy = replace(QUICK, schedule_s=(0.01, 3_600))
    vendor = FakeVendor(loses_the_answer, refuses())
    async with open_house(place, vendor, policy=policy) as house:
        caller = house.booking_task()

        async def was_sent_again() -> bool:
            booking = await house.find()
            return booking is not None and booking.attempt_count == 2 and not booking.attempt_open

        await until(was_sent_again)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        story = await told(house)

    has(lines(story)[-2], "HTTP 422", "this attempt booked nothing")
    has(lines(story)[-1], "IN_DOUBT", "not known")
    assert story.whose_fault is WhoseFault.PROVIDER


@pytest.mark.parametrize("is_contradiction", [True, False])
async def test_a_review_tells_a_person_what_to_compare_and_which_command_records_it(
    place: Place, is_contradiction: bool
) -> None:
    vendor = FakeVendor(contradicts if is_contradiction else loses_the_answer)
    promises = None if is_contradiction else {"resend_is_safe": False}
    async with open_house(place, vendor, promises=promises) as house:
        await house.fails()
        story = await told(house)

    has(lines(story)[-1], "NEEDS_REVIEW", "person")
    has(story.next_step, "statement", "loyalty bookings resolve")
    assert story.next_time is None


async def test_an_operators_finding_is_told_with_name_and_evidence(place: Place) -> None:
    async with open_house(place, FakeVendor(contradicts)) as house:
        await house.fails()
        await resolve(house, BOOKED)
        story = await told(house)

    has(lines(story)[-1], "SUCCEEDED", "operator anna", "seen at the vendor", "statement line 7")


async def test_a_tombstone_tells_that_the_cancel_came_first(place: Place) -> None:
    async with open_house(place) as house:
        await house.cancel()
        await house.fails()
        story = await told(house)

    (line,) = lines(story)
    has(line, "NOT_EXECUTED", "before the original arrived", "CancelBooking", "caller")
    has(story.next_step, "closed", "nothing was booked")
    assert story.booking.is_tombstone
    assert story.whose_fault is WhoseFault.CALLER


async def test_what_may_be_repeated_says_so_and_until_when(place: Place) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails()
        story = await told(house)
        closed = await house.cancel()
        afterwards = await told(house)

    has(lines(story)[1], "did not leave for fakevendor", "booked nothing", "connect refused")
    has(story.next_step, "Nothing is booked", "repeat the same request_id", "closed")
    assert story.next_time is not None
    has(lines(afterwards)[-1], "NOT_EXECUTED", "CancelBooking", "caller")
    assert closed.state is State.NOT_EXECUTED


async def test_a_spent_rate_limit_was_answered_and_is_the_vendors(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(7))) as house:
        await house.fails()
        story = await told(house)

    has(lines(story)[1], "was sent to", "HTTP 429", "booked nothing")
    assert story.whose_fault is WhoseFault.PROVIDER


async def test_a_caller_who_left_is_told_as_a_send_that_did_not_leave(place: Place) -> None:
    async with open_house(place) as house:
        is_open, may_go = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            is_open.set()
            await may_go.wait()

        house.journal.after_open = hold
        caller = house.booking_task()
        await is_open.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        may_go.set()
        await house.becomes(State.RESERVED)
        story = await told(house)

    has(lines(story)[1], "did not leave for fakevendor", "the caller had left before")
    assert story.whose_fault is WhoseFault.CALLER


async def test_a_bug_of_ours_is_ours_and_shows_nothing_of_itself(place: Place) -> None:
    async with open_house(place, FakeVendor(breaks)) as house:
        await doubt(house)
        story = await told(house)

    assert story.whose_fault is WhoseFault.GATEWAY
    assert "secret" not in str(story)


async def test_a_process_that_died_while_sending_is_told_where_it_happened(
    place: Place,
) -> None:
    vendor = await crashed_while_sending(place, loses_the_answer)
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.becomes(State.SUCCEEDED)
        story = await told(house)

    told_lines = lines(story)
    has(told_lines[0], "SENDING", "before anything was sent")
    ended = next(line for line in told_lines if line.startswith("Attempt 1"))
    has(ended, "proves nothing", "no recorded end")
    doubted = next(line for line in told_lines if line.startswith("IN_DOUBT"))
    # In a file it must be gone; elsewhere its lease tells.
    has(doubted, "its lease ran out" if isinstance(place, str) else "the process that sent it is")
    has(told_lines[-2], "Attempt 2", "HTTP 200")
    has(told_lines[-1], "SUCCEEDED")
    assert story.whose_fault is WhoseFault.GATEWAY


async def test_a_process_that_died_while_resending_is_told_where_it_happened(
    place: Place,
) -> None:
    await crashed_while_resending(place)
    vendor = FakeVendor(loses_the_request)
    async with open_house(place, vendor, policy=QUICK) as house:
        await kicked_to(house, State.SUCCEEDED)
        story = await told(house)

    told_lines = lines(story)
    numbers = [line.split()[1] for line in told_lines if line.startswith("Attempt")]
    assert numbers == ["1", "2", "3", "4"]
    doubts = [line for line in told_lines if "recorded end" in line or "sends it again" in line]
    for line, words in zip(
        doubts[:3],
        ("sends it again under the same id", "no recorded end", "sends it again"),
        strict=True,
    ):
        has(line, words)


@pytest.mark.parametrize(
    ("decision", "state"), [(BOOKED, State.REVERSED), (NOT_BOOKED, State.SUCCEEDED)]
)
async def test_what_is_undone_says_that_a_person_has_to_decide_about_its_undo(
    place: Place, decision: Decision, state: State
) -> None:
    async with a_house(place, a_vendor(books, loses_the_answer), promises={}) as house:
        await house.book()
        await failure(house.undo())
        undo = await house.get("undo-0001")
        waiting = await told(house)
        await resolve(house, decision, request_id="undo-0001")
        after = await told(house)

    assert (waiting.booking.state, undo.state) == (State.REVERSING, State.NEEDS_REVIEW)
    has(waiting.next_step, "waits for a person", undo.name, "`loyalty bookings resolve`")
    assert waiting.next_time is None, "no machine has a step to take"
    assert after.booking.state is state
    assert "person" not in after.next_step


async def test_what_is_undone_by_a_machine_waits_for_no_person(place: Place) -> None:
    gate = Gate()
    async with a_house(place, a_vendor(books, gate)) as house:
        await house.book()
        undoing = asyncio.create_task(house.undo())
        await gate.arrived.wait()
        story = await told(house)
        gate.go.set()
        await undoing

    assert story.booking.state is State.REVERSING
    has(story.next_step, "under way")
    assert "person" not in story.next_step
    assert story.next_time is not None


async def test_an_unknown_booking_has_no_story(place: Place) -> None:
    async with open_house(place) as house:
        error = await failure(house.engine.explain(TENANT, BookingKey(request_id="never-seen")))

    assert isinstance(error, LoyaltyError)
    assert error.reason is Reason.NOT_FOUND


def test_every_reason_is_somebodys_fault_or_openly_nobodys() -> None:
    assert set(_FAULTS) == set(Reason)
    assert set(_FAULTS.values()) == set(WhoseFault)


async def test_a_doubt_that_was_asked_about_tells_every_question_and_what_it_showed(
    place: Place,
) -> None:
    vendor = FakeVendor(
        loses_the_answer,
        offers={Operation.DEBIT_BALANCE: ASKED},
        answers=[
            answers_without_a_rule(Finding(is_pending=True)),
            answers_without_a_rule(Finding()),
            is_silent,
        ],
    )
    async with open_house(place, vendor, policy=QUICK, promises={QUERY_ANSWERS: True}) as house:
        await house.book()
        questions = [line for line in lines(await told(house)) if "whether it was booked" in line]

    pending, missing, silent, found = questions
    has(pending, "Attempt 2", "fakevendor", "proves nothing", "still works on it")
    has(missing, "proves nothing", "not found")
    has(silent, "no HTTP answer", "proves nothing", "read time-out")
    has(found, "it was (rule", "asked by our number")


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Finding(is_refused=True), "did not execute it"),
        (
            Finding((Candidate(Receipt()), Candidate(Receipt()))),
            "2 found",
        ),
    ],
    ids=["refused", "several"],
)
async def test_what_an_adapter_has_no_rule_for_is_told_in_our_words(
    place: Place, finding: Finding, words: str
) -> None:
    vendor = FakeVendor(
        loses_the_answer,
        offers={Operation.DEBIT_BALANCE: ASKED},
        answers=[answers_without_a_rule(finding)],
    )
    async with open_house(place, vendor, policy=QUICK, promises={QUERY_ANSWERS: True}) as house:
        await house.fails()
        question = next(it for it in lines(await told(house)) if "whether it was booked" in it)

    has(question, words)


def answers_without_a_rule(finding: Finding) -> Reply:
    async def reply(vendor: FakeVendor, question: Question) -> Finding:
        return finding

    return reply


async def test_a_question_that_only_a_person_can_judge_is_told_with_the_vendors_code(
    place: Place,
) -> None:
    vendor = FakeVendor(
        loses_the_answer,
        offers={Operation.DEBIT_BALANCE: ASKED},
        answers=[contradicts_the_question],
    )
    async with open_house(place, vendor, policy=QUICK, promises={QUERY_ANSWERS: True}) as house:
        await house.fails()
        (question,) = [line for line in lines(await told(house)) if "whether it was booked" in line]

    has(question, "Attempt 2", "code undone", "proves nothing")


async def test_no_answer_to_a_question_is_told_where_the_adapter_names_no_rule(
    place: Place,
) -> None:
    async def says_nothing(vendor: FakeVendor, question: Question) -> NoReturn:
        raise ProviderError(StatusRow(Reason.PROVIDER_INTERNAL), "no answer came", rule="")

    vendor = FakeVendor(
        loses_the_answer,
        offers={Operation.DEBIT_BALANCE: ASKED},
        answers=[says_nothing],
    )
    async with open_house(place, vendor, policy=QUICK, promises={QUERY_ANSWERS: True}) as house:
        await house.book()
        silent, found = [
            line for line in lines(await told(house)) if "whether it was booked" in line
        ]

    has(silent, "no HTTP answer", "rule: no answer")
    has(found, "it was (rule")


async def test_an_own_undo_that_did_not_leave_says_that_the_gateway_goes_on(place: Place) -> None:
    vendor = a_vendor(books, is_not_reached)
    async with a_house(place, vendor) as house:
        await house.book()
        await house.cancel()
        undo = f"{OWN_UNDO}{(await house.get()).booking_id}"
        await house.becomes(State.RESERVED, request_id=undo)
        story = await told(house, undo)

    has(story.next_step, "Nothing is undone so far", "by itself")
    has(lines(story)[0], "10.00 CHF", "for bookings/")


async def test_what_has_no_account_and_no_amount_is_told_without_them(place: Place) -> None:
    vendor = FakeVendor(offers={Operation.CREATE_CARD: RESENT})
    async with open_house(place, vendor) as house:
        await house.book(operation=Operation.CREATE_CARD, account=AccountKey("main"), asked=None)
        story = await told(house)

    has(lines(story)[0], "SENDING: Cards.CreateCard at main was written down")


@pytest.mark.parametrize(
    ("more", "missing"),
    [
        # What is told without a gap: fifty and a hundred and fifty.
        (198, None),
        (199, "on: 1 of 201 moves."),
        (200, "on: 2 of 202 moves and 1 of 201 attempts."),
        (3_000, "on: 2802 of 3002 moves and 2801 of 3001 attempts."),
    ],
)
async def test_a_long_story_says_how_much_of_its_middle_is_left_out(
    place: Place, more: int, missing: str | None
) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails()
        for statement in lengthening((await house.get()).booking_id, more):
            await house.journal.on_the_writers_connection(
                partial(Connection.exec_driver_sql, statement=statement)
            )
        story = await told(house)
        history, attempts = await house.story()

    assert (len(history), len(attempts)) == (more + 2, more + 1)
    gaps = [line for line in lines(story) if "Left out" in line]
    told_attempts = [step.attempt.number for step in story.steps if step.attempt]
    if missing is None:
        assert gaps == []
        assert told_attempts == [attempt.number for attempt in attempts]
    else:
        (gap,) = gaps
        has(gap, missing, "first 50", "last 150")
        has(lines(story)[0], "SENDING", "before anything was sent")
        has(lines(story)[-1], "RESERVED", f"again {more}")
        assert told_attempts[:1] == [1]
        assert told_attempts[-1:] == [more + 1]
        assert len(told_attempts) == 200
