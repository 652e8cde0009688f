"""`loyalty prove` against a server that answers as it is told."""

import json

import pytest
from google.rpc import code_pb2

from loyalty.v1 import providers_pb2 as providers
from loyalty_gateway.cli import main
from tests.cli.fake_gateway import FakeGateway, refusal

Capture = pytest.CaptureFixture[str]


def a_promise(name: str, value: str = "yes", **changes: str) -> providers.Promise:
    promise = providers.Promise(
        name=name,
        value=value,
        source=providers.PROMISE_SOURCE_PROVEN,
        evidence="sent twice, booked once",
    )
    promise.time.FromJsonString("2026-11-26T06:00:00Z")
    promise.MergeFrom(providers.Promise(**changes))  # type: ignore[arg-type]
    return promise


def answers(*promises: providers.Promise) -> providers.ProveConnectionResponse:
    return providers.ProveConnectionResponse(promises=promises)


def test_each_promise_has_a_line_with_what_was_seen_and_when(
    gateway: FakeGateway, capsys: Capture
) -> None:
    gateway.answers["ProveConnection"] = answers(
        a_promise("order_number_replays"),
        a_promise("order_query_answers", "no", evidence="the query found nothing"),
    )
    assert main(["prove", "openloyaltypay"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["PROMISE", "HOLDS", "DATE", "EVIDENCE"]
    assert lines[1].split()[:4] == ["order_number_replays", "yes", "2026-11-26", "06:00:00Z"]
    assert lines[1].endswith("sent twice, booked once")
    assert lines[2].split()[:2] == ["order_query_answers", "no"]
    (asked,) = gateway.asked
    assert asked == providers.ProveConnectionRequest(connection="openloyaltypay")


def test_a_promise_that_could_not_be_shown_says_why_and_what_held_before(
    gateway: FakeGateway, capsys: Capture
) -> None:
    gateway.answers["ProveConnection"] = answers(
        a_promise("resend_is_safe", not_shown="the setting proof_card names no card"),
        a_promise("amount_echo_unit"),
    )
    assert main(["prove", "cashassist"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "not shown" in lines[1]
    assert lines[1].endswith("the setting proof_card names no card; before: yes, proven")


def test_a_program_gets_the_contracts_message(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ProveConnection"] = answers(a_promise("resend_is_safe", not_shown="away"))
    assert main(["prove", "cashassist", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["promises"][0]["notShown"] == "away"


def test_a_connection_without_promises_is_told(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ProveConnection"] = answers()
    assert main(["prove", "cardsapi"]) == 0
    assert capsys.readouterr().out == "Nothing of cardsapi can be put to the proof.\n"


def test_a_connection_that_is_not_there_is_refused_with_what_to_do(
    gateway: FakeGateway, capsys: Capture
) -> None:
    gateway.answers["ProveConnection"] = refusal(
        "CONNECTION_NOT_FOUND", "There is no such connection.", code=code_pb2.NOT_FOUND
    )
    assert main(["prove", "elsewhere"]) == 1
    assert "loyalty connections list" in capsys.readouterr().err


def test_text_from_outside_cannot_move_the_cursor(gateway: FakeGateway, capsys: Capture) -> None:
    gateway.answers["ProveConnection"] = answers(a_promise("x", evidence="\x1b[2Jgone\nnext"))
    assert main(["prove", "cashassist"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_without_a_server_it_says_how_to_start_one(free_address: str, capsys: Capture) -> None:
    assert main(["prove", "cashassist", "--server", free_address]) == 1
    assert "no server answers" in capsys.readouterr().err
