"""Cells in which the way to the database, its disk or the database itself is lost."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import grpc

from tests.e2e.house import until
from tests.faults.cells import under_load
from tests.faults.database import Standby, wait_for_nobody, wait_for_standby
from tests.faults.history import Told
from tests.faults.lane import Lane
from tests.faults.wishes import is_auto
from tests.journal.proxy import Cut

WRITES: Final = (b"SENDING", b"SUCCEEDED")
"""A part of what write 1 carries, and of what write 2 does; a statement that was prepared does not
travel any more."""
CUTS_MIN: Final = 6
DARK_S: Final = 6.0
DARK_SPELLS: Final = 2
PATIENT_S: Final = 1.0
MUTE_SHARE_MAX: Final = 0.02
ANSWER_LIMIT_S: Final = 12.0
"""Longer than any deadline of the callers: who is told nothing by then hangs."""
FULL_LIMIT_S: Final = 20.0
TMPFS_KIB: Final = 16_384
CLOCK_STEPS_S: Final = (3_600, -3_600, 600, -600)
APART_S: Final = 3.0


async def cuts(lane: Lane) -> None:
    """D2: the line breaks exactly at a write, before the server has it or after its commit."""
    proxy, replica, chance = lane.proxy, lane.only, lane.chance("cuts")
    assert proxy is not None, "SQLite has no line"
    if not replica.is_up.is_set():
        await lane.start(replica)
    async with lane.cell("cut at COMMIT") as result:
        first = proxy.cuts

        async def harm(ends_at: float) -> None:
            while time.monotonic() < ends_at - 1 or proxy.cuts - first < CUTS_MIN:
                await asyncio.sleep(chance.uniform(0.1, 0.5))
                before = proxy.cuts
                proxy.arm(chance.choice(WRITES), chance.choice(list(Cut)))

                async def is_cut(before: int = before) -> bool:
                    return proxy.cuts > before

                await until(is_cut, "the line was cut", 20.0)
                await until(replica.is_ready, "ready again", 20.0)

        await under_load(lane, result, "cuts", 8, lane.random_s, harm)
        result.harms = proxy.cuts - first
        result.require(replica.is_running, "the gateway did not outlive its line")


async def black_holes(lane: Lane) -> None:
    """D3: nothing comes through and nothing is closed; callers are told in time all the same."""
    proxy, replica, chance = lane.proxy, lane.only, lane.chance("black holes")
    assert proxy is not None, "SQLite has no line"
    if not replica.is_up.is_set():
        await lane.start(replica)
    async with lane.cell("black hole") as result:

        async def harm(ends_at: float) -> None:
            for _ in range(DARK_SPELLS):
                await asyncio.sleep(chance.uniform(0.5, 1.0))
                proxy.is_dark = True
                await asyncio.sleep(DARK_S)
                proxy.is_dark = False
                result.harms += 1
                await until(replica.is_ready, "ready again", 30.0)
                await asyncio.sleep(1.0)

        began = len(lane.history.told)
        await under_load(lane, result, "black holes", 8, lane.random_s, harm)
        told = lane.history.told[began:]
        slowest = max(it.ended_s - it.began_s for it in told)
        refused = sum(it.heard.reply.reason == "JOURNAL_UNAVAILABLE" for it in told)
        result.require(refused > 0, "no caller was told that the journal cannot be reached")
        result.facts["mute"] = mute = sum(map(_is_mute, told))
        if mute > MUTE_SHARE_MAX * len(told):
            result.violations.append(f"D3: {mute} callers of {len(told)} heard nothing in time")
        result.facts["slowest_answer_s"] = round(slowest, 2)
        if slowest > ANSWER_LIMIT_S:
            result.violations.append(f"D3: a caller waited {slowest:.1f} s for an answer")


def _is_mute(told: Told) -> bool:
    """Whether a caller who gave it some time heard nothing before its own deadline. Who relies on
    an undo is told of a doubt only when its wish is written, however long that takes."""
    reply = told.heard.reply
    is_late = reply.code is grpc.StatusCode.DEADLINE_EXCEEDED and not reply.reason
    return is_late and not is_auto(told.heard.request) and told.ended_s - told.began_s > PATIENT_S


async def promotions(lane: Lane) -> None:
    """D1, D8: the primary is gone; its synchronous standby takes over with all that was told."""
    database, proxy, replica = lane.database, lane.proxy, lane.only
    assert database is not None and proxy is not None, "SQLite has no standby"
    name = proxy.upstream.rpartition("?")[0].rpartition("/")[2]
    first: Standby = await database.create_standby(1)
    second: Standby | None = None
    lane.fleet.settings["JOURNAL__HA"] = "synchronous"
    if replica.is_up.is_set():
        await replica.kill()
    await lane.start(replica)
    try:
        async with lane.cell("promotion") as result:

            async def harm(ends_at: float) -> None:
                nonlocal second
                await asyncio.sleep(max(1.0, (ends_at - time.monotonic()) / 2))
                await database.crash()
                result.kills += 1
                began = time.monotonic()
                await asyncio.to_thread(first.promote)
                await asyncio.to_thread(wait_for_nobody, first.dsn("postgres"))
                proxy.upstream = lane.fleet.dsn = first.dsn(name)
                # The gateway was promised a standby, and waits until there is one again.
                second = Standby(first.folder.with_name("standby-2"), first.user)
                await asyncio.to_thread(second.make, first.dsn("postgres"))
                await asyncio.to_thread(wait_for_standby, first.dsn("postgres"))
                await until(replica.is_ready, "ready on the new primary", 60.0)
                result.facts["ready_again_s"] = round(time.monotonic() - began, 2)
                await asyncio.sleep(2.0)

            await under_load(lane, result, "promotion", 8, lane.random_s, harm)
            result.require(result.kills == 1, "the primary did not crash")
    finally:
        # Its connections end with the gateway, which is ended in good order before this.
        for standby in (second, first):
            if standby is not None:
                lane.at_end.append(standby.stop)


async def disk_full(lane: Lane) -> None:
    """D4: the journal's disk is full, and has room again; nothing is sent meanwhile."""
    replica = lane.only
    async with lane.cell("disk full") as result:
        folder = lane.fleet.home.journal.parent
        if replica.is_up.is_set():
            await replica.kill()
        with _small_disk(folder) as is_mounted:
            result.facts["is_mounted"] = is_mounted
            if not is_mounted:
                # Without the right to mount there is no disk to fill; said, and not hidden.
                await lane.start(replica)
                return
            await lane.start(replica)

            async def harm(ends_at: float) -> None:
                filler = folder / "filler"
                await asyncio.sleep(1.0)
                await asyncio.to_thread(_fill, filler)

                async def is_told() -> bool:
                    return not await replica.is_ready()

                await until(is_told, "a full disk is told to probes", FULL_LIMIT_S)
                result.harms += 1
                filler.unlink()
                await until(replica.is_ready, "ready again", FULL_LIMIT_S)
                await asyncio.sleep(1.0)

            await under_load(lane, result, "disk full", 6, lane.random_s, harm)
            await replica.kill()
        await lane.start(replica)


def _fill(path: Path) -> None:
    block = b"x" * 4096
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(block)


class _small_disk:
    """The folder on a file system of its own that is soon full; what is in it goes along."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_mounted = False

    def __enter__(self) -> bool:
        kept = {path.name: path.read_bytes() for path in self._folder.iterdir() if path.is_file()}
        size_kib = TMPFS_KIB + sum(map(len, kept.values())) * 3 // 1024
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(self._folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        self._is_mounted = True
        for name, content in kept.items():
            (self._folder / name).write_bytes(content)
        return True

    def __exit__(self, *_: Any) -> None:
        if not self._is_mounted:
            return
        kept = {path.name: path.read_bytes() for path in self._folder.iterdir() if path.is_file()}
        subprocess.run(["umount", str(self._folder)], check=True, capture_output=True)
        for path in self._folder.iterdir():
            path.unlink()
        for name, content in kept.items():
            (self._folder / name).write_bytes(content)


async def clocks(lane: Lane) -> None:
    """The machine's clock is set an hour or ten minutes back or forth between two lives."""
    replica = lane.only
    async with lane.cell("clock steps") as result:
        for step_s in CLOCK_STEPS_S:
            if replica.is_up.is_set():
                await replica.kill()
            replica.clock_step_s = step_s
            await lane.start(replica)

            async def harm(ends_at: float) -> None:
                await asyncio.sleep(max(0.0, ends_at - time.monotonic()))
                await replica.kill()
                result.kills += 1
                await lane.start(replica)

            await under_load(lane, result, f"clock {step_s}", 6, lane.random_s / 4, harm)
        replica.clock_step_s = 0
        if replica.is_up.is_set():
            await replica.kill()
        await lane.start(replica)


async def rolling_restarts(lane: Lane) -> None:
    """Every replica is ended in good order and started again, one after the other, each with a
    clock of its own from then on."""
    await asyncio.gather(*(lane.start(it) for it in lane.fleet.replicas if not it.is_up.is_set()))
    async with lane.cell("rolling restart") as result:

        async def harm(ends_at: float) -> None:
            for replica, step_s in zip(lane.fleet.replicas, cycle(CLOCK_STEPS_S), strict=False):
                await asyncio.sleep(0.7)
                replica.clock_step_s = step_s
                replica.is_up.clear()
                replica.child.signal(signal.SIGTERM)
                code = await replica.end()
                result.harms += 1
                if code:
                    result.violations.append(f"{replica.name} ended with {code} on SIGTERM")
                await lane.start(replica)
            # Long enough for doubts to be taken over by a clock that is an hour off.
            await asyncio.sleep(APART_S)

        await under_load(lane, result, "rolling", 12, lane.random_s, harm)
        result.require(result.harms == len(lane.fleet.replicas), "not every replica was ended")
