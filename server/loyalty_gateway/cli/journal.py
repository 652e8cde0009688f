"""`loyalty journal`: what only a person may decide about the database; it never decides for one."""

import sys
from typing import Annotated

from cyclopts import App, Parameter

from loyalty_gateway.cli import ConfigFile
from loyalty_gateway.cli.configuration import journal_place, read_settings
from loyalty_gateway.cli.failure import CommandFailed, UsageFailed

journal_app = App(
    name="journal",
    help="Decide about the journal's database what no machine may decide.",
    help_epilogue="Example: `loyalty journal accept --config /etc/loyalty/loyalty.toml`",
)


@journal_app.command(
    help_epilogue="""Examples:

```
loyalty journal accept --config /etc/loyalty/loyalty.toml
loyalty journal accept --config /etc/loyalty/loyalty.toml --yes
```
"""
)
def accept(
    *,
    config: ConfigFile = None,
    yes: Annotated[
        bool, Parameter(negative=(), show_default=False, help="You have compared; do not ask.")
    ] = False,
) -> None:
    """Accept a PostgreSQL journal that was promoted from a standby.

    A standby that was not synchronous may lack the last commits: bookings that were sent could
    be forgotten, and a repeat could send them again. With `journal.ha = "none"` every server
    therefore refuses bookings after a promotion. Compare the vendors' statements of the last
    minutes before it first; docs/operations.md says how. Running servers go on by themselves
    within seconds.
    """
    settings = read_settings(config, {})
    place = journal_place(settings)
    if settings.journal.dsn is None:
        raise UsageFailed(f"the journal is the SQLite file {place}, which nobody promotes.")
    if not yes:
        _confirm(place)
    from loyalty_gateway.app import StartRefused, accept_journal

    try:
        accept_journal(settings)
    except StartRefused as error:
        raise CommandFailed(str(error)) from error
    print(f"The journal {place} is accepted as it stands.")


def _confirm(place: str) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageFailed("only a person may accept a journal; say so with --yes.")
    print(
        f"The journal {place} was promoted and may have forgotten its last bookings.\n"
        "Have you compared the vendors' statements, and accept it as it stands? [y/N] ",
        end="",
        file=sys.stderr,
    )
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed("nothing was changed.")
