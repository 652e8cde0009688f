"""What the domain says arrives on the wire whole, exact and with nothing added."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from google.type.money_pb2 import Money as MoneyMessage
from hypothesis import given
from hypothesis import strategies as st

from loyalty.v1 import (
    balance_pb2,
    bookings_pb2,
    cards_pb2,
    points_pb2,
    providers_pb2,
    types_pb2,
    wallets_pb2,
)
from loyalty_gateway.booking import calls
from loyalty_gateway.domain import booking as domain
from loyalty_gateway.domain import operations
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, MINOR_MAX, Money, Points
from loyalty_gateway.domain.booking import Attempt, AttemptKind, Intent, State, Step, Story
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Proves, Reason, Violation
from loyalty_gateway.domain.operations import (
    Balance,
    Operation,
    Order,
    PointsStatement,
    Transaction,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.rpc.catalog import SERVICES
from loyalty_gateway.rpc.codec import bookings, cards, providers, wallets
from loyalty_gateway.rpc.codec import types as wire_types
from loyalty_gateway.rpc.codec.answers import WireAnswerCodec
from loyalty_gateway.rpc.codec.types import decode_money, fill_money, fill_time
from tests.rpc.conftest import Door
from tests.rpc.fakes import BOOKING_ID, CARD, NOON, answer_with, redemption

ACCOUNT = types_pb2.AccountRef(connection="cashassist", id=CARD)


@given(
    currency=st.sampled_from(sorted(CURRENCY_EXPONENTS)),
    minor=st.integers(-MINOR_MAX, MINOR_MAX),
)
def test_money_goes_to_the_wire_and_back_exactly(currency: str, minor: int) -> None:
    message = MoneyMessage()
    fill_money(message, Money(currency, minor))
    problems: list[Violation] = []
    assert decode_money(message, "amount", problems) == Money(currency, minor)
    assert problems == []
    assert message.units * message.nanos >= 0, "units and nanos have one sign"
    assert abs(message.nanos) < 10**9


@given(
    currency=st.sampled_from(["CHF", "JPY", "BHD", "CLF", "XXX", ""]),
    units=st.integers(-(2**63), 2**63 - 1),
    nanos=st.integers(-(2**31), 2**31 - 1),
)
def test_any_money_of_the_wire_is_exact_or_a_violation(
    currency: str, units: int, nanos: int
) -> None:
    problems: list[Violation] = []
    money = decode_money(
        MoneyMessage(currency_code=currency, units=units, nanos=nanos), "amount", problems
    )
    if not problems:
        scale = 10 ** (9 - CURRENCY_EXPONENTS[currency])
        assert money.minor * scale == units * 10**9 + nanos


@given(st.integers(0, 2**53))
def test_a_time_keeps_its_microseconds(microseconds: int) -> None:
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    message = types_pb2.Booking()
    fill_time(message.create_time, time)
    assert message.create_time.ToDatetime(UTC) == time


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (State, bookings.STATES),
        (Fate, bookings.OUTCOMES),
        (operations.InDoubtPolicy, bookings.POLICIES),
        (operations.RecoveryMode, bookings.RECOVERY_MODES),
        (AttemptKind, bookings.ATTEMPT_KINDS),
        (Proves, bookings.PROOFS),
        (domain.WhoseFault, bookings.FAULTS),
        (TransactionKind, cards.TRANSACTION_KINDS),
        (calls.ConnectionState, providers.CONNECTION_STATES),
        (operations.Support, providers.SUPPORTS),
        (calls.PromiseSource, providers.PROMISE_SOURCES),
        (operations.AccountKind, wire_types.ACCOUNT_KINDS),
    ],
)
def test_every_word_of_the_domain_has_its_own_number(
    words: Collection[str], table: dict[str, int]
) -> None:
    assert set(table) == set(words)
    assert len(set(table.values())) == len(table)
    assert 0 not in table.values(), "zero says nothing"


@pytest.mark.parametrize(
    ("words", "numbers", "table"),
    [
        (operations.EntryMode, types_pb2.EntryMode, wire_types.ENTRY_MODES),
        (operations.ChallengePurpose, wallets_pb2.ChallengePurpose, wallets.PURPOSES),
    ],
)
def test_every_number_that_a_caller_may_send_has_its_own_word(
    words: Collection[str], numbers: Any, table: dict[int, str]
) -> None:
    assert set(table) == set(numbers.values()) - {0}
    assert set(table.values()) == set(words)


def test_every_status_of_the_contract_is_a_word_of_the_domain() -> None:
    prefix = "ACCOUNT_STATUS_"
    assert {f"{prefix}{word}": number for word, number in wire_types.ACCOUNT_STATUSES.items()} == {
        name: number for name, number in types_pb2.AccountStatus.items() if number
    }


def test_a_booking_that_succeeded_is_told_whole() -> None:
    body = WireAnswerCodec().encode_answer(redemption())
    told = MessageToDict(points_pb2.RedeemPointsResponse.FromString(body))["booking"]
    assert told == {
        "name": f"bookings/{BOOKING_ID}",
        "requestId": "till-7-000123",
        "service": "Points",
        "method": "RedeemPoints",
        "account": {"connection": "cashassist", "token": "k1.abcdef", "maskedId": "***72"},
        "state": "BOOKING_STATE_SUCCEEDED",
        "outcome": "OUTCOME_EXECUTED",
        "final": True,
        "asked": {"points": {"value": "100"}},
        "applied": {"points": {"value": "100"}},
        "balancesAfter": [
            {
                "kind": "BALANCE_KIND_POINTS",
                "points": {"value": "1180"},
                "asOf": "2026-11-21T12:00:00.123Z",
            },
            {
                "kind": "BALANCE_KIND_STORED_VALUE",
                "money": {"currencyCode": "CHF", "units": "42", "nanos": 500_000_000},
                "asOf": "2026-11-21T12:00:00.123Z",
            },
        ],
        "providerReferences": [{"kind": "transaction_id", "value": "T-1"}],
        "receiptLines": [
            {
                "label": "balance after",
                "amount": {"currencyCode": "CHF", "units": "42", "nanos": 500_000_000},
            }
        ],
        "inDoubtPolicy": "IN_DOUBT_POLICY_RESOLVE",
        "recoveryMode": "RECOVERY_MODE_SAFE_RESEND",
        "createTime": "2026-11-21T12:00:00.123Z",
        "sentTime": "2026-11-21T12:00:00.123Z",
        "settleTime": "2026-11-21T12:00:00.123Z",
        "attemptCount": 1,
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "connection": "cashassist",
    }


def test_the_same_booking_gives_the_same_bytes() -> None:
    assert len({WireAnswerCodec().encode_answer(redemption()) for _ in range(20)}) == 1


@pytest.mark.parametrize(("applied_minor", "due_minor"), [(2000, 0), (1500, 500), (None, None)])
def test_a_debit_tells_what_is_still_due(applied_minor: int | None, due_minor: int | None) -> None:
    booking = redemption(
        operation=Operation.DEBIT_BALANCE,
        order=Order(Operation.DEBIT_BALANCE, "", Money("CHF", 2000), allow_partial=True),
        applied=None if applied_minor is None else Money("CHF", applied_minor),
    )
    answer = balance_pb2.DebitBalanceResponse.FromString(WireAnswerCodec().encode_answer(booking))
    assert answer.HasField("remaining_due") == (due_minor is not None)
    if due_minor is not None:
        assert answer.remaining_due.currency_code == "CHF"
        assert answer.remaining_due.units * 100 == due_minor
    assert answer.booking.HasField("applied") == (applied_minor is not None)


def test_a_booking_that_was_only_checked_has_neither_name_nor_state() -> None:
    booking = redemption(booking_id="", state=State.RESERVED, applied=None, reason=None)
    body = WireAnswerCodec().encode_answer(booking)
    told = points_pb2.RedeemPointsResponse.FromString(body).booking
    assert told.name == ""
    assert told.state == types_pb2.BOOKING_STATE_UNSPECIFIED
    assert told.outcome == types_pb2.OUTCOME_UNSPECIFIED
    assert not told.final
    assert told.method == "RedeemPoints"
    assert told.asked.points.value == 100
    assert not told.HasField("create_time")


@pytest.mark.parametrize("state", State)
def test_a_booking_tells_outcome_and_error_of_its_state(state: State) -> None:
    message = types_pb2.Booking()
    bookings.fill_booking(
        message, redemption(state=state, reason=Reason.PROVIDER_UNREACHABLE, applied=None)
    )
    assert message.outcome == bookings.OUTCOMES[domain.OUTCOMES[state]]
    assert message.final == (state in domain.FINAL)
    assert message.HasField("settle_time") == message.final
    assert message.HasField("error") == (state is not State.SUCCEEDED)
    if message.HasField("error"):
        info = error_details_pb2.ErrorInfo()
        message.error.details[0].Unpack(info)
        assert info.metadata["outcome"] == domain.OUTCOMES[state].value
        assert info.metadata["final"] == str(message.final).lower()


def test_a_declined_booking_tells_the_error_that_was_stored() -> None:
    stored = WireAnswerCodec().encode_error(
        LoyaltyError(Reason.INSUFFICIENT_BALANCE, "Too few points.", fate=Fate.NOT_EXECUTED)
    )
    message = types_pb2.Booking()
    bookings.fill_booking(
        message,
        redemption(state=State.DECLINED, reason=Reason.INSUFFICIENT_BALANCE, status_bytes=stored),
    )
    assert message.error.message == "Too few points."
    assert message.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]


def test_a_tombstone_has_no_account_method_or_amount() -> None:
    message = types_pb2.Booking()
    tombstone = domain.Booking(
        tenant="default",
        booking_id=BOOKING_ID,
        request_id="till-7-000123",
        state=State.NOT_EXECUTED,
        create_time=NOON,
        intent=Intent.CANCEL,
        reason=Reason.CANCELLED_BEFORE_ARRIVAL,
    )
    bookings.fill_booking(message, tombstone)
    assert message.name and message.final and message.cancel_requested
    assert not message.service and not message.method
    assert not message.HasField("account") and not message.HasField("asked")
    assert message.recovery_mode == types_pb2.RECOVERY_MODE_UNSPECIFIED
    info = error_details_pb2.ErrorInfo()
    message.error.details[0].Unpack(info)
    assert info.reason == "CANCELLED_BEFORE_ARRIVAL"


async def test_a_card_is_told_with_its_holder_and_balances(door: Door) -> None:
    reply = await door.wire.call("Cards/GetCard", cards_pb2.GetCardRequest(account=ACCOUNT))
    card = cards_pb2.GetCardResponse.FromString(reply.body).card
    assert card.account.masked_id == "***72"
    assert card.holder.display_name == "Max Muster"
    assert card.status == types_pb2.ACCOUNT_STATUS_ACTIVE
    assert [balance.kind for balance in card.balances] == [1, 2]
    assert CARD.encode() not in reply.body, "the plain id is in no answer"


async def test_a_card_without_a_name_has_no_holder_and_a_strange_status_is_not_told(
    door: Door,
) -> None:
    door.engine.answers(answer_with(operations.CardFacts(CARD, status="FROZEN_BY_MOON")))
    reply = await door.wire.call("Cards/GetCard", cards_pb2.GetCardRequest(account=ACCOUNT))
    card = cards_pb2.GetCardResponse.FromString(reply.body).card
    assert not card.HasField("holder")
    assert card.status == types_pb2.ACCOUNT_STATUS_UNSPECIFIED


async def test_a_balance_is_read(door: Door) -> None:
    request = balance_pb2.GetBalanceRequest(account=ACCOUNT)
    reply = await door.wire.call("Balance/GetBalance", request)
    answer = balance_pb2.GetBalanceResponse.FromString(reply.body)
    assert answer.balances[0].money.units == 42
    assert answer.balances[1].points.value == 1280


async def test_a_page_of_history_names_our_own_bookings(door: Door) -> None:
    page = TransactionPage(
        (
            Transaction(
                "V-2",
                NOON,
                TransactionKind.REDEEM,
                "withdraw",
                points=-100,
                balances_after=(Balance(Points(1180)),),
                outbound_id="ours",
            ),
            Transaction("V-1", NOON, TransactionKind.OTHER, "gift", money=Money("CHF", -50)),
            Transaction("V-0", NOON, TransactionKind.CORRECTION, "none", points=0),
        )
    )
    door.engine.answers(
        answer_with(page, next_page_token="more", booking_names={"ours": "bookings/x"})
    )
    request = cards_pb2.ListTransactionsRequest(
        account=ACCOUNT, page=types_pb2.Page(page_size=3, page_token="t")
    )
    request.interval.start_time.FromDatetime(NOON)

    reply = await door.wire.call("Cards/ListTransactions", request)

    answer = cards_pb2.ListTransactionsResponse.FromString(reply.body)
    assert answer.next_page_token == "more"
    first, second, third = answer.transactions
    assert (first.booking, first.points.value) == ("bookings/x", -100)
    assert (second.booking, second.money.units, second.money.nanos) == ("", 0, -500_000_000)
    assert not second.HasField("points")
    assert third.HasField("points"), "no points moved is not the same as no word about points"
    (call,) = door.engine.calls
    assert (call.start, call.end) == (NOON, None)
    assert (call.page_size, call.page_token) == (3, "t")


async def test_a_statement_leaves_absent_what_the_provider_does_not_say(door: Door) -> None:
    door.engine.answers(
        answer_with(PointsStatement(opening=0, redeemed=100, by_category=(("food", 7),)))
    )
    request = points_pb2.GetPointsStatementRequest(account=ACCOUNT)
    request.interval.start_time.FromDatetime(NOON)
    request.interval.end_time.FromDatetime(NOON + timedelta(days=366))

    reply = await door.wire.call("Points/GetPointsStatement", request)

    answer = points_pb2.GetPointsStatementResponse.FromString(reply.body)
    assert answer.HasField("opening") and answer.opening.value == 0
    assert answer.redeemed.value == 100
    assert not answer.HasField("closing")
    assert answer.by_category[0].points.value == 7
    (call,) = door.engine.calls
    assert (call.start, call.end) == (NOON, NOON + timedelta(days=366))


async def test_a_list_of_bookings_is_filtered_as_asked(door: Door) -> None:
    request = bookings_pb2.ListBookingsRequest(
        states=[types_pb2.BOOKING_STATE_IN_DOUBT],
        connection="connections/cashassist",
        method="RedeemPoints",
        account=ACCOUNT,
        order=bookings_pb2.BOOKING_ORDER_SETTLE_ASC,
        page=types_pb2.Page(page_size=7, page_token="t"),
    )
    request.created.start_time.FromDatetime(NOON)
    request.settled.end_time.FromDatetime(NOON)

    reply = await door.wire.call("Bookings/ListBookings", request)

    answer = bookings_pb2.ListBookingsResponse.FromString(reply.body)
    assert answer.next_page_token == "more"
    assert answer.bookings[0].name == f"bookings/{BOOKING_ID}"
    ((tenant, asked),) = door.engine.calls
    assert tenant == "default"
    assert asked == calls.BookingFilter(
        states=(State.IN_DOUBT,),
        connection="cashassist",
        operation=Operation.REDEEM_POINTS,
        account=calls.AccountKey("cashassist", plain_id=CARD),
        created_from=NOON,
        settled_before=NOON,
        order=calls.SortOrder.SETTLE_ASC,
        page_size=7,
        page_token="t",
    )


@pytest.mark.parametrize(("field", "value"), [("method", "Steal")])
async def test_a_filter_that_cannot_be_kept_is_refused(door: Door, field: str, value: str) -> None:
    request = bookings_pb2.ListBookingsRequest(**{field: value})  # type: ignore[arg-type]
    reply = await door.wire.call("Bookings/ListBookings", request)
    assert list(reply.violations) == [field]
    assert door.engine.calls == []


async def test_a_decision_reaches_the_engine_with_who_decided(door: Door) -> None:
    name = f"bookings/{BOOKING_ID}"
    decision = bookings_pb2.Decision(
        outcome=types_pb2.OUTCOME_NOT_EXECUTED, evidence="ticket 7", reason="not in the ledger"
    )
    for request in (
        bookings_pb2.ResolveBookingRequest(name=name, ask_now=bookings_pb2.AskNow()),
        bookings_pb2.ResolveBookingRequest(name=name, decision=decision),
    ):
        reply = await door.wire.call("Bookings/ResolveBooking", request)
        assert reply.code is grpc.StatusCode.OK
    assert door.engine.calls == [
        ("default", BOOKING_ID, None, "anonymous"),
        (
            "default",
            BOOKING_ID,
            calls.Decision(Fate.NOT_EXECUTED, "ticket 7", "not in the ledger"),
            "anonymous",
        ),
    ]


async def test_a_story_is_told_step_by_step(door: Door) -> None:
    attempt = Attempt(
        number=1,
        kind=AttemptKind.RESEND,
        start_time=NOON,
        end_time=NOON,
        fate=Fate.EXECUTED,
        proves=Proves.WHOLE_BOOKING,
        http_status=200,
        provider_code="OK",
        rule="cashassist: 200",
        request_text="POST /withdraw",
        answer_text="{}",
    )
    unended = replace(attempt, number=2, end_time=None, http_status=None, fate=Fate.UNKNOWN)
    door.engine.answers(
        Story(
            redemption(state=State.IN_DOUBT, reason=Reason.PROVIDER_INTERNAL),
            (Step(NOON, "Opened."), Step(NOON, "Sent.", attempt), Step(NOON, "Sent.", unended)),
            domain.WhoseFault.PROVIDER,
            "The gateway asks again.",
            NOON,
        )
    )
    request = bookings_pb2.ExplainBookingRequest(request_id="till-7-000123")

    reply = await door.wire.call("Bookings/ExplainBooking", request)

    told: dict[str, Any] = MessageToDict(bookings_pb2.ExplainBookingResponse.FromString(reply.body))
    assert told["whoseFault"] == "FAULT_PROVIDER"
    assert told["nextStep"] == "The gateway asks again."
    assert told["traceId"] == "0af7651916cd43dd8448eb211c80319c"
    assert told["steps"][0] == {"time": "2026-11-21T12:00:00.123Z", "text": "Opened."}
    assert told["steps"][1]["attempt"] == {
        "number": 1,
        "kind": "ATTEMPT_KIND_RESEND",
        "request": "POST /withdraw",
        "answer": "{}",
        "httpStatus": 200,
        "providerCode": "OK",
        "rule": "cashassist: 200",
        "fate": "OUTCOME_EXECUTED",
        "proves": "PROOF_WHOLE_BOOKING",
    }
    assert "proves" not in told["steps"][2]["attempt"], "without an end it proves nothing"


async def test_connections_come_by_name_and_in_pages(door: Door) -> None:
    facts = calls.ConnectionFacts("b", "cashassist", "B", calls.ConnectionState.OK, 3)
    door.engine.answers((facts, replace(facts, connection="c"), replace(facts, connection="a")))
    seen: list[str] = []
    token = ""
    for _ in range(2):
        reply = await door.wire.call(
            "Providers/ListConnections",
            providers_pb2.ListConnectionsRequest(
                page=types_pb2.Page(page_size=2, page_token=token)
            ),
        )
        answer = providers_pb2.ListConnectionsResponse.FromString(reply.body)
        seen += [connection.name for connection in answer.connections]
        token = answer.next_page_token
    assert seen == ["connections/a", "connections/b", "connections/c"]
    assert token == ""
    assert answer.connections[0].unresolved_count == 3


async def test_a_page_token_that_is_not_ours_is_refused(door: Door) -> None:
    request = providers_pb2.ListConnectionsRequest(page=types_pb2.Page(page_token="ä"))
    reply = await door.wire.call("Providers/ListConnections", request)
    assert list(reply.violations) == ["page.page_token"]


async def test_capabilities_cover_every_rpc_of_the_contract(door: Door) -> None:
    door.engine.answers(
        (
            calls.Capability(
                Operation.REDEEM_POINTS,
                operations.Support.NATIVE,
                operations.RecoveryMode.SAFE_RESEND,
                (calls.Promise("resend_is_safe", True, calls.PromiseSource.PROVEN, NOON, "x"),),
                needed_fields=("sale.ticket_number",),
            ),
            calls.Capability(Operation.GET_BALANCE, operations.Support.EMULATED),
        )
    )
    reply = await door.wire.call(
        "Providers/GetCapabilities", providers_pb2.GetCapabilitiesRequest(connection="cashassist")
    )
    answer = providers_pb2.GetCapabilitiesResponse.FromString(reply.body)
    told = {f"{it.service}.{it.method}": it for it in answer.capabilities}
    assert set(told) == {
        f"{service.name}.{method.name}" for service in SERVICES for method in service.methods
    }
    redeem = told["Points.RedeemPoints"]
    assert redeem.recovery_mode == types_pb2.RECOVERY_MODE_SAFE_RESEND
    assert (redeem.promises[0].name, redeem.promises[0].value) == ("resend_is_safe", "yes")
    assert redeem.promises[0].source == providers_pb2.PROMISE_SOURCE_PROVEN
    assert list(redeem.needed_fields) == ["sale.ticket_number"]
    assert told["Balance.GetBalance"].support == providers_pb2.SUPPORT_EMULATED
    assert told["Balance.TopUpBalance"].support == providers_pb2.SUPPORT_UNSUPPORTED
    assert told["Bookings.GetBooking"].support == providers_pb2.SUPPORT_NATIVE
    assert told["Cards.GetCard"].recovery_mode == types_pb2.RECOVERY_MODE_UNSPECIFIED
    assert door.engine.calls == [("default", "cashassist")]
