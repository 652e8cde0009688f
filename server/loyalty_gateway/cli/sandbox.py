"""`loyalty sandbox` and the server inside it: starts the supervisor, and prints for a person."""

import asyncio
import importlib.util
import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

from loyalty_gateway.cli.configuration import read_settings, server_addresses
from loyalty_gateway.cli.failure import UsageFailed
from loyalty_gateway.cli.sandbox_home import open_home
from loyalty_gateway.supervisor import Addresses, Supervisor, Vendors, read_server_settings

DATA_DIR_DEFAULT = Path(".sandbox")
_PLAYERS_NEED = ("aiohttp", "jsonschema", "yaml")


def run_sandbox(
    data_dir: Path,
    *,
    is_reset: bool,
    listen: str | None,
    admin_listen: str | None,
    metrics_listen: str | None,
) -> int:
    """The sandbox from start to stop; the exit code is 0 after a clean stop.

    Raises: UsageFailed, CommandFailed.
    """
    began = time.monotonic()
    missing = [name for name in _PLAYERS_NEED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageFailed(
            f"the sandbox needs {', '.join(missing)}, which a production install leaves out. "
            "Install it with `pip install 'loyalty-gateway[sandbox]'`."
        )
    settings = read_server_settings(listen, admin_listen, metrics_listen)
    home = open_home(data_dir)
    home.rotate_logs()
    if is_reset:
        home.reset()
        tell("The journal and the vendors' ledgers are as on the first day.")
    same_folder = data_dir == DATA_DIR_DEFAULT
    data_dir_option = "" if same_folder else f" --data-dir {shlex.quote(str(data_dir))}"

    def show(addresses: Addresses, vendors: Vendors) -> None:
        seconds = time.monotonic() - began
        # Loaded only here: the server is being started while this takes its time.
        from loyalty_gateway.cli.first_screen import FirstScreen, fetch_tables
        from loyalty_gateway.cli.screen import Screen

        cards, faults = fetch_tables(vendors.control_urls)
        first_screen = FirstScreen(
            addresses=addresses,
            folder=home.folder,
            control_urls=vendors.control_urls,
            data_dir_option=data_dir_option,
            cards=cards,
            faults=faults,
            seconds=seconds,
        )
        Screen().show(*first_screen.parts())

    asyncio.run(Supervisor(home, settings, tell, show).run())
    from loyalty_gateway.cli.first_screen import find_loyalty

    again = f"{find_loyalty()} sandbox{data_dir_option}"
    tell(f"Stopped. Go on with `{again}`; start afresh with `{again} --reset`.")
    return 0


def serve_sandbox(
    config: Path,
    *,
    listen: str | None,
    admin_listen: str | None,
    metrics_listen: str | None,
    waits: bool,
) -> int:
    """The server as the supervisor's child; it drains and ends when the supervisor is gone.

    With `waits` it loads its libraries and then waits for a line on its standard input, before
    which the configuration may not be there.
    """
    from loyalty_gateway import app

    if waits and not os.read(sys.stdin.fileno(), 1):
        return 0
    threading.Thread(target=_end_with_supervisor, name="supervisor-watch", daemon=True).start()
    overrides = server_addresses(listen, admin_listen, metrics_listen)
    return app.run(read_settings(config, overrides, required_profile="sandbox"))


def _end_with_supervisor() -> None:
    """Waits for the end of the pipe that the supervisor holds, then asks for a clean stop."""
    while os.read(sys.stdin.fileno(), 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def tell(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:
        # The terminal is gone; the sandbox still has to stop in good order.
        return
