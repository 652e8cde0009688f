"""Runs every command of docs/sandbox.md against a real sandbox and compares what it prints.

LOYALTY_TEST_WRITE_PAGES=1 writes the answers into the page instead of comparing them.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from loyalty_gateway.sandbox.players import PLAYERS
from tests.cli.running_sandbox import RunningSandbox, environment
from tests.console import GATEWAY, differences_of

PAGE = Path(__file__).parents[1] / "docs" / "sandbox.md"
VENDOR = "127.0.0.1:8101"


def test_every_command_of_the_page_prints_what_the_page_says(tmp_path: Path) -> None:
    with RunningSandbox(tmp_path / "sandbox") as sandbox:
        told = json.loads((tmp_path / "sandbox" / "players.json").read_text())
        vendor = urlsplit(told["players"]["cashassist"]["control_url"]).netloc
        differences = differences_of(PAGE, {GATEWAY: sandbox.listen, VENDOR: vendor})
    assert set(told["players"]) == set(PLAYERS)
    assert not differences, "\n".join(differences)


def test_the_players_alone_start_as_the_page_says(tmp_path: Path) -> None:
    found = re.search(r"^python (-m loyalty_gateway.sandbox.players .*?)\n```", *_multiline())
    assert found is not None
    words = shlex.split(found[1].replace("\\\n", " ").replace("8101", "0"))
    players = subprocess.Popen(
        [sys.executable, *words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert players.stdout is not None
        line = players.stdout.readline()
        assert line == (tmp_path / ".players" / "ready.json").read_text()
        assert set(json.loads(line)["players"]) == set(PLAYERS)
    finally:
        players.send_signal(signal.SIGTERM)
        players.communicate(timeout=20)
    assert players.returncode == 0


def test_the_page_shows_the_form_of_the_line(tmp_path: Path) -> None:
    found = re.search(r"^```json\n(.*?)\n```", *_multiline())
    assert found is not None
    assert set(json.loads(found[1])["players"]["cashassist"]) == {"base_url", "control_url"}


def _multiline() -> tuple[str, re.RegexFlag]:
    return PAGE.read_text(), re.MULTILINE | re.DOTALL
