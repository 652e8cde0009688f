"""Where one duty of one operation is tried: the played vendor, the wire, and a fresh adapter."""

import asyncio
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from loyalty_gateway.conformance.books import Books, read_books
from loyalty_gateway.conformance.engines import SharedEngines
from loyalty_gateway.conformance.recorder import Recorder, Seen
from loyalty_gateway.conformance.samples import ORIGINALS, sample_of
from loyalty_gateway.conformance.subject import Content, Subject
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    Destination,
    Operation,
    Order,
    Original,
    TransactionPage,
)
from loyalty_gateway.providers.port import (
    Adapter,
    CodeCheck,
    CodeWish,
    Executed,
    Lookup,
    Offer,
    ProviderError,
    Send,
)
from loyalty_gateway.sandbox.player import Player

CONNECTION: Final = "conformance"
IN_TIME: Final[Mapping[str, float]] = {"connect_s": 2.0, "attempt_total_s": 20.0}
HURRIED: Final[Mapping[str, float]] = {"connect_s": 0.9, "attempt_total_s": 1.0}
"""Time limits for what must end in time, and for what must run into them."""

MEMORY: Final = Path("/dev/shm")

PLAYER_SETTINGS: Final[Mapping[str, float]] = {
    "slow_s": 600.0,
    "late_effect_s": 0.2,
    "drip_s": 0.3,
}
"""Slow is beyond every time limit, dripping too; what comes late comes before recovery gives up."""


class Scene:
    """One played vendor and the recorder before it, for all cases of a subject.

    `run` is how a plain function waits for what is asynchronous.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._runner = asyncio.Runner()
        self._folder = _memory_folder()
        self._engines = SharedEngines()
        self.player: Player = subject.player(self._folder.name)
        self.recorder = Recorder("")
        self.routes: dict[Operation, tuple[str, str]] = {}
        """Method and path of the request that an operation is about, once found out."""

    @property
    def folder(self) -> Path:
        """A folder that is removed with the scene."""
        return Path(self._folder.name)

    def start(self) -> None:
        """Starts the player and the recorder; nothing is asked yet."""
        self.run(self._start())

    def run(self, work: Any) -> Any:
        """Waits for the coroutine and returns what it returns."""
        return self._runner.run(work)

    def stop(self) -> None:
        """Stops both, and leaves nothing behind."""
        try:
            self.run(self._stop())
        finally:
            self._runner.close()
            self._folder.cleanup()

    def check(self, duty: Callable[["Stage"], Awaitable[None]]) -> None:
        """Tries a duty on a fresh stage."""
        self.run(self._check(duty))

    async def _start(self) -> None:
        self._engines.open()
        await self.player.start()
        self.recorder = Recorder(self.player.origin)
        await self.recorder.start()

    async def _stop(self) -> None:
        await self.recorder.stop()
        await self.player.stop()
        await self._engines.close()

    async def _check(self, duty: Callable[["Stage"], Awaitable[None]]) -> None:
        async with AsyncExitStack() as stack:
            stage = Stage(self, stack)
            await stage.fresh()
            await duty(stage)
            problems = self.player.ledger.audit()
            assert not problems, f"the played vendor's books are wrong: {problems}"


class Stage:
    """A fresh played vendor and a fresh adapter; `stack` closes what is opened on it."""

    def __init__(self, scene: Scene, stack: AsyncExitStack) -> None:
        self.scene = scene
        self._stack = stack
        self.subject = scene.subject
        self.player = scene.player
        self.recorder = scene.recorder
        self.adapter: Adapter

    async def fresh(self, **settings: object) -> None:
        """The seeded accounts, empty logs, a new adapter; `settings` are the player's."""
        self.recorder.forget()
        await self.player.reset()
        self.player.stage.settings = self.player.stage.settings.changed(
            {**PLAYER_SETTINGS, **settings}
        )
        self.adapter = self.open_adapter()

    def open_adapter(
        self, changes: Mapping[str, object] | None = None, *, profile: str = "sandbox"
    ) -> Adapter:
        """Another adapter to the same vendor; it is closed with the stage."""
        places = {
            "{origin}": self.recorder.origin,
            "{base_url}": self.recorder.origin + self.player.base_path,
        }
        settings = {"base_url": "{base_url}", **IN_TIME, **self.subject.settings, **(changes or {})}
        adapter = self.subject.open(
            CONNECTION, {name: _filled(value, places) for name, value in settings.items()}, profile
        )
        self._stack.push_async_callback(adapter.close)
        return adapter

    def folder(self) -> Path:
        """A folder that is removed with the stage."""
        return Path(self._stack.enter_context(_memory_folder()))

    def books(self) -> Books:
        """The vendor's books as they are now."""
        return read_books(self.player.ledger)

    async def ask(
        self, operation: Operation, *, adapter: Adapter | None = None, **changes: Any
    ) -> "Ask":
        """The operation's sample, ready to be sent: its original made, its preparation read.

        `changes` replace fields of the content; `account_id` goes where the content has one.
        """
        adapter = adapter or self.adapter
        content = await self.content(operation, adapter=adapter, **changes)
        if isinstance(content, Order):
            prepare = adapter.operations[operation].prepare
            if prepare is not None:
                content = replace(content, prepared=await prepare(content))
        self.recorder.seen.clear()
        return Ask(self, adapter, operation, content, self.books())

    async def content(
        self,
        operation: Operation,
        *,
        adapter: Adapter | None = None,
        with_original: bool = True,
        **changes: Any,
    ) -> Content:
        """The operation's sample with the changes; its original, if any, is already executed."""
        adapter = adapter or self.adapter
        sample = self.subject.samples.get(operation) or sample_of(self.subject, adapter, operation)
        content = await sample(self) if callable(sample) else sample
        content = _changed(content, changes)
        original = self.original_of(operation) if with_original else None
        if original is not None:
            assert isinstance(content, Order), "only a booking has an original"
            if content.original is None:
                done = await self.executed(original, adapter)
                content = replace(content, account_id=done.order.account_id, original=done)
        wants_reference = operation is Operation.LIST_TRANSACTION_ITEMS
        if isinstance(content, Lookup) and wants_reference and not content.transaction_reference:
            page = await (await self.ask(Operation.LIST_TRANSACTIONS, adapter=adapter)).send()
            assert isinstance(page, TransactionPage)
            assert page.transactions, "the account's history is empty, so nothing has items"
            reference = page.transactions[0].reference
            content = replace(content, transaction_reference=reference)
        return content

    def original_of(self, operation: Operation) -> Operation | None:
        """What an operation undoes or adds to, or None."""
        if operation in self.subject.originals:
            return self.subject.originals[operation]
        offers = self.adapter.operations
        undone = (it for it, offer in offers.items() if offer.undo is operation)
        return next(undone, ORIGINALS.get(operation))

    async def executed(self, operation: Operation, adapter: Adapter | None = None) -> Original:
        """A booking that was executed and answered, as the journal would know it."""
        ask = await self.ask(operation, adapter=adapter)
        done = await ask.send()
        assert isinstance(done, Executed) and isinstance(ask.content, Order)
        return Original(
            order=ask.content,
            outbound_id=ask.outbound_id,
            references=done.receipt.references,
            applied=ask.content.asked,
        )

    async def find_route(self, operation: Operation) -> None:
        """Finds out, once for a scene, which request the operation is about.

        For a booking it is the one during which the vendor's books change; else the last one.
        """
        ask = await self.ask(operation)
        before: dict[int, Books] = {}
        effective: list[tuple[str, str]] = []

        def watch(seen: Seen, is_answered: bool) -> None:
            if not is_answered:
                before[seen.number] = self.books()
            elif self.books() != before[seen.number]:
                effective.append(seen.route)

        self.recorder.around = watch
        await ask.send()
        requests = [it.route for it in self.recorder.seen]
        assert requests, f"{operation} sent nothing"
        if operation in BOOKING_OPERATIONS:
            assert effective, f"{operation} left no trace in the vendor's books"
        self.scene.routes[operation] = (effective or requests)[-1]

    def route(self, operation: Operation) -> tuple[str, str]:
        """Method and path of the request that the operation is about."""
        return self.scene.routes[operation]


@dataclass(slots=True)
class Ask:
    """One thing to ask, as often as wanted: every attempt is the same, but for its number."""

    stage: Stage
    adapter: Adapter
    operation: Operation
    content: Content
    before: Books
    outbound_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def offer(self) -> Offer:
        return self.adapter.operations[self.operation]

    @property
    def order(self) -> Order:
        """The content of a booking."""
        assert isinstance(self.content, Order), f"{self.operation} is no booking"
        return self.content

    @property
    def effects(self) -> int:
        """How often it has had its effect."""
        return self.stage.books().count_since(self.before, self.operation)

    def again(self) -> "Ask":
        """The same content as another booking, under an outbound id of its own."""
        return Ask(self.stage, self.adapter, self.operation, self.content, self.stage.books())

    async def send(self, fault: str = "", attempt_number: int = 1) -> object:
        """One attempt; what the adapter returns.

        Raises:
            ProviderError: as the adapter raised it.
        """
        call: Any = self.offer.call
        match self.content:
            case Order():
                asked: object = Send(self.content, self.outbound_id, attempt_number, fault)
            case CodeWish():
                asked = replace(self.content, outbound_id=self.outbound_id, fault=fault)
            case _:
                asked = replace(self.content, fault=fault)
        return await call(asked)

    async def fails(self, fault: str = "", attempt_number: int = 1) -> ProviderError:
        """The failure of one attempt; an attempt that goes well is the adapter's fault."""
        try:
            result = await self.send(fault, attempt_number)
        except ProviderError as error:
            return error
        raise AssertionError(
            f"{self.operation} took an answer for a success that is none"
            f" ({fault or 'no fault'}): {type(result).__name__}"
        )

    @property
    def requests(self) -> list[Seen]:
        """The requests about the operation itself that were seen, without side calls."""
        route = self.stage.route(self.operation)
        return [seen for seen in self.stage.recorder.seen if seen.route == route]


def _memory_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where the system has such a place: nobody pulls the plug here."""
    return tempfile.TemporaryDirectory(
        prefix="conformance-", dir=MEMORY if MEMORY.is_dir() else None
    )


def _filled(value: object, places: Mapping[str, str]) -> object:
    if isinstance(value, str):
        for name, address in places.items():
            value = value.replace(name, address)
    return value


def _changed(content: Content, changes: Mapping[str, Any]) -> Content:
    account_id = changes.get("account_id")
    if account_id is not None and isinstance(content, CodeWish | CodeCheck):
        return replace(content, destination=Destination(account_id=account_id))
    return replace(content, **changes) if changes else content
