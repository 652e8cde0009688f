"""`loyalty prove` and `loyalty doctor` beside a real sandbox, and after its server has gone."""

import json
import re
from pathlib import Path

import pytest

from loyalty_gateway.cli import main
from tests.cli.running_sandbox import RunningSandbox

Capture = pytest.CaptureFixture[str]


def test_a_sandbox_is_proven_and_found_well_but_for_the_vendor_that_is_away(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "sandbox"
    with RunningSandbox(folder) as sandbox:
        assert main(["prove", "cashassist", "--server", sandbox.listen]) == 0
        proven = capsys.readouterr().out
        assert main(["prove", "cashassist-down", "--server", sandbox.listen]) == 1
        unproven = capsys.readouterr().out
        config = str(folder / "loyalty.toml")
        assert main(["doctor", "--config", config, "--server", sandbox.listen, "--json"]) == 1
        beside = json.loads(capsys.readouterr().out)
    assert main(["doctor", "--config", config, "--server", "127.0.0.1:9", "--json"]) == 1
    alone = json.loads(capsys.readouterr().out)

    assert re.search(
        r"^resend_is_safe +yes +\S+ \S+ +a top-up and a debit of 0.01", proven, re.MULTILINE
    )
    assert "not shown" in unproven
    assert failing(beside) == ["connection cashassist-down"]
    assert "in use by a running server" in text_of(beside, "journal")
    assert "credentials accepted" in text_of(beside, "connection cashassist")
    assert "reachable and durable" in text_of(alone, "journal")
    assert "connection cashassist" in failing(alone)


def failing(document: dict[str, list[dict[str, str]]]) -> list[str]:
    return [each["part"] for each in document["findings"] if each["verdict"] == "fail"]


def text_of(document: dict[str, list[dict[str, str]]], part: str) -> str:
    (text,) = [each["text"] for each in document["findings"] if each["part"] == part]
    return text
