"""What is installed: whole wheels, locks without gaps, environments that are never half-made."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from loyalty_gateway.settings import Server

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
STUBS = "loyalty-gateway-stubs"


def versions(lock: Path) -> dict[str, str]:
    pins = re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", lock.read_text(), re.MULTILINE)
    return dict(pins)


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) == len(versions(lock))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "--index" not in text


def test_the_smaller_locks_agree_with_the_development_lock() -> None:
    whole = versions(ROOT / "requirements-dev.lock")
    for name in ("requirements.lock", "requirements-build.lock", "requirements-tools.lock"):
        assert versions(ROOT / name).items() <= whole.items(), name


def test_the_locks_hold_what_the_project_asks_for() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, groups = table["project"], table["dependency-groups"]
    extras = project["optional-dependencies"]
    asked = {
        "requirements.lock": [*project["dependencies"], *extras["sandbox"], *extras["uvloop"]],
        "requirements-dev.lock": [it for it in groups["dev"] if isinstance(it, str)],
        **{f"requirements-{name}.lock": groups[name] for name in ("build", "tools", "chart")},
    }
    for lock, requirements in asked.items():
        locked = versions(ROOT / lock)
        for requirement in map(Requirement, requirements):
            if requirement.name != STUBS:
                version = Version(locked[requirement.name])
                assert requirement.specifier.contains(version), f"{lock}: {requirement}"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of the files in the wheel of each of our two packages."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    for source in (ROOT, ROOT / "generated"):
        subprocess.run(
            [*build, str(folder)],
            cwd=source,
            check=True,
            capture_output=True,
        )
    return {
        path.name.partition("-")[0]: set(zipfile.ZipFile(path).namelist())
        for path in folder.iterdir()
    }


def test_the_server_wheel_holds_every_file_of_the_package(wheels: dict[str, set[str]]) -> None:
    root = ROOT / "server"
    expected = {
        str(path.relative_to(root))
        for path in (root / "loyalty_gateway").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheels["loyalty_gateway"] if ".dist-info/" not in name}
    assert held == expected
    assert any(name.endswith("licenses/LICENSE") for name in wheels["loyalty_gateway"])


def test_the_stubs_wheel_is_typed_and_holds_no_server(wheels: dict[str, set[str]]) -> None:
    names = wheels["loyalty_gateway_stubs"]
    assert {
        "loyalty/py.typed",
        "loyalty/v1/points_pb2.py",
        "loyalty/v1/points_pb2_grpc.pyi",
    } <= names
    assert not [name for name in names if name.startswith("loyalty_gateway/")]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that makes environments, loaded from its file."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / ".ci" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up by name.
    monkeypatch.setitem(sys.modules, "environment", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script at work in a folder of its own."""
    module = script
    monkeypatch.setattr(module, "ROOT", tmp_path)
    small = module.Environment(".venv", "a test", (module.Step(("a.lock",)),), False)
    monkeypatch.setattr(module, "ENVIRONMENTS", {"small": small})
    monkeypatch.setattr(sys, "argv", ["environment.py", "small"])

    def commands(folder: Path, python: Path, _: object) -> Iterator[list[str]]:
        # A real environment without pip, and in pip's place what the lock says by its name.
        if not python.exists():
            yield [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        yield [str(python), "-c", (tmp_path / "a.lock").read_text()]

    monkeypatch.setattr(module, "_commands", commands)
    (tmp_path / "a.lock").write_text("pass")
    return module


def test_an_environment_is_made_once_and_mended_when_its_lock_changes(
    environment: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert environment.main() == 0
    assert "Installed in" in capfd.readouterr().out
    assert environment.main() == 0
    assert capfd.readouterr().out == ""

    (tmp_path / "a.lock").write_text("'changed'")
    assert environment.main() == 0
    assert "Installed in" in capfd.readouterr().out


def test_a_failed_installation_leaves_no_stamp_and_is_started_over(
    environment: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert environment.main() == 0
    (tmp_path / "a.lock").write_text("raise SystemExit(1)")
    assert environment.main() == 1
    assert "Installing failed at:" in capfd.readouterr().err
    assert list((tmp_path / ".venv").glob(".stamp-*")) == []
    (tmp_path / ".venv" / "left-behind").touch()

    (tmp_path / "a.lock").write_text("pass")
    assert environment.main() == 0
    assert not (tmp_path / ".venv" / "left-behind").exists()


def test_an_environment_that_was_moved_is_made_anew(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment.main() == 0
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in (".venv", "a.lock"):
        (tmp_path / name).rename(moved / name)
    (tmp_path / "a.lock").write_text("pass")
    (moved / ".venv" / "left-behind").touch()

    monkeypatch.setattr(environment, "ROOT", moved)
    assert environment.main() == 0
    assert not (moved / ".venv" / "left-behind").exists()


def test_all_that_pip_installs_is_locked_and_our_own_packages_ask_nobody(
    script: ModuleType,
) -> None:
    for environment in script.ENVIRONMENTS.values():
        folder = ROOT / environment.folder
        commands = list(script._commands(folder, folder / "bin" / "python", environment))
        for command in [it for it in commands if "install" in it]:
            assert "--no-build-isolation" in command
            assert "--require-hashes" in command or {"--no-index", "--no-deps"} <= set(command)


def preflight(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / ".ci" / "preflight"), *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, **variables},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def fake_python(folder: Path, version: str) -> str:
    """An interpreter that claims an old version."""
    path = folder / "python3"
    path.write_text(
        f'#!/bin/sh\ncase "$1" in -V) echo "Python {version}"; exit ;; esac\n'
        'case "$2" in "") exit 0 ;; *) exit 1 ;; esac\n'
    )
    path.chmod(0o755)
    return str(path)


def test_the_preflight_prints_a_python_that_is_no_environment() -> None:
    answer = preflight()
    assert answer.returncode == 0, answer.stderr
    assert Path(answer.stdout.strip()).exists()
    assert "venv" not in Path(answer.stdout.strip()).parts


def test_the_preflight_names_a_python_that_is_too_old(tmp_path: Path) -> None:
    answer = preflight(PYTHON=fake_python(tmp_path, "3.9.2"))
    assert answer.returncode == 1
    assert "is Python 3.9.2; 3.11, 3.12 or 3.13 is needed" in answer.stderr


def test_the_preflight_names_a_python_that_is_not_there() -> None:
    assert "cannot be run" in preflight(PYTHON="/nowhere/python3").stderr


def test_the_preflight_names_a_taken_port(tmp_path: Path) -> None:
    script = (
        "import socket, subprocess, sys\n"
        "taken = socket.create_server(('127.0.0.1', 0))\n"
        "port = taken.getsockname()[1]\n"
        f"sys.exit(subprocess.run(['sh', {str(ROOT / '.ci' / 'preflight')!r}, 'run'],"
        "env={'PATH': '/usr/bin:/bin', 'PYTHON': sys.executable,"
        "'LOYALTY_LISTEN': f'127.0.0.1:{port}',"
        "'LOYALTY_ADMIN_LISTEN': '127.0.0.1:0', 'LOYALTY_METRICS_LISTEN': '127.0.0.1:0'}"
        ").returncode)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    (line,) = answer.stderr.strip().splitlines()
    assert "Address already in use" in line
    assert "LOYALTY_LISTEN=127.0.0.1:PORT make run" in line


def test_the_preflight_knows_the_true_default_addresses() -> None:
    text = (ROOT / ".ci" / "preflight").read_text()
    server = Server()
    for variable, address in (
        ("LOYALTY_LISTEN", server.listen),
        ("LOYALTY_ADMIN_LISTEN", server.admin_listen),
        ("LOYALTY_METRICS_LISTEN", server.metrics_listen),
    ):
        assert f'"{variable}": "{address}"' in text


SKIPPING = """
import pytest

@pytest.mark.skip
def test_without_reason(): ...

def test_with_reason():
    pytest.skip("the moon is full")

def test_that_runs(): ...

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ci_fails_over_a_skip_that_nobody_explained(tmp_path: Path, workers: str) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", workers]

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, str(tmp_path)],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    in_ci = run(CI="true")
    assert in_ci.returncode == 1, in_ci.stdout
    assert "test_without_reason: unconditional skip" in in_ci.stdout
    assert "test_with_reason: the moon is full" in in_ci.stdout
    assert "test_known:" not in in_ci.stdout
    assert run().returncode == 0
