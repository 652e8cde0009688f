"""How soon the server serves and what it weighs while idle: measured, shown and bounded."""

import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.caller import top_up
from tests.e2e.conftest import open_house
from tests.e2e.house import House
from tests.e2e.truth import assert_booked_once

STARTS = 3
START_GOAL_S = 3.0
# A machine that does much else at the moment must not fail the test; the figure is shown anyway.
START_BOUND_S = 30.0
IDLE_MEMORY_MAX_MIB = 150


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A house with the settings that everybody has."""
    async with open_house(tmp_path / "house", settings={}) as house:
        yield house


def resident_kib(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1])


async def test_the_server_serves_soon_and_is_light_while_idle(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    seconds, kib = [], []
    for _ in range(STARTS):
        house.terminate_server()
        assert await house.server.end() == 0
        began = time.monotonic()
        await house.start_server()
        seconds.append(time.monotonic() - began)
        kib.append(resident_kib(house.server.process.pid))
    request = top_up(1)
    await assert_booked_once(house, request, await house.caller.call(request))
    after_booking_kib = resident_kib(house.server.process.pid)

    figures = (
        f"start to serving: {statistics.median(seconds):.2f} s (goal {START_GOAL_S:g} s; "
        f"all: {', '.join(f'{it:.2f}' for it in seconds)}); idle memory of the server: "
        f"{max(kib) / 1024:.0f} MiB, {after_booking_kib / 1024:.0f} MiB after a booking"
    )
    with capfd.disabled():
        # A worker's standard output is not shown to anybody.
        print(f"\n{figures}", file=sys.stderr)
    assert statistics.median(seconds) <= START_BOUND_S
    assert max(*kib, after_booking_kib) <= IDLE_MEMORY_MAX_MIB * 1024
