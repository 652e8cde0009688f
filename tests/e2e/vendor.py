"""Looks behind a played vendor over its control surface; what stands there is the truth."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp

WAIT_S = 20
MADE_UP = "request-"
"""How the key of an entry begins whose request carried none."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One booking in the vendor's ledger; signed as the card sees it."""

    number: int
    idempotency_key: str
    card: str
    kind: str
    amount_minor: int
    points: int
    reference: str
    reverses: int | None = None
    """The number of the entry that this one undoes."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    connection: str = "cashassist"
    time_s: float = 0.0
    """When it was booked, by the clock of the machine."""

    @property
    def transaction_id(self) -> str:
        """How CashAssist names it to the gateway."""
        return f"tx_{self.number}"

    @property
    def names(self) -> frozenset[str]:
        """Every number by which some vendor's answer may name this entry."""
        own = {self.transaction_id, f"pr_{self.number}", self.idempotency_key, self.reference}
        return frozenset(own | {str(self.detail.get(name)) for name in ("checkout_id", "guid")})

    @property
    def is_keyed(self) -> bool:
        """Whether our own id of the booking came with the request."""
        return not self.idempotency_key.startswith((MADE_UP, "reversal:"))

    def __str__(self) -> str:
        undoes = f", undoes {self.reverses}" if self.reverses is not None else ""
        return (
            f"{self.connection} entry {self.number}: {self.kind} on {self.card}, "
            f"{self.amount_minor} minor, {self.points} points, key {self.idempotency_key}{undoes}"
        )


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that the vendor got, and what it answered; no status means no answer."""

    number: int
    path: str
    idempotency_key: str | None
    status: int | None
    fault: str | None
    is_replay: bool


Records = Mapping[str, Mapping[str, Any]]
"""What a vendor keeps beside its entries: each account with its details."""


class Vendor:
    """The control surface of one player."""

    def __init__(
        self, session: aiohttp.ClientSession, control_url: str, connection: str = "cashassist"
    ) -> None:
        self._session = session
        self._url = control_url
        self.connection = connection

    async def effects(self, *, card: str = "", reference: str = "") -> list[Effect]:
        """What was booked since the sandbox began, oldest first."""
        ledger = await self._get("/ledger", {"card": card} if card else {})
        effects = [
            Effect(
                number=row["number"],
                idempotency_key=row["idempotency_key"] or "",
                card=row["card"],
                kind=row["type"],
                amount_minor=row["amount_minor"],
                points=row["points"],
                reference=row["reference"] or "",
                reverses=row["reverses"],
                detail=row["detail"] or {},
                connection=self.connection,
                time_s=datetime.fromisoformat(row["time"]).timestamp(),
            )
            for row in ledger["effects"]
        ]
        return [effect for effect in effects if reference in ("", effect.reference)]

    async def balances(self) -> dict[str, tuple[int, int]]:
        """Minor units and points on every card."""
        ledger = await self._get("/ledger", {})
        return {row["card"]: (row["balance_minor"], row["points"]) for row in ledger["cards"]}

    async def records(self) -> Records:
        """The accounts as they stand."""
        ledger = await self._get("/ledger", {})
        return {row["card"]: row["detail"] or {} for row in ledger["cards"]}

    async def exchanges(self, idempotency_key: str = "") -> list[Exchange]:
        query = {"idempotency_key": idempotency_key} if idempotency_key else {}
        return [
            Exchange(
                row["number"],
                row["path"],
                row["idempotency_key"],
                row["status"],
                row["fault"],
                row["is_replay"],
            )
            for row in (await self._get("/requests", query))["requests"]
        ]

    async def problems(self) -> list[Any]:
        """What double entry and the vendor's own document find wrong."""
        audit = (await self._get("/audit", {}))["problems"]
        return [*audit, *(await self._get("/violations", {}))["violations"]]

    async def hold(self, point: str) -> None:
        """The next new booking stops at `before-effect` or `after-effect` until it is let go."""
        await self._post("/gate", {"point": point})

    async def until_held(self) -> str:
        """Waits until a booking stands at the gate; its idempotency key."""
        waiting = (await self._get("/gate", {"wait_s": str(WAIT_S)}))["waiting"]
        assert waiting is not None, f"no booking came to the gate within {WAIT_S} s"
        return str(waiting["idempotency_key"])

    async def let_go(self) -> None:
        await self._post("/gate/release", {})

    async def set(self, **settings: Any) -> None:
        """Changes settings of the player while it plays."""
        await self._post("/settings", settings)

    async def _get(self, path: str, query: dict[str, str]) -> Any:
        async with self._session.get(self._url + path, params=query) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def _post(self, path: str, wish: dict[str, Any]) -> Any:
        async with self._session.post(self._url + path, json=wish) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()
