"""`loyalty sandbox` from outside: its screen, its children's lives and deaths, how it stops."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from loyalty.v1 import (
    balance_pb2,
    balance_pb2_grpc,
    bookings_pb2,
    bookings_pb2_grpc,
    points_pb2,
    points_pb2_grpc,
    types_pb2,
)
from tests.cli.running_sandbox import (
    RunningSandbox,
    children_of,
    environment,
    is_running,
    wait_until,
)

SERVER = "_serve-sandbox"
PLAYERS = "sandbox.players"
CARD = "10472"
SLOW_CARD = "20003"
CALL_LIMIT_S = 20.0


def redeem(
    sandbox: RunningSandbox, request_id: str, card: str = CARD, points: int = 200
) -> types_pb2.Booking:
    request = points_pb2.RedeemPointsRequest(request_id=request_id)
    request.account.connection, request.account.id = "cashassist", card
    request.points.value = points
    with grpc.insecure_channel(sandbox.listen) as channel:
        stub = points_pb2_grpc.PointsStub(channel)
        return stub.RedeemPoints(request, timeout=CALL_LIMIT_S, wait_for_ready=True).booking


def points_of(sandbox: RunningSandbox, card: str = CARD) -> int:
    request = balance_pb2.GetBalanceRequest()
    request.account.connection, request.account.id = "cashassist", card
    with grpc.insecure_channel(sandbox.listen) as channel:
        stub = balance_pb2_grpc.BalanceStub(channel)
        answer = stub.GetBalance(request, timeout=CALL_LIMIT_S, wait_for_ready=True)
    return sum(balance.points.value for balance in answer.balances)


def booking_state(sandbox: RunningSandbox, request_id: str) -> str:
    """The state's name, or the name of the gRPC code where the booking is not told."""
    request = bookings_pb2.GetBookingRequest(request_id=request_id)
    with grpc.insecure_channel(sandbox.listen) as channel:
        stub = bookings_pb2_grpc.BookingsStub(channel)
        call = stub.GetBooking.future(request, timeout=CALL_LIMIT_S, wait_for_ready=True)
        if call.exception() is not None:
            return str(call.code().name)
        return types_pb2.BookingState.Name(call.result().booking.state)


def effects_on(sandbox: RunningSandbox, card: str) -> list[dict[str, Any]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{sandbox.control_url}/ledger?card={card}", timeout=CALL_LIMIT_S) as answer:
        effects: list[dict[str, Any]] = json.load(answer)["effects"]
    return effects


def run_sandbox(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A sandbox that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "loyalty_gateway", "sandbox", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment() | variables,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with RunningSandbox(tmp_path_factory.mktemp("running") / "sandbox") as running:
        yield running


def test_the_screen_says_what_is_there_and_what_to_do(sandbox: RunningSandbox) -> None:
    for words in (
        r"sandbox: serving after \d+\.\d s",
        r"10472 +Max Muster +42\.50 CHF +1280 points",
        r"20002 +lost-after +booked; the connection just closes",
        "x-sandbox-fault",
        "cashassist-down",
        re.escape(str(sandbox.folder)),
        "Ctrl-C",
        f"Go on where it was:  .*sandbox --data-dir {re.escape(str(sandbox.folder))}$",
        "Start afresh: .* --reset$",
    ):
        assert re.search(words, sandbox.text, re.MULTILINE), words
    assert "10999" not in sandbox.text
    assert "\x1b" not in sandbox.text


def test_the_lines_to_paste_work_as_they_are_printed(sandbox: RunningSandbox) -> None:
    lines = sandbox.text.partition("Paste into a second terminal\n")[2].splitlines()[:4]
    printed = []
    for line in lines:
        done = subprocess.run(
            line,
            shell=True,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=60,
            check=True,
        )
        printed.append(done.stdout)
    services, balance, booking, story = printed
    assert "loyalty.v1.Points" in services
    assert '"value": "1280"' in balance
    assert '"outcome": "OUTCOME_EXECUTED"' in booking
    assert "SUCCEEDED" in story


def test_a_second_sandbox_in_the_same_folder_is_told_so(sandbox: RunningSandbox) -> None:
    done = run_sandbox("--data-dir", str(sandbox.folder), "--listen", "127.0.0.1:0")
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert f"running in {sandbox.folder} already (process {sandbox.pid})" in done.stderr


@pytest.mark.parametrize("address", ["listen", "admin_listen"])
def test_a_taken_port_is_told_with_the_variable_that_moves_it(
    sandbox: RunningSandbox, tmp_path: Path, address: str
) -> None:
    taken = getattr(sandbox, address)
    free = {"LOYALTY_LISTEN": "127.0.0.1:0", "LOYALTY_ADMIN_LISTEN": "127.0.0.1:0"}
    variable = f"LOYALTY_{address.upper()}"
    done = run_sandbox("--data-dir", str(tmp_path / "second"), **(free | {variable: taken}))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{taken} is taken" in done.stderr
    assert variable in done.stderr


def test_a_killed_server_is_started_again_and_knows_what_it_did(sandbox: RunningSandbox) -> None:
    before = redeem(sandbox, "before-the-kill")
    points = points_of(sandbox)
    os.kill(sandbox.child(SERVER), signal.SIGKILL)
    sandbox.wait_for("The server is back")
    assert "The server was ended by SIGKILL. Nothing is lost" in sandbox.text
    assert redeem(sandbox, "before-the-kill") == before
    assert points_of(sandbox) == points


def test_a_killed_player_is_started_again_where_it_was(sandbox: RunningSandbox) -> None:
    redeem(sandbox, "before-the-players-end")
    effects = effects_on(sandbox, CARD)
    os.kill(sandbox.child(PLAYERS), signal.SIGKILL)
    sandbox.wait_for("The vendor player is back")
    assert effects_on(sandbox, CARD) == effects
    assert redeem(sandbox, "after-the-players-end").final


def test_ctrl_c_ends_everything_in_good_order(tmp_path: Path) -> None:
    with RunningSandbox(tmp_path / "sandbox") as sandbox:
        children = children_of(sandbox.pid)
        sandbox.send(signal.SIGINT)
        assert sandbox.join() == 0
    assert len(children) == 2
    assert not any(is_running(child) for child in children)
    assert "Stopping: what was sent is finished first" in sandbox.text
    assert re.search(r"Stopped\. Go on with `.*`; start afresh with `.* --reset`\.", sandbox.text)
    assert "Draining" in (tmp_path / "sandbox" / "logs" / "server.log").read_text()


def test_it_goes_on_where_it_was_after_a_hurried_end(tmp_path: Path) -> None:
    """A second Ctrl-C cuts off a booking on its way; the next start finds out what became of it."""
    folder = tmp_path / "sandbox"
    with RunningSandbox(folder) as first:
        redeem(first, "settled-booking")
        request = points_pb2.RedeemPointsRequest(request_id="cut-off-booking")
        request.account.connection, request.account.id = "cashassist", SLOW_CARD
        request.points.value = 200
        with grpc.insecure_channel(first.listen) as channel:
            under_way = points_pb2_grpc.PointsStub(channel).RedeemPoints.future(request)
            wait_until(lambda: bool(effects_on(first, SLOW_CARD)), "the effect at the vendor")
            first.send(signal.SIGINT)
            first.wait_for("Stopping")
            first.send(signal.SIGINT)
            assert first.join() == 0
            assert under_way.exception() is not None
    with RunningSandbox(folder) as second:
        assert second.control_url == first.control_url
        assert booking_state(second, "settled-booking") == "BOOKING_STATE_SUCCEEDED"
        wait_until(
            lambda: booking_state(second, "cut-off-booking") == "BOOKING_STATE_SUCCEEDED",
            "the truth about the booking that was cut off",
        )
        assert len(effects_on(second, SLOW_CARD)) == 1


def test_children_of_a_killed_supervisor_end_by_themselves_and_reset_forgets(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "sandbox"
    with RunningSandbox(folder) as killed:
        redeem(killed, "forgotten-booking")
        children = children_of(killed.pid)
        killed.kill()
    with RunningSandbox(folder, "--reset") as fresh:
        assert not any(is_running(child) for child in children)
        assert "as on the first day" in fresh.text
        assert fresh.control_url == killed.control_url
        assert booking_state(fresh, "forgotten-booking") == "NOT_FOUND"
        assert points_of(fresh) == 1280
        assert effects_on(fresh, CARD) == []


def test_a_server_that_cannot_start_ends_the_sandbox_with_its_own_words(tmp_path: Path) -> None:
    folder = tmp_path / "sandbox"
    done = run_sandbox(
        *("--data-dir", str(folder)),
        *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
        # A folder is no database.
        LOYALTY_JOURNAL__PATH=str(tmp_path),
    )
    assert done.returncode == 1
    assert "the server ended with exit code" in done.stderr
    assert str(folder / "logs" / "server.log") in done.stderr
    assert "Traceback" not in done.stderr
    announced = folder / "players.json"
    assert not announced.exists(), "the players have not been stopped"
