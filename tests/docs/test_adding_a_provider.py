"""docs/adding-a-provider.md is true: its files, put into a copy of the package, pass the suite."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-provider.md"
STEP = re.compile(r"^`([\w./]+)`\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_S_MAX = 100


def steps() -> list[tuple[str, str, str]]:
    """The page's files in its order: path, language, text."""
    return STEP.findall(PAGE.read_text(encoding="utf-8"))


def add_lines(text: str, change: str) -> str:
    """The text with the change's lines behind the line that each of them follows."""
    lines = text.splitlines()
    place = -1
    for line in change.splitlines():
        if line.startswith("+"):
            place += 1
            lines.insert(place, line[1:])
        elif line.strip():
            assert lines.count(line[1:]) == 1, f"the file has the line {line[1:]!r} once"
            place = lines.index(line[1:])
    return "\n".join(lines) + "\n"


@pytest.fixture
def walked(tmp_path: Path) -> Path:
    """A copy of the package after the walk."""
    shutil.copytree(
        ROOT / "server", tmp_path / "server", ignore=shutil.ignore_patterns("__pycache__")
    )
    for path, language, text in steps():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        is_change = language == "diff"
        assert file.exists() is is_change, f"{path} is new, or a change of what is there"
        file.write_text(add_lines(file.read_text(), text) if is_change else text)
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    paths = [str(folder / "server"), str(ROOT / "generated")]
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )


def test_the_vendor_of_the_page_fulfils_every_duty(walked: Path) -> None:
    # pytest alone, as a newcomer has it.
    off = [word for name in ("cacheprovider", "xdist", "asyncio") for word in ("-p", f"no:{name}")]
    test = "tests/conformance/test_stampbook.py"
    ran = run(walked, "pytest", "-q", "-W", "error", "--rootdir", ".", *off, test)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = re.findall(r"^stampbook +(\S+) +(\d+) kept$", ran.stdout, re.MULTILINE)
    assert [operation for operation, _ in lines] == ["Balance.DebitBalance", "Balance.GetBalance"]
    assert all(int(kept) >= 15 for _, kept in lines), ran.stdout


def test_the_line_of_the_page_makes_it_a_provider(walked: Path) -> None:
    script = walked / "names.py"
    script.write_text(
        "from loyalty_gateway.providers import PROVIDERS\nprint('stampbook' in PROVIDERS)\n"
    )
    assert run(walked, "names").stdout == "True\n"


def test_the_code_of_the_page_keeps_our_style(walked: Path) -> None:
    files = [path for path, language, _ in steps() if language == "python"]
    configuration = ("--no-cache", "--config", str(ROOT / "pyproject.toml"))
    for command in (("check",), ("format", "--check")):
        ran = run(walked, "ruff", *command, *configuration, *files)
        assert ran.returncode == 0, ran.stdout
