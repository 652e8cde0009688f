"""The command that plays vendors, one process for all of them; it must never start the gateway."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from loyalty_gateway.sandbox.cardsapi.player import CardsapiPlayer
from loyalty_gateway.sandbox.cashassist.player import CashassistPlayer
from loyalty_gateway.sandbox.ledger import LedgerUnusable
from loyalty_gateway.sandbox.loyalife.player import LoyalifePlayer
from loyalty_gateway.sandbox.openloyaltypay.player import OpenLoyaltyPayPlayer
from loyalty_gateway.sandbox.player import Player, PortTaken
from loyalty_gateway.sandbox.settings import Settings

PARENT_POLL_S = 1.0

# A new vendor is a folder with its cards, its document and its player, and a line here.
PLAYERS: dict[str, type[Player]] = {
    CashassistPlayer.name: CashassistPlayer,
    LoyalifePlayer.name: LoyalifePlayer,
    CardsapiPlayer.name: CardsapiPlayer,
    OpenLoyaltyPayPlayer.name: OpenLoyaltyPayPlayer,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play until SIGTERM or SIGINT; the exit code is 0 then, and 1 when a player cannot start."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_play(options, {name: _settings(name, options) for name in PLAYERS}))
    except (ValueError, PortTaken, LedgerUnusable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _settings(vendor: str, options: argparse.Namespace) -> Settings:
    """What this vendor starts with: the options for all, then those that name it.

    Raises: ValueError.
    """
    wish = {
        name: getattr(options, name)
        for name in ("slow_s", "rate_limit_per_minute", "key_lifetime_s", "hang_up")
        if getattr(options, name) is not None
    }
    for text in options.set:
        place, is_set, value = text.partition("=")
        owner, has_owner, name = place.partition(".")
        if not is_set or not has_owner or owner not in PLAYERS:
            raise ValueError(f"--set takes VENDOR.SETTING=VALUE, with one of {list(PLAYERS)}")
        if owner == vendor:
            wish[name] = _value(value)
    return PLAYERS[vendor].settings_type().changed(wish)


def _value(text: str) -> object:
    """JSON where it is JSON, else the text itself, so that words need no quotes."""
    try:
        return json.loads(text)
    except ValueError:
        return text


async def _play(options: argparse.Namespace, settings: Mapping[str, Settings]) -> None:
    is_over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, is_over.set)
    async with AsyncExitStack() as stack:
        _forget(options.ready_file)
        stack.callback(_forget, options.ready_file)
        players = []
        for name, make in PLAYERS.items():
            player = make(
                options.data_dir,
                getattr(options, f"{name}_port"),
                settings=settings[name],
                seed=options.seed,
                is_reset=options.reset,
            )
            await player.start()
            stack.push_async_callback(player.stop)
            players.append(player)
        _announce(players, options.ready_file)
        await _wait(is_over, options.parent_pid)


def _announce(players: Sequence[Player], ready_file: Path | None) -> None:
    """Say where the players are: one line of JSON, on stdout and, appearing whole, in the file."""
    addresses = {
        player.name: {
            "base_url": player.base_url,
            "control_url": player.control_url,
        }
        for player in players
    }
    text = json.dumps({"pid": os.getpid(), "players": addresses}) + "\n"
    if ready_file is not None:
        ready_file.parent.mkdir(parents=True, exist_ok=True)
        draft = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
        draft.write_text(text)
        draft.replace(ready_file)
    sys.stdout.write(text)
    sys.stdout.flush()


def _forget(ready_file: Path | None) -> None:
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)


async def _wait(is_over: asyncio.Event, parent_pid: int | None) -> None:
    """Until a signal, or until the supervisor is gone.

    The supervisor is not the gateway: killing that must never end the vendors' truth.
    """
    is_child = os.getppid() == parent_pid
    while not is_over.is_set():
        try:
            async with asyncio.timeout(None if parent_pid is None else PARENT_POLL_S):
                await is_over.wait()
        except TimeoutError:
            assert parent_pid is not None
            # A dead parent of ours may stay a zombie for a while; then only our own tells.
            if (is_child and os.getppid() != parent_pid) or not _is_alive(parent_pid):
                return


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loyalty_gateway.sandbox.players",
        description="Play the vendors on 127.0.0.1, each on a port of its own, until SIGTERM.",
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="where the ledgers are kept")
    for name in PLAYERS:
        parser.add_argument(f"--{name}-port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--seed", type=int, default=1, help="chooses the past of the cards")
    parser.add_argument("--reset", action="store_true", help="forget all bookings, seed again")
    parser.add_argument("--parent-pid", type=int, help="end when this process is gone")
    parser.add_argument("--ready-file", type=Path, help="gets the addresses as JSON when ready")
    parser.add_argument("--slow-s", type=float, help="of slow faults")
    parser.add_argument("--rate-limit-per-minute", type=int, help="default: no limit")
    parser.add_argument("--key-lifetime-s", type=int, help="of every vendor")
    parser.add_argument("--hang-up", choices=("fin", "reset"), help="default: fin")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="VENDOR.SETTING=VALUE",
        help="a setting of one vendor, as its control surface has it; may be given again",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
