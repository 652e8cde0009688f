"""Hurts real gateways in every way of the fault plan, and prints whether a promise was broken.

`python -m tests.faults.quick --seed 7` repeats the choice of operations and faults of a run, not
the kernel's choice of what comes first.
"""

import os

# No child of ours uses gRPC before it is a program of its own; without this the library says now
# and then that it could not look after one. It reads the variable while it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.faults import cells
from tests.faults.cells import SETTINGS, SLOW_S, Cell, Lane
from tests.faults.database import Database
from tests.faults.fleet import Fleet
from tests.faults.report import Report

MINUTES_DEFAULT: Final = 0.25
CELL_LIMIT_S: Final = 180.0
REPORT_DEFAULT: Final = Path(".build/faults.json")
# The folder holds sockets, whose paths may be no longer than about a hundred characters.
FOLDER_PREFIX: Final = "lgf-"

ON_SQLITE: Final[tuple[Cell, ...]] = (
    cells.points,
    cells.vendor_faults,
    cells.random_kills,
    cells.sigterms,
)
ON_POSTGRESQL: Final[tuple[Cell, ...]] = (
    cells.points,
    cells.vendor_faults,
    cells.random_kills,
    cells.sigterms,
    cells.database_restarts,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where nothing is wrong, 1 on a violation or where too little happened to say so."""
    options = _parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else time.time_ns() // 1_000_000 % 1_000_000
    print(f"Seed {seed} (--seed {seed} chooses the same operations and faults)", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    report = Report(seed)
    began = time.monotonic()
    asyncio.run(_run(options, folder, report))
    report.seconds = time.monotonic() - began
    is_whole = not (options.replicas_only or options.only)
    report.write(options.report, is_whole=is_whole)
    print(f"\n{report.table()}\n")
    missed = report.floors_missed(is_whole=is_whole)
    for line in report.violations:
        print(f"VIOLATION {line}")
    for line in missed:
        print(f"INVALID {line}")
    is_good = not (report.violations or missed)
    if is_good:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"Journals, ledgers and logs are left in {folder}")
    verdict = "0 lost, 0 double, 0 contradicted" if is_good else "FAILED"
    print(f"{verdict}; seed {seed}, {report.seconds:.0f} s, report in {options.report}")
    return 0 if is_good else 1


async def _run(options: argparse.Namespace, folder: Path, report: Report) -> None:
    database = Database(folder)
    random_s = options.minutes * 60
    wanted = options.only

    def lane(folder_name: str, names: Sequence[str], dsn: str = "") -> Lane:
        fleet = Fleet(
            folder / folder_name,
            names=names,
            settings=SETTINGS,
            player_options=["--slow-s", SLOW_S],
            dsn=dsn,
        )
        label = "PostgreSQL" if dsn else "SQLite"
        return Lane(label, fleet, report, report.seed, random_s, database if dsn else None, _say)

    def chosen(of: Sequence[Cell]) -> list[Cell]:
        return [cell for cell in of if not wanted or cell.__name__ in wanted]

    async def run(lane: Lane, of: Sequence[Cell]) -> None:
        if not of:
            return
        await lane.fleet.open()
        try:
            for cell in of:
                async with asyncio.timeout(random_s * 2 + CELL_LIMIT_S):
                    await cell(lane)
        except Exception as error:
            # The other lanes go on: what they find is worth having.
            report.broken.append(f"{cell.__name__} on {lane.label} broke: {error!r}")
        finally:
            await lane.close()

    async def on_sqlite() -> None:
        if not options.replicas_only:
            await run(lane("file", ["server"]), chosen(ON_SQLITE))

    async def on_postgresql() -> None:
        await database.start()
        if not options.replicas_only:
            one = lane("one", ["server"], database.create("one_gateway"))
            await run(one, chosen(ON_POSTGRESQL))

    async def together() -> None:
        two = lane("two", ["first", "second"], database.create("two_gateways"))
        await run(two, chosen([cells.replicas]))

    try:
        # Side by side as far as they do not disturb each other's clocks.
        async with asyncio.TaskGroup() as group:
            group.create_task(on_sqlite())
            group.create_task(on_postgresql())
        await together()
    finally:
        await database.stop()


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.quick", description=__doc__)
    parser.add_argument("--seed", type=int, help="default: another one every time")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES_DEFAULT, help="length of each random part"
    )
    parser.add_argument(
        "--replicas-only", action="store_true", help="only the two replicas on one database"
    )
    parser.add_argument("--only", action="append", help="cells by name, for looking into one")
    parser.add_argument("--report", type=Path, default=REPORT_DEFAULT, help="where the JSON goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
