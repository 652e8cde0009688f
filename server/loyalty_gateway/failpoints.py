"""Places where a test may kill, stop or slow this process; nothing happens unless armed.

`LOYALTY_FAILPOINTS="after-open=kill@3,after-answer=stop"` kills the process the third time it
comes to `after-open`. Production refuses the variable.
"""

import os
import signal
import time
from dataclasses import dataclass

POINTS = {
    "before-open": "the booking is checked and admitted, nothing is written (K1)",
    "after-open": "write 1 is on disk, nothing is sent (K3)",
    "after-answer": "the vendor has answered, write 2 is not begun (K6)",
    "after-settle": "write 2 is on disk, the caller has not heard (K7)",
    "before-commit": "the writer has a batch and has not begun its transaction",
    "after-commit": "the batch is committed, nobody was told",
    "recovery-claimed": "recovery has claimed a booking and not yet written its attempt (K8)",
    "recovery-answered": "the vendor has answered recovery, nothing is written (K9)",
    "undo-beginning": "an undo is checked, what it undoes is not yet marked as being undone",
    "undo-begun": "what is to be undone is marked on disk, its undo is not opened",
    "undo-settled": "the undo's end is on disk, what it undoes has not followed",
    "undo-followed": "what was undone stands so on disk, nobody was told",
    "draining": "SIGTERM came, new bookings are refused (K12)",
    "migrating": "the journal's schema is about to be changed (K13)",
    "adopting": "the start is about to take over what an earlier process left (K14)",
}
"""Every failpoint, with the moment it stands for."""

ACTIONS = ("kill", "stop", "slow")
_SLOW_S = 3.0


@dataclass(slots=True)
class _Armed:
    action: str
    countdown: int


_armed: dict[str, _Armed] = {}


class FailpointsInvalid(ValueError):
    """The variable names a point or an action that does not exist."""


def arm(spec: str) -> None:
    """Arms the points of a specification, `name=action[@count]`, separated by commas."""
    _armed.clear()
    for part in filter(None, (piece.strip() for piece in spec.split(","))):
        name, _, rest = part.partition("=")
        action, _, count = rest.partition("@")
        if name not in POINTS or action not in ACTIONS or not (count or "1").isdigit():
            raise FailpointsInvalid(
                f"LOYALTY_FAILPOINTS: {part!r} is not name=action[@count] with a name of"
                f" {', '.join(POINTS)} and an action of {', '.join(ACTIONS)}"
            )
        _armed[name] = _Armed(action, int(count or "1"))


def hit(name: str) -> None:
    """Does what the point was armed for, if it was."""
    if not _armed:
        return
    armed = _armed.get(name)
    if armed is None:
        return
    armed.countdown -= 1
    if armed.countdown:
        return
    if armed.action == "slow":
        time.sleep(_SLOW_S)
    else:
        os.kill(os.getpid(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)
