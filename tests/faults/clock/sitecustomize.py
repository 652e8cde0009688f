"""Sets the wall clock of the process that finds this file: only the tests put it on a path.

What is patched is what the journal reads the wall clock with. The monotonic clock stays as it is,
as it does when somebody sets a machine's clock; so does `time.time`, with which gRPC compares a
deadline of its own library's clock.
"""

import os
import time

_STEP_S = int(os.environ.get("LOYALTY_TEST_CLOCK_STEP_S", "0"))
_time_ns = time.time_ns
time.time_ns = lambda: _time_ns() + _STEP_S * 1_000_000_000
