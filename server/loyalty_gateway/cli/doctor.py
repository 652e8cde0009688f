"""`loyalty doctor`: looks at every part that a gateway needs, and changes nothing.

What a running server knows is asked of it; the rest, or all of it where none runs, is looked at
from here.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from rich.table import Table
from rich.text import Text

from loyalty.v1 import providers_pb2
from loyalty_gateway.cli.asking import ASKED, check_address, check_timeout
from loyalty_gateway.cli.client import NoAnswer, Server, connect, read_status
from loyalty_gateway.cli.configuration import journal_place, read_settings
from loyalty_gateway.cli.failure import REFUSED_EXIT_CODE, CommandFailed, UsageFailed
from loyalty_gateway.cli.screen import Screen, clean
from loyalty_gateway.config import NOT_SETTINGS, Settings
from loyalty_gateway.doctor import (
    Finding,
    Vendor,
    Verdict,
    judge_clocks,
    judge_vendor,
    look_at_journal,
    look_at_vendors,
)
from loyalty_gateway.settings import split_address

PAGE_SIZE_MAX = 200
ASKED_AT_ONCE = 8
_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # never bound to here
"""Where a server that listens on every address is met from its own machine."""


def run_doctor(path: Path | None, *, server: str | None, timeout: float, is_json: bool) -> int:
    """Prints a line for each part; 1 where one of them fails."""
    findings: list[Finding] = []
    check_timeout(timeout)
    settings = _read(path, findings)
    address = check_address(server) if server is not None else _address_of(settings)
    skews: list[tuple[str, float]] = []
    with connect(address, timeout) as running:
        vendors = _ask_server(running, settings, findings)
    if settings is not None:
        finding, skew_s = look_at_journal(settings)
        place = journal_place(settings)
        findings.append(Finding(finding.part, finding.verdict, f"{finding.text} ({place})"))
        if skew_s is not None:
            skews.append(("the journal's database", skew_s))
        if vendors is None:
            vendors = _ask_vendors(settings, findings)
    for vendor in vendors or ():
        if vendor.clock_skew_s is not None:
            skews.append((vendor.connection, vendor.clock_skew_s))
    findings.append(judge_clocks(skews))
    findings += [judge_vendor(vendor) for vendor in vendors or ()]
    is_well = all(finding.verdict is not Verdict.FAIL for finding in findings)
    if is_json:
        _print_json(findings, is_well=is_well)
    else:
        _show(Screen(), findings)
    return 0 if is_well else REFUSED_EXIT_CODE


def _read(path: Path | None, findings: list[Finding]) -> Settings | None:
    """The settings, or None where there are none or they are wrong; a finding says which."""
    if path is None and not _has_variables():
        text = "none is named (--config or LOYALTY_CONFIG), so only a running server is asked"
        findings.append(Finding("config", Verdict.WARN, text))
        return None
    try:
        settings = read_settings(path, {})
    except UsageFailed as error:
        findings.append(Finding("config", Verdict.FAIL, " ".join(error.text.split())))
        return None
    count = len(settings.connections)
    where = str(path) if path else "LOYALTY_* variables"
    text = f"{where}: complete, for {settings.profile}, {count} connection{'s' * (count != 1)}"
    findings.append(Finding("config", Verdict.OK, text))
    return settings


def _has_variables() -> bool:
    return any(
        name.startswith("LOYALTY_") and not NOT_SETTINGS.fullmatch(name) for name in os.environ
    )


def _address_of(settings: Settings | None) -> str:
    if settings is None:
        return ASKED.server
    host, port = split_address(settings.server.listen)
    host = _EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
    return f"{host}:{port}"


# --- with a running server --------------------------------------------------------------------


def _ask_server(
    running: Server, settings: Settings | None, findings: list[Finding]
) -> list[Vendor] | None:
    """How the running server meets its vendors; None where none runs, or it cannot tell."""
    try:
        connections = _list(running)
    except NoAnswer as error:
        is_absent = error.code == "UNAVAILABLE" and settings is not None
        if is_absent:
            text = f"none answers at {running.address}, so its parts are looked at from here"
        else:
            text = error.text
        verdict = Verdict.WARN if is_absent else Verdict.FAIL
        findings.append(Finding("server", verdict, text))
        return None
    except CommandFailed as error:
        findings.append(Finding("server", Verdict.FAIL, f"answers with {error.text}"))
        return None
    count = len(connections)
    text = f"answers at {running.address}, with {count} connection{'s' * (count != 1)}"
    verdict = Verdict.OK
    if settings is not None:
        ours = {connection.name.removeprefix("connections/") for connection in connections}
        missing = sorted(settings.connections.keys() - ours)
        if missing:
            verdict = Verdict.WARN
            text += f"; it does not have {', '.join(missing)}: was it started before them?"
    findings.append(Finding("server", verdict, text))
    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        return list(threads.map(partial(_check, running), connections))


def _list(running: Server) -> list[providers_pb2.Connection]:
    request = providers_pb2.ListConnectionsRequest()
    request.page.page_size = PAGE_SIZE_MAX
    found: list[providers_pb2.Connection] = []
    while True:
        page = running.call(running.providers.ListConnections, request)
        found.extend(page.connections)
        request.page.page_token = page.next_page_token
        if not page.next_page_token:
            return found


def _check(running: Server, connection: providers_pb2.Connection) -> Vendor:
    name = connection.name.removeprefix("connections/")
    is_paused = connection.state == providers_pb2.CONNECTION_STATE_PAUSED
    request = providers_pb2.CheckConnectionRequest(connection=name)
    try:
        answer = running.call(running.providers.CheckConnection, request)
    except CommandFailed as error:
        return Vendor(name, is_reachable=False, trouble=error.text, is_paused=is_paused)
    trouble = ""
    if answer.HasField("error"):
        refusal = read_status(answer.error, "")
        code = refusal.metadata.get("provider_code", "")
        trouble = f"{refusal.reason}{f' ({code})' if code else ''}"
    has_word = answer.HasField("credentials_accepted")
    return Vendor(
        name,
        is_reachable=answer.reachable,
        are_credentials_accepted=answer.credentials_accepted if has_word else None,
        latency_s=_seconds(answer.latency) if answer.HasField("latency") else None,
        clock_skew_s=_seconds(answer.clock_skew) if answer.HasField("clock_skew") else None,
        trouble=trouble,
        is_paused=is_paused,
    )


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta() / timedelta(seconds=1)


# --- without one ------------------------------------------------------------------------------


def _ask_vendors(settings: Settings, findings: list[Finding]) -> list[Vendor] | None:
    """How the vendors are met from here. Where a connection's settings are wrong, none is asked."""
    from loyalty_gateway.app import StartRefused

    try:
        return look_at_vendors(settings)
    except StartRefused as error:
        findings.append(Finding("connections", Verdict.FAIL, str(error)))
        return None


# --- on the screen ----------------------------------------------------------------------------


def _show(screen: Screen, findings: Sequence[Finding]) -> None:
    lines = Table.grid(padding=(0, 2))
    for _ in range(2):
        lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.value, _STYLES[finding.verdict])
        lines.add_row(verdict, Text(clean(finding.part)), Text(clean(finding.text)))
    screen.show(lines)


def _print_json(findings: Sequence[Finding], *, is_well: bool) -> None:
    rows = [
        {"part": finding.part, "verdict": finding.verdict.value, "text": finding.text}
        for finding in findings
    ]
    print(json.dumps({"ok": is_well, "findings": rows}, indent=2, ensure_ascii=False))
