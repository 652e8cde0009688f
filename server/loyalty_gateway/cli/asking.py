"""Where a command's question goes and how long it waits; shared by all that ask a server."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from loyalty_gateway.cli.client import Server, connect
from loyalty_gateway.cli.failure import UsageFailed

TIMEOUT_S_MAX = 60.0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """Where the question goes and how its answer is printed; shared by every command here."""

    server: Annotated[
        str,
        Parameter(env_var="LOYALTY_SERVER", help="The running server, HOST:PORT.", group="Server"),
    ] = "127.0.0.1:50051"
    timeout: Annotated[
        float, Parameter(help="Seconds to wait for an answer, 0.3 to 60.", group="Server")
    ] = 10.0
    json: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Print one JSON document (the contract's message) for programs.",
            group="Server",
        ),
    ] = False


ASKED = Asked()
"""The server of this machine, asked as people do."""


def open_server(asked: Asked) -> AbstractContextManager[Server]:
    """A channel to the server that is asked. Raises UsageFailed for what cannot be one."""
    check_timeout(asked.timeout)
    return connect(check_address(asked.server), asked.timeout)


def check_timeout(timeout_s: float) -> float:
    """Raises UsageFailed where a call could not be answered within it, or never ended."""
    if not 0.3 <= timeout_s <= TIMEOUT_S_MAX:
        raise UsageFailed(f"--timeout must be from 0.3 to {TIMEOUT_S_MAX:g} seconds.")
    return timeout_s


def check_address(address: str) -> str:
    """Raises UsageFailed where it is no HOST:PORT."""
    if not re.fullmatch(r"\S+:\d{1,5}", address):
        raise UsageFailed("--server (LOYALTY_SERVER) must be HOST:PORT, such as 127.0.0.1:50051.")
    return address
