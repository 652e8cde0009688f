"""Makes a virtual environment from the hashed locks; installs nothing that is not in a lock.

Standard library only, since it runs before anything is installed. Run by the Makefile:
`python .ci/environment.py run|dev|chart`. An environment that is already right costs a tenth of
a second; one whose installation was interrupted is made anew.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
OWN_PACKAGES = ("generated", ".")
"""Installed editable and last; everything they depend on is in the locks."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of pip. What builds packages is installed before what must be built."""

    locks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder and what belongs in it; `above` names the smaller environment that it contains."""

    folder: str
    title: str
    steps: tuple[Step, ...]
    with_own_packages: bool
    above: str = ""


_RUN_STEPS = (
    Step(("requirements-build.lock",)),
    Step(("requirements.lock", "requirements-tools.lock")),
)

ENVIRONMENTS = {
    "run": Environment(".venv", "the gateway", _RUN_STEPS, True),
    "dev": Environment(
        ".venv",
        "the gateway and its tests",
        (*_RUN_STEPS, Step(("requirements-dev.lock",))),
        True,
        above="run",
    ),
    "chart": Environment(
        ".build/venv-chart", "the chart's tests", (Step(("requirements-chart.lock",)),), False
    ),
}


def main() -> int:
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in ENVIRONMENTS:
        print(f"usage: environment.py {'|'.join(ENVIRONMENTS)}", file=sys.stderr)
        return 2
    environment = ENVIRONMENTS[name]
    folder = ROOT / environment.folder
    with _one_at_a_time(folder) as lock:
        # The larger environment contains the smaller one, so it is right for both.
        fitting = [name, *(other for other, it in ENVIRONMENTS.items() if it.above == name)]
        if any(_is_stamped(folder, wanted) for wanted in fitting):
            return 0
        return _install(folder, name, environment, lock)


def _install(folder: Path, name: str, environment: Environment, lock: int) -> int:
    unfinished = folder / ".installing"
    python = folder / "bin" / "python"
    if folder.exists() and (unfinished.exists() or not _runs_like_this_python(python)):
        # A half-installed package looks installed to pip, so nothing of it can be trusted.
        shutil.rmtree(folder)
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    for stamp in _stamps(folder):
        stamp.unlink(missing_ok=True)
    shown = folder.relative_to(ROOT)
    print(f"Installing {environment.title} into {shown} (a minute or so, once) ...", flush=True)
    for command in _commands(folder, python, environment):
        # pip holds the lock too: should this process be killed, nobody starts beside its pip.
        if subprocess.run(command, cwd=ROOT, check=False, pass_fds=(lock,)).returncode != 0:
            print(
                f"Installing failed at: {' '.join(command)}\n"
                "Nothing half-made is used: once the cause is gone, run the same again.",
                file=sys.stderr,
            )
            return 1
    (folder / f".stamp-{name}").write_text(_fingerprint(name))
    unfinished.unlink()
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)
    return 0


def _commands(folder: Path, python: Path, environment: Environment) -> Iterator[list[str]]:
    if not python.exists():
        yield [sys.executable, "-m", "venv", str(folder)]
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    for step in environment.steps:
        locked = [word for lock in step.locks for word in ("--requirement", lock)]
        yield [*pip, "--require-hashes", "--no-build-isolation", *locked]
    if environment.with_own_packages:
        editable = [word for package in OWN_PACKAGES for word in ("--editable", package)]
        yield [*pip, "--no-index", "--no-deps", "--no-build-isolation", *editable]


def _stamps(folder: Path) -> Iterator[Path]:
    for name, environment in ENVIRONMENTS.items():
        if ROOT / environment.folder == folder:
            yield folder / f".stamp-{name}"


def _is_stamped(folder: Path, name: str) -> bool:
    try:
        stamped = (folder / f".stamp-{name}").read_text()
    except OSError:
        return False
    return stamped == _fingerprint(name) and not (folder / ".installing").exists()


def _fingerprint(name: str) -> str:
    """Changes whenever the environment must: a lock, a package's own facts, the place, Python."""
    environment = ENVIRONMENTS[name]
    files = [lock for step in environment.steps for lock in step.locks]
    if environment.with_own_packages:
        files += [f"{package}/pyproject.toml" for package in OWN_PACKAGES]
    digest = hashlib.sha256(f"{ROOT}\n{sys.version}\n".encode())
    for file in files:
        digest.update(hashlib.sha256((ROOT / file).read_bytes()).digest())
    return digest.hexdigest()


def _runs_like_this_python(python: Path) -> bool:
    """Whether the environment can be kept: it was made here, runs, and has this version."""
    folder = python.parent.parent
    try:
        # Commands and editable packages hold the path of the place where they were made.
        made = (folder / "pyvenv.cfg").read_text()
        answer = subprocess.run(
            [str(python), "-c", "import sys; print(sys.version)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer == f"{sys.version}\n" and any(
        line.startswith("command = ") and line.endswith(f" {folder}") for line in made.splitlines()
    )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[int]:
    """Two terminals may start at once; the second waits and finds the work done."""
    lock_folder = ROOT / ".build"
    lock_folder.mkdir(exist_ok=True)
    with (lock_folder / f"{folder.name.lstrip('.')}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # What another project put on the path must not look installed to pip.
    os.environ.pop("PYTHONPATH", None)
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted; run the same again to start over.", file=sys.stderr)
        sys.exit(130)
