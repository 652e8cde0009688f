"""Adds to pytest's summary what was tried of each adapter, one line for each operation.

pytest loads it by its entry point; it says nothing in a run that tries no adapter.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

PROPERTY = "conformance"
"""The name under which a case reports itself: provider, operation and duty, with blanks."""


@dataclass(slots=True)
class _Line:
    """What became of the duties of one operation."""

    counts: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)


class ConformanceSummary:
    """Counts the cases of the whole run, those of every worker included."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], _Line] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = next((str(it) for name, it in report.user_properties if name == PROPERTY), "")
        if not told or report.when != "call":
            return
        provider, operation, duty = told.split(" ")
        line = self._lines.setdefault((provider, operation), _Line())
        if report.failed:
            line.counts["failed"] += 1
            line.failed.append(duty)
        elif report.skipped:
            line.counts["excluded"] += 1
            reason = str(getattr(report, "wasxfail", "")).removeprefix("reason: ")
            line.excluded.append(f"{duty}: {reason}")
        else:
            line.counts["kept"] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._lines:
            return
        terminalreporter.section("conformance of the adapters")
        for text in self.texts():
            terminalreporter.write_line(text)

    def texts(self) -> Iterator[str]:
        """A line for each operation with what it left open, and the sum of all."""
        whole: Counter[str] = Counter()
        for (provider, operation), line in sorted(self._lines.items()):
            whole += line.counts
            yield f"{provider:16} {operation:32} {_told(line.counts)}"
            for duty in line.failed:
                yield f"{'':16} FAILED   {duty}"
            for excluded in line.excluded:
                yield f"{'':16} excluded {excluded}"
        adapters = len({provider for provider, _ in self._lines})
        yield f"{adapters} adapters, {len(self._lines)} operations, {_told(whole)}"


def _told(counts: Counter[str]) -> str:
    named = ("kept", "failed", "excluded")
    return ", ".join(f"{counts[name]} {name}" for name in named if counts[name] or name == "kept")


def pytest_configure(config: pytest.Config) -> None:
    # The workers' reports arrive at the one that controls them.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(ConformanceSummary(), "loyalty-conformance-summary")
