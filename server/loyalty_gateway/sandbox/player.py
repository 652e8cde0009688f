"""A player: one vendor on one loopback port over real HTTP; it must never listen anywhere else.

What a vendor says is in its own folder; this module holds what is the same for all of them: the
socket, the ledger's life, the log of exchanges, and the places where a vendor puts its own words.
"""

import logging
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from aiohttp import web
from multidict import CIMultiDictProxy

from loyalty_gateway.sandbox import control, delivery
from loyalty_gateway.sandbox.book import Book, CardSeed
from loyalty_gateway.sandbox.bookings import Booking
from loyalty_gateway.sandbox.faults import ELSEWHERE, Answer, describe_unknown
from loyalty_gateway.sandbox.ledger import Ledger
from loyalty_gateway.sandbox.settings import Settings
from loyalty_gateway.sandbox.stage import Exchange, Stage

HOST = "127.0.0.1"
BODY_BYTES_MAX = 65_536
BACKLOG = 1024
SHUTDOWN_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)


class PortTaken(Exception):
    """The port cannot be listened on; the text says which."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came over the wire; `body` is None when it was larger than is read."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: CIMultiDictProxy[str]
    body: bytes | None
    exchange: Exchange


class Player(ABC):
    """Plays one vendor from `start` to `stop`. The ledger in `data_dir` outlives the player.

    `port` 0 takes a free one. `seed` chooses the past of the cards, `is_reset` forgets what was
    booked before. `now` is the vendor's clock in Unix seconds.
    """

    name: ClassVar[str]
    # A vendor with settings of its own, or other defaults, names its dataclass here.
    settings_type: ClassVar[type[Settings]] = Settings
    # The path at which the vendor's routes begin, as in its own base URL.
    base_path: ClassVar[str]
    # Whether some of its bookings can stay open for a while, so that the pending faults exist.
    leaves_open: ClassVar[bool] = False
    # ISO 4217, of the money in the ledger.
    currency: ClassVar[str]

    def __init__(
        self,
        data_dir: Path | str,
        port: int = 0,
        *,
        settings: Settings | None = None,
        seed: int = 1,
        is_reset: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = Ledger(Path(data_dir) / f"{self.name}.sqlite3")
        if settings is not None and not isinstance(settings, self.settings_type):
            raise ValueError(f"{self.name} takes {self.settings_type.__name__}")
        self.stage = Stage(settings or self.settings_type(), now)
        self.seed = seed
        self._port = port
        self._is_reset = is_reset
        self._runner: web.ServerRunner | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port; the port is known once it has started."""
        return f"http://{HOST}:{self._port}"

    @property
    def base_url(self) -> str:
        """What a client of the vendor is configured with."""
        return self.origin + self.base_path

    @property
    def control_url(self) -> str:
        """Where the control surface begins."""
        return self.origin + control.PREFIX

    async def start(self) -> None:
        """Open the ledger and listen.

        Raises: PortTaken; LedgerUnusable when another process has the ledger.
        """
        try:
            listener = socket.create_server((HOST, self._port), backlog=BACKLOG)
        except OSError as error:
            raise PortTaken(
                f"{HOST}:{self._port} cannot be listened on ({error.strerror}); choose another"
                f" --{self.name}-port, or 0 for any"
            ) from error
        try:
            await self.ledger.open(self.card_seeds(), is_reset=self._is_reset)
        except BaseException:
            listener.close()
            raise
        self._port = listener.getsockname()[1]
        self._runner = web.ServerRunner(
            web.Server(self._serve, access_log=None), shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listener, backlog=BACKLOG).start()

    async def stop(self) -> None:
        """Answer what is being answered, then close; the ledger stays on disk."""
        if self._runner is None:
            return
        self.stage.close()
        await self._runner.cleanup()
        self._runner = None
        await self.stage.finish()
        await self.ledger.close()

    async def reset(self) -> None:
        """Back to the seeded cards, empty logs and the first settings, while it runs."""

        def start_again(book: Book) -> None:
            book.clear()
            book.seed(self.card_seeds())

        self.stage.reset()
        await self.stage.finish(is_forgotten=True)
        await self.ledger.run(start_again)

    @abstractmethod
    def card_seeds(self) -> Sequence[CardSeed]:
        """Every card of a fresh ledger."""

    @abstractmethod
    def shown_cards(self) -> list[dict[str, Any]]:
        """The cards to play with, as JSON, without the hidden ones."""

    @abstractmethod
    async def answer(self, call: Call) -> Answer:
        """What the vendor answers, and how broken."""

    # The vendor's own words. Those without a default of ours are a fault that only a vendor
    # which overrides them can play.

    @abstractmethod
    def internal_error(self) -> Answer:
        """The vendor's envelope for a defect of its own."""

    def rate_limited(self) -> Answer:
        """The vendor's envelope for too many requests, without Retry-After."""
        return Answer(429, b"Too Many Requests", content_type="text/plain")

    def unknown_fault(self, name: str) -> Answer:
        """The vendor's envelope for an invalid request, saying which faults there are."""
        return Answer(400, describe_unknown(name).encode(), content_type="text/plain")

    def marked(self, answer: Answer, *, is_replay: bool) -> Answer:
        """A booking's answer with the vendor's mark for a replay, if it has one."""
        return answer

    def refused_repeat(self, booking: Booking) -> Answer:
        """What a repeat gets from a vendor that refuses repeats."""
        return self.internal_error()

    def reused_key(self, booking: Booking) -> Answer:
        """What a key gets that belongs to another booking."""
        return self.refused_repeat(booking)

    def key_in_progress(self, booking: Booking) -> Answer:
        """What a repeat gets while the first request with its key is still running."""
        return self.refused_repeat(booking)

    def unauthorized(self) -> Answer:
        """The vendor's refusal of a token or key that was good a moment ago."""
        _has_no_words()

    def contradictory(self, answer: Answer) -> Answer:
        """The answer changed so that one part says yes and another says no."""
        _has_no_words()

    def wrong_echo(self, answer: Answer) -> Answer:
        """The answer changed so that it echoes another booking than was asked for."""
        _has_no_words()

    def declined_repeat(self, booking: Booking) -> Answer:
        """A decline of the booking that was made under this key."""
        _has_no_words()

    def has_words_for(self, method: str | None) -> bool:
        """Whether the vendor overrides that method of ours; True for none."""
        return method is None or getattr(type(self), method) is not getattr(Player, method)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await _read_body(request)
        query = tuple(request.query.items())
        if request.path.startswith(control.PREFIX):
            answer = await control.answer(self, request.method, request.path, query, body)
            return await self._send(request, answer)
        exchange = self.stage.log(request.method, request.path)
        call = Call(request.method, request.path, query, request.headers, body, exchange)
        try:
            if request.path == ELSEWHERE:
                self.stage.report(exchange, [("path", "a redirect was followed")])
                answer = Answer(200, b'{"elsewhere":true}')
            else:
                answer = await self.answer(call)
        except Exception:
            logger.exception("the %s player failed", self.name)
            answer = self.internal_error()
        # Noted before the bytes leave, so that whoever has the answer also finds it in the log.
        exchange.delivery = answer.delivery
        exchange.status = None if answer.delivery in ("none", "reset") else answer.status
        return await self._send(request, answer)

    async def _send(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        return await delivery.send(request, answer, self.stage, f"{self.name}-sandbox")


def _has_no_words() -> NoReturn:
    raise NotImplementedError("a fault was played that this vendor has no words for")


async def _read_body(request: web.BaseRequest) -> bytes | None:
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None
    return body if len(body) <= BODY_BYTES_MAX else None
