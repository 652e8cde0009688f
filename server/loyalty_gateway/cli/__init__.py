"""The command line: what can be asked and how it ends; it must never show a stack trace.

The modules behind the commands are loaded when a command is run, so that `loyalty --help` is
quick and one command does not pay for the libraries of another.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from loyalty_gateway import __version__
from loyalty_gateway.cli.failure import (
    REFUSED_EXIT_CODE,
    USAGE_EXIT_CODE,
    CommandFailed,
    UsageFailed,
)

INTERRUPTED_EXIT_CODE = 130

_HELP = """One gRPC contract for many loyalty vendors; every booking exactly once, or you are
told why not.

Begin with `loyalty sandbox`: it plays the vendors on this machine and prints what to type next.
"""

_EPILOGUE = """Examples:

```
loyalty sandbox
loyalty serve --config /etc/loyalty/loyalty.toml
loyalty doctor --config /etc/loyalty/loyalty.toml
loyalty bookings list --state in-doubt --state needs-review
loyalty bookings explain till-7-000123
loyalty bookings resolve --from decisions.csv --dry-run
```

Environment:

- `LOYALTY_SERVER`: the running server that `bookings`, `connections`, `prove` and `doctor` ask
- `LOYALTY_LISTEN`, `LOYALTY_ADMIN_LISTEN`, `LOYALTY_METRICS_LISTEN`: where a server listens
- `LOYALTY_CONFIG`: the configuration file; every setting in it has a `LOYALTY_*` variable too

Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration.
"""

app = App(
    name="loyalty",
    help=_HELP,
    help_epilogue=_EPILOGUE,
    help_format="markdown",
    version=__version__,
    default_parameter=Parameter(show_env_var=True),
)
app.command(
    "loyalty_gateway.cli.bookings:bookings_app",
    name="bookings",
    help="Look into the journal of a running server, and end a doubt.",
)
app.command(
    "loyalty_gateway.cli.bookings:connections_app",
    name="connections",
    help="See the connections of a running server and what each can do.",
)
app.command(
    "loyalty_gateway.cli.journal:journal_app",
    name="journal",
    help="Decide about the journal's database what no machine may decide.",
)

ConfigFile = Annotated[
    Path | None,
    Parameter(name="--config", env_var="LOYALTY_CONFIG", help="The configuration file (TOML)."),
]
_Json = Annotated[
    bool,
    Parameter(
        negative=(), show_default=False, help="Print one JSON document for programs, not a table."
    ),
]
_Listen = Annotated[
    str | None,
    Parameter(help="Where to answer gRPC, HOST:PORT (also LOYALTY_LISTEN; else 127.0.0.1:50051)."),
]
_AdminListen = Annotated[
    str | None,
    Parameter(help="Where to answer health checks (also LOYALTY_ADMIN_LISTEN)."),
]
_MetricsListen = Annotated[
    str | None,
    Parameter(help="Where to serve Prometheus metrics (also LOYALTY_METRICS_LISTEN)."),
]


@app.command(
    help_epilogue="""Examples:

```
loyalty sandbox
loyalty sandbox --data-dir /tmp/second --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0
```
"""
)
def sandbox(
    *,
    data_dir: Annotated[
        Path, Parameter(help="The folder of the journal, the vendors' ledgers, keys and logs.")
    ] = Path(".sandbox"),
    reset: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Forget first what was booked here before."
        ),
    ] = False,
    listen: _Listen = None,
    admin_listen: _AdminListen = None,
    metrics_listen: _MetricsListen = None,
) -> int:
    """Start a server with played vendors on this machine, and print what to type next.

    Everything is kept in one folder, so that it goes on where it was. Ctrl-C stops it; killing
    the server does not end the vendors, and nothing that was sent is forgotten.
    """
    from loyalty_gateway.cli.sandbox import run_sandbox

    return run_sandbox(
        data_dir,
        is_reset=reset,
        listen=listen,
        admin_listen=admin_listen,
        metrics_listen=metrics_listen,
    )


@app.command(help_epilogue="Example: `loyalty serve --config /etc/loyalty/loyalty.toml`")
def serve(*, config: ConfigFile = None) -> int:
    """Run the server in production, until SIGTERM.

    A setting that is missing, unknown or unsafe stops the start and is named. Callers are not
    authenticated yet, so only loopback addresses are served, unless the configuration says that a
    proxy which you trust stands before them. SIGTERM drains: what was sent is finished first.
    """
    from loyalty_gateway.cli.configuration import read_settings

    settings = read_settings(config, {}, required_profile="production")
    from loyalty_gateway.app import run

    return run(settings)


@app.command(help_epilogue="Example: `loyalty migrate --config /etc/loyalty/loyalty.toml`")
def migrate(*, config: ConfigFile = None) -> None:
    """Bring the journal's tables to this version; a server does the same when it starts.

    The configuration says which journal: a SQLite file, which no server may be using, or a
    PostgreSQL database, whose running servers go on meanwhile. Running it again changes nothing.
    """
    from loyalty_gateway.cli.configuration import journal_place, read_settings

    settings = read_settings(config, {})
    from loyalty_gateway.app import StartRefused, migrate

    try:
        migrate(settings)
    except StartRefused as error:
        raise UsageFailed(str(error)) from error
    print(f"The journal {journal_place(settings)} fits this version.")


@app.command(
    name="config", help_epilogue="Example: `loyalty config --config /etc/loyalty/loyalty.toml`"
)
def show_config(*, config: ConfigFile = None) -> None:
    """Print the effective settings (file, then LOYALTY_* variables) as JSON, secrets masked."""
    import json

    from loyalty_gateway.cli.configuration import read_settings
    from loyalty_gateway.config import masked

    print(json.dumps(masked(read_settings(config, {})), indent=2, ensure_ascii=False))


@app.command(
    help_epilogue="""Examples:

```
loyalty doctor
loyalty doctor --config /etc/loyalty/loyalty.toml
loyalty doctor --server 10.0.0.7:50051 --json
```
"""
)
def doctor(
    *,
    config: ConfigFile = None,
    server: Annotated[
        str | None,
        Parameter(
            env_var="LOYALTY_SERVER",
            help="The running server, HOST:PORT (else where the configuration lets it listen).",
        ),
    ] = None,
    timeout: Annotated[float, Parameter(help="Seconds to wait for an answer, 0.3 to 60.")] = 30.0,
    json: _Json = False,
) -> int:
    """Look at every part that a gateway needs: a line each with ok, warn or fail.

    The configuration is read. The journal's database is looked at and never changed: reachable,
    durable, its migration, the room on its volume. The clock is compared with the database's and
    the vendors'. Each vendor is asked something harmless that needs our credentials; a running
    server is asked how it meets them, and without one they are asked from here.

    The exit code is 1 when any line says fail.
    """
    from loyalty_gateway.cli.doctor import run_doctor

    return run_doctor(config, server=server, timeout=timeout, is_json=json)


@app.command(
    help_epilogue="""Examples:

```
loyalty prove cashassist
loyalty prove cashassist --json
```
"""
)
def prove(
    connection: Annotated[str, Parameter(name="CONNECTION", help="The connection's id.")],
    /,
    *,
    server: Annotated[
        str, Parameter(env_var="LOYALTY_SERVER", help="The running server, HOST:PORT.")
    ] = "127.0.0.1:50051",
    timeout: Annotated[float, Parameter(help="Seconds to wait for an answer, 0.3 to 60.")] = 60.0,
    json: _Json = False,
) -> int:
    """Put the promises of a connection to the proof, on its test account.

    How a lost answer is recovered rests on what the vendor promises, for example that a booking
    which is sent twice is booked once. The running server books small amounts on the test account
    that the connection's settings name, and keeps what it saw with the date, for this vendor and
    this credential. What is seen not to hold counts at once.

    A proof goes on when the time is over; asking again hears of the same run. The exit code is 1
    when a promise could not be put to the proof, and what was known of it then stays.
    """
    from loyalty_gateway.cli.proving import run_prove

    return run_prove(connection, server=server, timeout=timeout, is_json=json)


@app.command(help_epilogue="Example: `loyalty version`")
def version() -> None:
    """Print the version of this program and of what it runs on."""
    import platform
    from importlib.metadata import version as version_of

    print(f"loyalty-gateway {__version__}")
    print(f"python {platform.python_version()}, grpcio {version_of('grpcio')}")


@app.command(name="_serve-sandbox", show=False)
def serve_sandbox(
    *,
    config: Annotated[Path, Parameter(name="--config")],
    listen: str | None = None,
    admin_listen: str | None = None,
    metrics_listen: str | None = None,
    wait: bool = False,
) -> int:
    """The server inside `loyalty sandbox`; not for people."""
    from loyalty_gateway.cli.sandbox import serve_sandbox

    return serve_sandbox(
        config,
        listen=listen,
        admin_listen=admin_listen,
        metrics_listen=metrics_listen,
        waits=wait,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # The gRPC library would put lines of its own between ours, about connections that close.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        print(f"loyalty: {_one_line(error)} See `loyalty --help`.", file=sys.stderr)
        return USAGE_EXIT_CODE
    except CommandFailed as failure:
        failure.show(is_json="--json" in words)
        return failure.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # The reader has seen enough, as `head` does; Python must not complain at its exit.
        sys.stdout = None
        return REFUSED_EXIT_CODE
    except Exception as error:
        print(f"loyalty: {_describe_fault(error)}", file=sys.stderr)
        return REFUSED_EXIT_CODE
    return result if isinstance(result, int) else 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _describe_fault(error: Exception) -> str:
    """A bug of ours in one line, with the place that whoever mends it must look at."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
    kind = type(error).__name__
    return f"a fault of this program, please report it: {kind}: {_one_line(error)}{where}"
