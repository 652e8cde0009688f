"""The table of a run, its JSON, and the floors below which a run has proven nothing."""

import json
import os
import platform
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from loyalty_gateway.failpoints import POINTS
from loyalty_gateway.sandbox.faults import FAULTS
from tests.faults.history import Summary, percentile
from tests.faults.operator import Review
from tests.faults.trades import TRADES

ACKED_SHARE_MIN: Final = 0.3
RUNS_KEPT: Final = 3
KEYS_TO_COUNT: Final = 50
TERMINAL_STATES: Final = ("SUCCEEDED", "DECLINED", "NOT_EXECUTED", "REVERSED")
HEADINGS: Final = (
    *("cell", "kills", "harms", "keys", "acked", "in doubt", "resolved", "alone", "review"),
    *("p50 s", "p95 s", "takeovers", "slowest s", "violations"),
)


@dataclass(frozen=True, slots=True)
class Floors:
    """How much has to happen in a whole run at least."""

    kills: int = 25
    keys: int = 500


@dataclass(slots=True, kw_only=True)
class Result:
    """What one cell did and what was found wrong in it."""

    cell: str
    summary: Summary
    kills: int = 0
    """Processes that were killed at once: gateways by SIGKILL, databases by a crash."""
    harms: int = 0
    """What else was done: an end or a restart in good order, a line cut, a disk filled."""
    is_of_doubts: bool = False
    """Whether its callers need not hear a single OK: its kills are what it is for."""
    needs_review: int = 0
    """Bookings that only a person could end, those that somebody ended included."""
    takeovers_s: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    floors_missed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def require(self, holds: bool, what: str) -> None:
        """A floor: where it is missed, the cell has proven nothing."""
        if not holds:
            self.floors_missed.append(f"{self.cell}: {what}")


@dataclass(slots=True)
class Report:
    """All cells of a run."""

    seed: int
    results: list[Result] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Cells that could not be run to their end."""
    points_fired: set[str] = field(default_factory=set)
    faults_fired: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    cancels: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    """Bookings that were executed, by vendor and rpc."""
    matrix: Counter[str] = field(default_factory=Counter)
    """Bookings that met a fault on purpose, by vendor and rpc."""
    offered: set[str] = field(default_factory=set)
    """Every vendor's rpcs that book."""
    reviews: Counter[Review] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)
    """The timelines of what something was wrong with."""
    seconds: float = 0.0

    def floors_missed(self, floors: Floors, *, is_whole: bool) -> list[str]:
        """What did not happen often enough; `is_whole` where no cell was left out."""
        missed = [line for result in self.results for line in result.floors_missed]
        if not self.results:
            return ["no cell was run"]
        for result in [*self.results, self._sum()]:
            summary = result.summary
            # Of a handful of keys a few more or less say nothing, and those of a cell that needs
            # nothing but doubts may all end without an OK: it has its kill for a floor.
            is_counted = summary.keys >= KEYS_TO_COUNT and not result.is_of_doubts
            share = ACKED_SHARE_MIN if is_counted else 0.0
            is_bare = not summary.acked and not result.kills + result.harms
            if summary.acked < share * summary.keys or is_bare:
                missed.append(f"{result.cell}: {summary.acked} of {summary.keys} keys acked")
        if not is_whole:
            return missed
        missed += [f"failpoint {it} never killed" for it in POINTS if it not in self.points_fired]
        names = [f"{vendor} {fault.name}" for vendor in TRADES for fault in FAULTS]
        missed += [f"fault {name} never fired" for name in names if not self.faults_fired[name]]
        missed += [f"no {rpc} was executed" for rpc in self.offered if not self.methods[rpc]]
        missed += [f"no booking ended {it}" for it in TERMINAL_STATES if not self.states[it]]
        keys = sum(result.summary.keys for result in self.results)
        kills = sum(result.kills for result in self.results)
        if keys < floors.keys or kills < floors.kills:
            missed.append(f"{kills} kills and {keys} keys, at least {floors} are wanted")
        for what, count in (
            ("conflicts", sum(result.summary.conflicts for result in self.results)),
            ("replays", sum(result.summary.replays for result in self.results)),
            ("cancels", self.cancels["OK"]),
        ):
            if count < keys / 100:
                missed.append(f"{count} {what} in {keys} keys, less than one in a hundred")
        return missed

    @property
    def violations(self) -> list[str]:
        found = [f"{it.cell}: {line}" for it in self.results for line in it.violations]
        return [*self.broken, *found]

    def table(self) -> str:
        """For people: one line a cell, and their sum."""
        rows = [HEADINGS, *(_row(it) for it in self.results), _row(self._sum())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines = [
            "  ".join(
                text.ljust(width) if column == 0 else text.rjust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def _sum(self) -> Result:
        parts = [it.summary for it in self.results]
        return Result(
            cell="all",
            kills=sum(it.kills for it in self.results),
            harms=sum(it.harms for it in self.results),
            needs_review=sum(it.needs_review for it in self.results),
            takeovers_s=[s for it in self.results for s in it.takeovers_s],
            violations=[line for it in self.results for line in it.violations],
            summary=Summary(
                keys=sum(it.keys for it in parts),
                acked=sum(it.acked for it in parts),
                in_doubt=sum(it.in_doubt for it in parts),
                resolved=sum(it.resolved for it in parts),
                resolved_alone=sum(it.resolved_alone for it in parts),
                resolve_s=tuple(sorted(s for it in parts for s in it.resolve_s)),
                replays=sum(it.replays for it in parts),
                conflicts=sum(it.conflicts for it in parts),
            ),
        )

    def write(self, path: Path, floors: Floors, *, is_whole: bool) -> None:
        """The same and more, for programs."""
        content = {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "violations": self.violations,
            "floors_missed": self.floors_missed(floors, is_whole=is_whole),
            "points_fired": sorted(self.points_fired),
            "faults_fired": dict(sorted(self.faults_fired.items())),
            "states": dict(sorted(self.states.items())),
            "cancels": dict(sorted(self.cancels.items())),
            "executed": dict(sorted(self.methods.items())),
            "met_faults": dict(sorted(self.matrix.items())),
            "reviews": [{**asdict(it), "count": count} for it, count in self.reviews.items()],
            "stories": self.stories,
            "cells": [asdict(it) for it in [*self.results, self._sum()]],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")

    def keep(self, path: Path) -> None:
        """Puts the counts of this run behind those of the last ones, for docs/guarantees.md."""
        runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        system = f"{os.cpu_count()} cores, Python {platform.python_version()}"
        this = {
            "seed": self.seed,
            "day": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": f"{platform.system()}, {system}",
            "seconds": round(self.seconds),
            "reviews": [
                {**asdict(it), "count": count} for it, count in sorted(self.reviews.items())
            ],
            "cells": [_counts(it) for it in [*self.results, self._sum()]],
        }
        runs = [*(it for it in runs if it["seed"] != self.seed), this][-RUNS_KEPT:]
        path.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


def _counts(result: Result) -> dict[str, Any]:
    summary = result.summary
    p50_s, p95_s = (percentile(summary.resolve_s, share) for share in (0.5, 0.95))
    return {
        "cell": result.cell,
        "kills": result.kills,
        "harms": result.harms,
        "keys": summary.keys,
        "acked": summary.acked,
        "in_doubt": summary.in_doubt,
        "resolved": summary.resolved,
        "resolved_alone": summary.resolved_alone,
        "needs_review": result.needs_review,
        "p50_s": p50_s and round(p50_s, 2),
        "p95_s": p95_s and round(p95_s, 2),
        "violations": len(result.violations),
    }


def _row(result: Result) -> tuple[str, ...]:
    summary = result.summary
    slowest = max(result.takeovers_s, default=None)
    return (
        result.cell,
        *map(str, (result.kills, result.harms, summary.keys, summary.acked, summary.in_doubt)),
        *map(str, (summary.resolved, summary.resolved_alone, result.needs_review)),
        _seconds(percentile(summary.resolve_s, 0.5)),
        _seconds(percentile(summary.resolve_s, 0.95)),
        str(len(result.takeovers_s) or "-"),
        _seconds(slowest),
        str(len(result.violations)),
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
