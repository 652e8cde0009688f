"""A real sandbox in processes of its own, for tests; it must never outlive the test."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
POLL_S = 0.02


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    """Asks again and again until it is so."""
    give_up = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {limit_s:g} s in vain: {what}")
        time.sleep(POLL_S)


class RunningSandbox:
    """`loyalty sandbox` on free ports; `text` is everything that it has printed so far."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.text = ""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "loyalty_gateway", "sandbox", "--data-dir", str(folder)),
                *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A group of its own, so that a test's signal reaches the supervisor alone.
            start_new_session=True,
            env=environment(),
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line

    def __enter__(self) -> Self:
        self.wait_for("Start afresh:")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def listen(self) -> str:
        return self._found(r"^gRPC +(\S+)")

    @property
    def admin_listen(self) -> str:
        return self._found(r"^health +(\S+)")

    @property
    def control_url(self) -> str:
        return self._found(r"^vendor +(\S+)")

    def _found(self, pattern: str) -> str:
        found = re.search(pattern, self.text, re.MULTILINE)
        assert found, f"the screen does not say {pattern}:\n{self.text}"
        return found[1]

    def wait_for(self, words: str, count: int = 1) -> None:
        """Waits until the words have been printed so often."""

        def is_printed() -> bool:
            if self.text.count(words) >= count:
                return True
            assert self._process.poll() is None, f"the sandbox ended:\n{self.text}"
            return False

        wait_until(is_printed, f"{words!r} in\n{self.text}", START_LIMIT_S)

    def child(self, module: str) -> int:
        """The process id of the child whose command line holds the words."""
        for pid in children_of(self.pid):
            if module in command_of(pid):
                return pid
        raise AssertionError(f"no child runs {module}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends the supervisor as a power cut would; its children are on their own."""
        self._process.kill()
        self.join()

    def join(self) -> int:
        """The exit code, once it has ended by itself."""
        code = self._process.wait(STOP_LIMIT_S)
        self._reader.join(STOP_LIMIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def stop(self) -> int:
        if self._process.poll() is None:
            self.send(signal.SIGTERM)
        return self.join()


def environment() -> dict[str, str]:
    """This process's own, with our packages on the path of children too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def children_of(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in listing.split()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except FileNotFoundError:
        return ""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
