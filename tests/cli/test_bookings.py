"""`loyalty bookings` and `loyalty connections` against a server that answers as it is told."""

import io
import json
import subprocess
import sys
from concurrent import futures
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import code_pb2

from loyalty.v1 import bookings_pb2 as bookings
from loyalty.v1 import errors_pb2, types_pb2
from loyalty.v1 import providers_pb2 as providers
from loyalty_gateway.cli import main, screen
from loyalty_gateway.cli.bookings import StateName, read_since
from loyalty_gateway.cli.failure import UsageFailed
from tests.cli.fake_gateway import FakeGateway, a_booking, refusal
from tests.cli.running_sandbox import environment

Capture = pytest.CaptureFixture[str]

IN_DOUBT = refusal(
    "BOOKING_IN_DOUBT",
    "nobody knows yet whether this was booked",
    code=code_pb2.DEADLINE_EXCEEDED,
    retry_after_s=5,
    outcome="UNKNOWN",
    final="false",
    booking="bookings/01a20074-3b79-76b1-b274-9fb5d90f3bfd",
    request_id="till-7-000123",
)


def page(*found: types_pb2.Booking, next_page_token: str = "") -> bookings.ListBookingsResponse:
    return bookings.ListBookingsResponse(bookings=found, next_page_token=next_page_token)


def test_list_shows_a_line_for_each_booking(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ListBookings"] = page(
        a_booking("till-7-000123"),
        a_booking("till-7-000124", state=types_pb2.BOOKING_STATE_NEEDS_REVIEW),
    )
    assert main(["bookings", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["CREATED", "STATE", "OPERATION"]
    assert "SUCCEEDED" in lines[1] and "200 points" in lines[1] and "till-7-000123" in lines[1]
    assert "NEEDS_REVIEW" in lines[2] and "till-7-000124" in lines[2]


def test_list_says_that_nothing_matches(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ListBookings"] = page()
    assert main(["bookings", "list"]) == 0
    assert capsys.readouterr().out == "No booking matches.\n"


def test_list_asks_the_server_to_filter(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ListBookings"] = page()
    before = datetime.now(UTC)
    main(
        [
            *("bookings", "list", "--state", "in-doubt", "--state", "NEEDS_REVIEW"),
            *("--connection", "cashassist", "--since", "2h", "--limit", "7"),
        ]
    )
    (asked,) = gateway.asked
    assert isinstance(asked, bookings.ListBookingsRequest)
    assert list(asked.states) == [
        types_pb2.BOOKING_STATE_IN_DOUBT,
        types_pb2.BOOKING_STATE_NEEDS_REVIEW,
    ]
    assert asked.connection == "cashassist"
    assert asked.page.page_size == 7
    since = asked.created.start_time.ToDatetime(tzinfo=UTC)
    assert timedelta() <= since - (before - timedelta(hours=2)) < timedelta(minutes=1)


def test_list_goes_through_the_pages_up_to_the_limit(gateway: FakeGateway, capsys: Capture) -> None:
    many = [a_booking(f"till-7-{number:06d}") for number in range(450)]
    gateway.answers["ListBookings"] = [
        page(*many[:200], next_page_token="second"),
        page(*many[200:400], next_page_token="third"),
        page(*many[400:401], next_page_token="fourth"),
    ]
    assert main(["bookings", "list", "--limit", "401", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["bookings"]) == 401
    assert document["nextPageToken"] == "fourth"
    pages = [
        asked.page for asked in gateway.asked if isinstance(asked, bookings.ListBookingsRequest)
    ]
    assert [(each.page_size, each.page_token) for each in pages] == [
        (200, ""),
        (200, "second"),
        (1, "third"),
    ]


def test_list_says_that_there_is_more(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ListBookings"] = page(a_booking(), next_page_token="more")
    main(["bookings", "list", "--limit", "1"])
    assert "The first 1; there are more (--limit)." in capsys.readouterr().out


INCIDENT = "cashassist/2026-11-21T23/PROVIDER_UNREACHABLE"


def test_list_counts_what_each_incident_has_left_open(
    gateway: FakeGateway, capsys: Capture
) -> None:
    open_one = a_booking(state=types_pb2.BOOKING_STATE_NEEDS_REVIEW, incident=INCIDENT)
    open_one.final = False
    other = a_booking(incident="cashassist/2026-11-22T00/PROVIDER_INTERNAL")
    other.final = False
    settled = a_booking(incident="cashassist/2026-11-20T00/PROVIDER_INTERNAL")
    gateway.answers["ListBookings"] = page(other, open_one, open_one, settled)
    assert main(["bookings", "list"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[5:]] == [
        [],
        ["open", "incidents", "(--incident)"],
        [INCIDENT, "2", "open"],
        ["cashassist/2026-11-22T00/PROVIDER_INTERNAL", "1", "open"],
    ]


def test_list_asks_for_one_incident(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ListBookings"] = page()
    assert main(["bookings", "list", "--incident", INCIDENT]) == 0
    (asked,) = gateway.asked
    assert asked == bookings.ListBookingsRequest(
        incident=INCIDENT, page=types_pb2.Page(page_size=50)
    )


def test_show_and_explain_name_the_incident(gateway: FakeGateway, capsys: Capture) -> None:
    booking = a_booking(incident=INCIDENT)
    gateway.answers = {
        "GetBooking": bookings.GetBookingResponse(booking=booking),
        "ExplainBooking": bookings.ExplainBookingResponse(booking=booking),
    }
    for command in ("show", "explain"):
        assert main(["bookings", command, "till-7-000123"]) == 0
        assert ["incident", INCIDENT] in [
            line.split() for line in capsys.readouterr().out.splitlines()
        ]


@pytest.mark.parametrize("command", ["show", "explain", "cancel"])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("bookings/01a20074-3b79-76b1-b274-9fb5d90f3bfd", "name"),
        ("01a20074-3b79-76b1-b274-9fb5d90f3bfd", "request_id"),
        ("till-7-000123", "request_id"),
    ],
)
def test_a_booking_is_named_by_its_name_or_its_request_id(
    gateway: FakeGateway, capsys: Capture, command: str, name: str, field: str
) -> None:
    gateway.answers = {
        "GetBooking": bookings.GetBookingResponse(booking=a_booking()),
        "CancelBooking": bookings.CancelBookingResponse(booking=a_booking()),
        "ExplainBooking": bookings.ExplainBookingResponse(booking=a_booking()),
    }
    assert main(["bookings", command, name]) == 0
    (asked,) = gateway.asked
    assert [(each.name, value) for each, value in asked.ListFields()] == [(field, name)]


def test_show_tells_what_is_known(gateway: FakeGateway, capsys: Capture) -> None:
    booking = a_booking()
    balance = booking.balances_after.add()
    balance.money.currency_code, balance.money.units, balance.money.nanos = "CHF", 42, 500_000_000
    gateway.answers["GetBooking"] = bookings.GetBookingResponse(booking=booking)
    assert main(["bookings", "show", "till-7-000123"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "Points.RedeemPoints, 200 points, account •••72, at cashassist"
    for words in (
        "SUCCEEDED: the provider executed it",
        "EXECUTED, final",
        "42.50 CHF",
        "tx_90070",
        "2026-11-21 03:00:00Z",
    ):
        assert words in text


def test_show_as_json_is_the_contracts_message(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["GetBooking"] = bookings.GetBookingResponse(booking=a_booking(final=False))
    assert main(["bookings", "show", "till-7-000123", "--json"]) == 0
    text = capsys.readouterr().out
    assert json_format.Parse(text, types_pb2.Booking()) == a_booking(final=False)
    assert "•••72" in text


def a_story() -> bookings.ExplainBookingResponse:
    story = bookings.ExplainBookingResponse(
        booking=a_booking(
            state=types_pb2.BOOKING_STATE_IN_DOUBT,
        ),
        whose_fault=bookings.FAULT_PROVIDER,
        next_step="The gateway sends it again by itself.",
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )
    story.booking.final = False
    story.booking.outcome = types_pb2.OUTCOME_UNKNOWN
    for moment, text in (
        ("2026-11-21T23:59:59.100Z", "SENDING: written down"),
        ("2026-11-21T23:59:59.112Z", "Attempt 1 was sent"),
        ("2026-11-22T00:00:14.112Z", "IN_DOUBT: the answer is missing"),
    ):
        story.steps.add(text=text).time.FromJsonString(moment)
    story.steps[1].attempt.CopyFrom(
        bookings.Attempt(
            number=1,
            request="POST /withdraw: 200 points",
            http_status=503,
            provider_code="unavailable",
            rule="5xx",
            fate=types_pb2.OUTCOME_UNKNOWN,
            proves=bookings.PROOF_THIS_ATTEMPT,
        )
    )
    story.next_time.FromJsonString("2026-11-22T00:01:00Z")
    return story


def test_explain_tells_the_story_in_order(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ExplainBooking"] = a_story()
    assert main(["bookings", "explain", "till-7-000123"]) == 0
    text = capsys.readouterr().out
    told = (
        "IN_DOUBT: the answer is missing or proves nothing; the gateway is finding out",
        "UNKNOWN, not final: repeating the same request_id is safe",
        "2026-11-21 (UTC)",
        "23:59:59.100  SENDING: written down",
        "23:59:59.112  Attempt 1 was sent",
        "POST /withdraw: 200 points",
        "answer",
        "proves",
        "unavailable",
        "5xx",
        "2026-11-22 (UTC)",
        "00:00:14.112  IN_DOUBT: the answer is missing (+15 s)",
        "the provider's, or the way to it",
        "The gateway sends it again by itself.",
        "2026-11-22 00:01:00Z",
        "0af7651916cd43dd8448eb211c80319c",
    )
    rest = text
    for words in told:
        assert words in rest, text
        rest = rest.partition(words)[2]


def test_explain_as_json_is_the_contracts_message(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ExplainBooking"] = a_story()
    assert main(["bookings", "explain", "till-7-000123", "--json"]) == 0
    text = capsys.readouterr().out
    assert json_format.Parse(text, bookings.ExplainBookingResponse()) == a_story()


def test_resolve_asks_now(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers = {
        "GetBooking": bookings.GetBookingResponse(booking=a_booking()),
        "ResolveBooking": bookings.ResolveBookingResponse(booking=a_booking()),
    }
    assert main(["bookings", "resolve", "till-7-000123", "--ask-now"]) == 0
    asked = gateway.asked[-1]
    assert isinstance(asked, bookings.ResolveBookingRequest)
    assert asked.name == "bookings/01a20074-3b79-76b1-b274-9fb5d90f3bfd"
    assert asked.WhichOneof("resolution") == "ask_now"
    assert "SUCCEEDED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("executed", types_pb2.OUTCOME_EXECUTED),
        ("not-executed", types_pb2.OUTCOME_NOT_EXECUTED),
    ],
)
def test_resolve_records_what_a_person_found_out(
    gateway: FakeGateway, capsys: Capture, word: str, outcome: types_pb2.Outcome.ValueType
) -> None:
    gateway.answers = {
        "GetBooking": bookings.GetBookingResponse(booking=a_booking()),
        "ResolveBooking": bookings.ResolveBookingResponse(booking=a_booking()),
    }
    words = ["--outcome", word, "--evidence", "ticket 4711", "--reason", "their statement"]
    assert main(["bookings", "resolve", "till-7-000123", *words]) == 0
    asked = gateway.asked[-1]
    assert isinstance(asked, bookings.ResolveBookingRequest)
    assert asked.decision == bookings.Decision(
        outcome=outcome, evidence="ticket 4711", reason="their statement"
    )


class Terminal(io.StringIO):
    """A person at a keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "options", "is_settled"),
    [
        ("y\n", (), True),
        ("yes\n", (), True),
        ("n\n", (), False),
        ("\n", (), False),
        ("", (), False),
        ("", ("--yes",), True),
    ],
)
def test_a_person_at_a_terminal_is_asked_before_an_outcome_is_recorded(
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    options: tuple[str, ...],
    is_settled: bool,
) -> None:
    gateway.answers = {
        "GetBooking": bookings.GetBookingResponse(booking=a_booking()),
        "ResolveBooking": bookings.ResolveBookingResponse(booking=a_booking()),
    }
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    decision = ["--outcome", "executed", "--evidence", "ticket", "--reason", "so"]
    code = main(["bookings", "resolve", "till-7-000123", *decision, *options])
    assert code == (0 if is_settled else 1)
    assert (len(gateway.asked) == 2) is is_settled
    if not options:
        assert "Points.RedeemPoints, 200 points" in terminal.getvalue()
    if not is_settled:
        assert "nothing was changed" in terminal.getvalue()


def test_a_refusal_says_what_happened_and_what_to_do_next(
    gateway: FakeGateway, capsys: Capture
) -> None:
    gateway.answers["CancelBooking"] = IN_DOUBT
    assert main(["bookings", "cancel", "till-7-000123"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    facts = dict(line.split(maxsplit=1) for line in output.err.splitlines())
    assert facts["reason"] == "BOOKING_IN_DOUBT (DEADLINE_EXCEEDED)"
    assert facts["outcome"] == "UNKNOWN"
    assert facts["final"] == "false"
    assert facts["message"] == "nobody knows yet whether this was booked"
    assert facts["wait"] == "5 s"
    assert "goes on finding out by itself" in output.err


def test_a_refusal_without_an_outcome_is_not_read_as_a_failure(
    gateway: FakeGateway, capsys: Capture
) -> None:
    gateway.answers["GetBooking"] = refusal("NOT_FOUND", "no such booking", code=code_pb2.NOT_FOUND)
    assert main(["bookings", "show", "till-7-000123"]) == 1
    text = capsys.readouterr().err
    assert "not said: read it as UNKNOWN" in text
    assert "proves nothing about the provider" in text.replace("\n", " ")


def test_every_violation_is_shown_with_its_field(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["GetBooking"] = refusal(
        "REQUEST_INVALID",
        "two rules are broken",
        code=code_pb2.INVALID_ARGUMENT,
        violations=(("request_id", "is too short"), ("name", "is not one")),
    )
    assert main(["bookings", "show", "short"]) == 1
    text = capsys.readouterr().err
    assert "is too short" in text
    assert "is not one" in text


def test_a_refusal_as_json_is_one_document_on_standard_error(
    gateway: FakeGateway, capsys: Capture
) -> None:
    gateway.answers["GetBooking"] = IN_DOUBT
    assert main(["bookings", "show", "till-7-000123", "--json"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    error = json.loads(output.err)["error"]
    assert error["details"][0]["reason"] == "BOOKING_IN_DOUBT"
    assert error["details"][0]["metadata"]["outcome"] == "UNKNOWN"


def test_what_is_no_gateway_is_told_so(capsys: Capture) -> None:
    other = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    address = f"127.0.0.1:{other.add_insecure_port('127.0.0.1:0')}"
    other.start()
    assert main(["bookings", "show", "till-7-000123", "--server", address]) == 1
    other.stop(None).wait()
    assert "not a Loyalty Gateway" in capsys.readouterr().err


def test_connections_shows_what_is_unresolved(gateway: FakeGateway, capsys: Capture) -> None:
    answer = providers.ListConnectionsResponse()
    answer.connections.add(
        name="connections/cashassist",
        provider="cashassist",
        display_name="CashAssist",
        state=providers.CONNECTION_STATE_DEGRADED,
        unresolved_count=3,
    )
    gateway.answers["ListConnections"] = answer
    assert main(["connections", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        *("cashassist", "DEGRADED", "3", "cashassist", "CashAssist")
    ]


def test_capabilities_show_the_promises_and_who_vouches_for_them(
    gateway: FakeGateway, capsys: Capture
) -> None:
    answer = providers.GetCapabilitiesResponse()
    answer.capabilities.add(
        service="Points",
        method="RedeemPoints",
        support=providers.SUPPORT_NATIVE,
        recovery_mode=types_pb2.RECOVERY_MODE_SAFE_RESEND,
        needed_fields=["sale.ticket_number"],
        promises=[
            providers.Promise(
                name="resend_is_safe",
                value="yes",
                source=providers.PROMISE_SOURCE_DECLARED,
                evidence="seen twice",
            )
        ],
    )
    answer.capabilities.add(
        service="Gift",
        method="PayWithGiftCard",
        support=providers.SUPPORT_UNSUPPORTED,
        note="The vendor has no gift cards.",
    )
    gateway.answers["GetCapabilities"] = answer
    assert main(["connections", "capabilities", "cashassist"]) == 0
    text = capsys.readouterr().out
    assert ["Points.RedeemPoints", "NATIVE", "SAFE_RESEND", "sale.ticket_number"] in [
        line.split() for line in text.splitlines()
    ]
    assert ["Gift.PayWithGiftCard", "UNSUPPORTED"] in [line.split() for line in text.splitlines()]
    assert "resend_is_safe  yes, declared: seen twice" in text
    assert "Gift.PayWithGiftCard  The vendor has no gift cards." in text


def test_a_reader_that_has_seen_enough_is_no_error(gateway: FakeGateway) -> None:
    gateway.answers["ListBookings"] = page(*[a_booking() for _ in range(200)])
    command = [sys.executable, "-m", "loyalty_gateway", "bookings", "list", "--limit", "200"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-01-31T08:00:00Z", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("2026-01-31T08:00:00+01:00", datetime(2026, 1, 31, 7, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("99999d", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_since_is_a_span_or_a_time(text: str, moment: datetime) -> None:
    assert read_since(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "-2h", "2w", "tomorrow", "2026-13-01"])
def test_since_refuses_what_it_does_not_understand(text: str) -> None:
    with pytest.raises(UsageFailed, match="--since"):
        read_since(text, NOW)


def test_every_state_can_be_asked_for_and_has_words() -> None:
    names = {name.removeprefix("BOOKING_STATE_") for name, _ in types_pb2.BookingState.items()}
    assert set(screen.STATE_WORDS) == names
    assert {state.name: state.value for state in StateName} == {
        name: types_pb2.BookingState.Value(f"BOOKING_STATE_{name}")
        for name in names - {"UNSPECIFIED"}
    }


def test_every_fault_has_words() -> None:
    names = {name.removeprefix("FAULT_") for name, _ in bookings.Fault.items()}
    assert set(screen.FAULT_WORDS) == names


def test_advice_is_given_for_reasons_that_exist() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()}
    assert set(screen.NEXT_WORDS) <= reasons
