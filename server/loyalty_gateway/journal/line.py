"""A connection to PostgreSQL on which no answer is waited for without end.

The server's own time limits do not help where it is not heard any more: a flow that a firewall
has dropped stays open and says nothing. The kernel notices only what is not acknowledged, and a
proxy between acknowledges for ever.
"""

from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

import psycopg

_T = TypeVar("_T")


class BoundedConnection(psycopg.Connection[Any]):
    """Closes itself when nothing has come of a statement, or of a COMMIT, for `silence_max_s`.

    It then raises psycopg.OperationalError without a state, as for any line that broke: whether
    the server has carried the statement out is not known.
    """

    silence_max_s = 7.0

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **kwargs: Any) -> _T:
        # The one way by which the driver waits for the server, once it is connected.
        return super().wait(self._until_silent(gen), *args, **kwargs)

    def _until_silent(self, gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        give_up_s = monotonic() + self.silence_max_s
        try:
            asked = next(gen)
            while True:
                # Comes back at least every tenth of a second, with "not ready" if need be.
                ready = yield asked
                if not ready and monotonic() > give_up_s:
                    break
                asked = gen.send(ready)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        self.pgconn.finish()
        raise psycopg.OperationalError(
            f"the server has not answered for {round(self.silence_max_s)} s; the line was given up"
        )
