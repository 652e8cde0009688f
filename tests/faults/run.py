"""Hurts real gateways in every way of the fault plan, and prints whether a promise was broken.

`python -m tests.faults.run --seed 7` repeats the choices of a run: which operations and faults,
as far as they hang on nothing that was answered meanwhile; not the kernel's choice of what comes
first. `--size` is how much of the plan is run: a sample of it,
every cell once, or every cell again and again.
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
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults import broken_databases, cells, contended
from tests.faults.cells import Cell
from tests.faults.database import Database
from tests.faults.fleet import Fleet
from tests.faults.lane import PLAYER_OPTIONS, SETTINGS, Lane
from tests.faults.report import Floors, Report
from tests.faults.trades import TRADES
from tests.journal.proxy import running_proxy

CELL_LIMIT_S: Final = 1_800.0
REPORT_DEFAULT: Final = Path(".build/faults.json")
# The folder holds sockets, whose paths may be no longer than about a hundred characters.
FOLDER_PREFIX: Final = "lgf-"


@dataclass(frozen=True, slots=True)
class Size:
    """How much of the plan is run. `rounds` is how often all of it."""

    minutes: float
    """The length of each random part."""
    floors: Floors
    is_full: bool = False
    rounds: int = 1


SIZES: Final = {
    "quick": Size(0.2, Floors()),
    "full": Size(0.75, Floors(kills=150, keys=10_000), is_full=True),
    "nightly": Size(3.0, Floors(kills=600, keys=50_000), is_full=True, rounds=3),
}

Plan = tuple[Cell, ...]
ON_SQLITE: Final[Plan] = (
    cells.points,
    cells.gates,
    cells.vendor_faults,
    cells.random_kills,
    cells.sigterms,
    broken_databases.disk_full,
    broken_databases.clocks,
    contended.damaged_answers,
    contended.restores,
)
ON_POSTGRESQL: Final[Plan] = (
    cells.points,
    cells.vendor_faults,
    cells.random_kills,
    cells.sigterms,
    cells.database_restarts,
    broken_databases.cuts,
    broken_databases.black_holes,
    contended.conflicts,
    contended.no_slots,
    contended.damaged_answers,
    # The last, since its database is another one afterwards.
    broken_databases.promotions,
)
WITH_REPLICAS: Final[Plan] = (cells.replicas, broken_databases.rolling_restarts)
NOT_QUICK: Final = frozenset(
    {
        # What is the same with both journals is sampled with one.
        (cells.vendor_faults, "one"),
        (cells.random_kills, "one"),
        (cells.sigterms, "one"),
        (broken_databases.disk_full, "file"),
        (broken_databases.clocks, "file"),
        (broken_databases.black_holes, "one"),
        (contended.restores, "file"),
        (contended.conflicts, "one"),
        (contended.no_slots, "one"),
        (contended.damaged_answers, "one"),
        (broken_databases.promotions, "one"),
        (broken_databases.rolling_restarts, "more"),
    }
)
"""Cells, with the folder of the fleet that they are left out on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where nothing is wrong, 1 on a violation or where too little happened to say so."""
    options = _parser().parse_args(arguments)
    size = SIZES[options.size]
    seed = options.seed if options.seed is not None else time.time_ns() // 1_000_000 % 1_000_000
    print(f"Seed {seed} (--seed {seed} chooses the same operations and faults)", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    # The database runs as a user of its own where this process is root, and must get in.
    folder.chmod(0o755)
    report = Report(seed)
    began = time.monotonic()
    for number in range(size.rounds):
        asyncio.run(_Run(options, size, folder / str(number), report, seed + number).run())
    report.seconds = time.monotonic() - began
    is_whole = not (options.only or options.vendor)
    report.write(options.report, size.floors, is_whole=is_whole)
    print(f"\n{report.table()}\n")
    missed = report.floors_missed(size.floors, is_whole=is_whole)
    if options.keep and is_whole and size.is_full and not missed and not report.broken:
        report.keep(options.keep)
    for line in report.violations:
        print(f"VIOLATION {line}")
    for line in report.stories:
        print(line)
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


class _Run:
    """One round of the plan, on fleets of its own."""

    def __init__(
        self, options: argparse.Namespace, size: Size, folder: Path, report: Report, seed: int
    ) -> None:
        self._options = options
        self._size = size
        self._folder = folder
        self._report = report
        self._seed = seed
        folder.mkdir(mode=0o755)
        self._database = Database(folder)
        # Of their own, since the other one is crashed again and again.
        shared = folder / "shared"
        shared.mkdir(mode=0o755)
        self._replicas_database = Database(shared)

    async def run(self) -> None:
        try:
            # Side by side as far as they do not disturb each other's clocks.
            async with asyncio.TaskGroup() as group:
                group.create_task(self._on_sqlite())
                group.create_task(self._on_postgresql())
        finally:
            await self._database.stop()

    async def _on_sqlite(self) -> None:
        await self._play("file", ["server"], self._chosen(ON_SQLITE, "file"))
        await self._together()

    async def _on_postgresql(self) -> None:
        plan = self._chosen(ON_POSTGRESQL, "one")
        if plan:
            await self._database.start()
            await self._play("one", ["server"], plan, self._database)

    async def _together(self) -> None:
        plan = self._chosen(WITH_REPLICAS, "more")
        if not plan:
            return
        names = ["first", "second", "third"][: 3 if self._size.is_full else 2]
        await self._replicas_database.start()
        try:
            await self._play("more", names, plan, self._replicas_database)
        finally:
            await self._replicas_database.stop()

    def _chosen(self, plan: Plan, folder: str) -> Plan:
        wanted = self._options.only
        if wanted:
            return tuple(cell for cell in plan if cell.__name__ in wanted)
        return tuple(cell for cell in plan if self._size.is_full or (cell, folder) not in NOT_QUICK)

    async def _play(
        self, folder: str, names: Sequence[str], plan: Plan, database: Database | None = None
    ) -> None:
        """The cells of a plan, one after the other, on one fleet."""
        if not plan:
            return
        async with AsyncExitStack() as stack:
            dsn = wire_dsn = ""
            proxy = None
            if database is not None:
                dsn = database.create(f"{folder}_gateways")
                proxy = await stack.enter_async_context(running_proxy(dsn))
                wire_dsn = proxy.dsn
            fleet = Fleet(
                self._folder / folder,
                names=names,
                settings=SETTINGS,
                player_options=PLAYER_OPTIONS,
                dsn=dsn,
                wire_dsn=wire_dsn,
            )
            lane = Lane(
                "SQLite" if database is None else "PostgreSQL",
                fleet,
                self._report,
                self._seed,
                (self._options.minutes or self._size.minutes) * 60,
                database,
                proxy,
                _say,
                self._size.is_full,
                vendors=tuple(self._options.vendor or TRADES),
            )
            await fleet.open()
            try:
                for cell in plan:
                    async with asyncio.timeout(lane.random_s * 2 + CELL_LIMIT_S):
                        await cell(lane)
            except Exception as error:
                # The other lanes go on: what they find is worth having.
                self._report.broken.append(f"{cell.__name__} on {lane.label} broke: {error!r}")
            finally:
                await lane.close()


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="quick")
    parser.add_argument("--seed", type=int, help="default: another one every time")
    parser.add_argument("--minutes", type=float, help="length of each random part")
    parser.add_argument("--only", action="append", help="cells by name, for looking into one")
    parser.add_argument(
        "--vendor", action="append", choices=list(TRADES), help="book with these vendors alone"
    )
    parser.add_argument("--keep", type=Path, help="the file whose last runs docs/ prints")
    parser.add_argument("--report", type=Path, default=REPORT_DEFAULT, help="where the JSON goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
