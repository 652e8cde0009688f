"""Starts and ends the players' process for a supervisor or a test; it must never play itself."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_MODULE = "loyalty_gateway.sandbox.players"


class PlayersNotStarted(Exception):
    """The process ended or stayed silent before it was ready; the text is what it said."""


class PlayersProcess:
    """The players, detached from our terminal, so that Ctrl-C reaches only us.

    `options` are further arguments of the command, such as `--reset`. The process ends by
    itself when the one that started it is gone; what it complains of is in `players.log`.
    """

    def __init__(self, data_dir: Path | str, options: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", _MODULE, "--data-dir", str(data_dir)]
        self._command += ["--parent-pid", str(os.getpid()), *options]
        self._log_file = Path(data_dir) / "players.log"
        self._process: subprocess.Popen[str] | None = None
        self.base_urls: dict[str, str] = {}
        self.control_urls: dict[str, str] = {}

    @property
    def pid(self) -> int:
        assert self._process is not None, "the players were not started"
        return self._process.pid

    def start(self, timeout_s: float = 60.0) -> None:
        """Start and wait until every player listens; blocks the calling thread.

        Raises: PlayersNotStarted.
        """
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        line = self._first_line(timeout_s)
        if not line:
            self.kill()
            said = self._log_file.read_text().strip()
            raise PlayersNotStarted(said or f"the players were not ready in {timeout_s} s")
        for name, urls in json.loads(line)["players"].items():
            self.base_urls[name] = urls["base_url"]
            self.control_urls[name] = urls["control_url"]

    def stop(self, timeout_s: float = 30.0) -> int:
        """End it cleanly and give its exit code; a process that will not go is killed."""
        return self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> int:
        """End it as a power cut would."""
        return self._end(signal.SIGKILL, 10.0)

    def _end(self, number: signal.Signals, timeout_s: float) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return process.returncode

    def _first_line(self, timeout_s: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        is_waiting, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if is_waiting else ""
