"""A name that one process at a time may hold, over all processes of a journal."""

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from tests.booking.house import until
from tests.journal.rows import open_journal
from tests.postgres import Place


async def test_a_name_is_held_and_given_back(place: Place) -> None:
    async with open_journal(place) as journal:
        for _ in range(2):
            async with asyncio.timeout(20), journal.alone("main"):
                pass


async def test_of_two_replicas_the_second_waits_until_the_first_gives_a_name_back(
    postgres_dsn: str,
) -> None:
    order: list[str] = []
    async with (
        open_journal(postgres_dsn) as one,
        open_journal(postgres_dsn, boot_id="boot-2") as two,
    ):

        async def second() -> None:
            async with two.alone("main"):
                order.append("second")

        async with one.alone("main"):
            waiting = asyncio.create_task(second())
            async with two.alone("another"):
                order.append("another name")
            done, _ = await asyncio.wait({waiting}, timeout=0.5)
            order.append("first")
        await until(waiting.done)
        await waiting

    assert not done
    assert order == ["another name", "first", "second"]


async def test_whoever_leaves_while_a_name_is_being_taken_keeps_it_from_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_journal(place) as journal:
        is_trying, may_go = threading.Event(), threading.Event()
        try_alone = journal._store.try_alone

        def slowly(name: str) -> Callable[[], None] | None:
            is_trying.set()
            may_go.wait(20)
            return try_alone(name)

        async def takes_it() -> None:
            async with journal.alone("main"):
                raise AssertionError("it has left")

        monkeypatch.setattr(journal._store, "try_alone", slowly)
        leaving = asyncio.create_task(takes_it())
        await asyncio.to_thread(is_trying.wait, 20)
        leaving.cancel()
        await asyncio.sleep(0.05)
        may_go.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        monkeypatch.undo()
        gc.disable()
        try:
            async with asyncio.timeout(5), journal.alone("main"):
                pass
        finally:
            gc.enable()
