"""One HTTP engine for the many adapters of a scene, since building one costs more than its use.

The engine is the real one; only its building and its end are kept from the adapters.
"""

from collections.abc import Callable, MutableMapping
from typing import cast

from loyalty_gateway.providers.http import ENGINES, Engine, HttpAnswer, HttpRequest, Limits

Make = Callable[..., Engine]


class _Lent:
    """An engine that stays open when an adapter closes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def send(self, request: HttpRequest) -> HttpAnswer:
        return await self._engine.send(request)

    async def close(self) -> None:
        return None


class SharedEngines:
    """While it is open, every adapter with the same limits gets the same engine."""

    def __init__(self) -> None:
        self._table = cast(MutableMapping[str, Make], ENGINES)
        self._made = dict(self._table)
        self._engines: dict[tuple[object, ...], Engine] = {}

    def open(self) -> None:
        """From now on engines are shared."""
        for name in self._made:
            self._table[name] = self._lender(name)

    async def close(self) -> None:
        """Each adapter has its own again; the shared ones are ended."""
        self._table.update(self._made)
        for engine in self._engines.values():
            await engine.close()
        self._engines.clear()

    def _lender(self, name: str) -> Make:
        def lend(limits: Limits, *, is_https: bool, authorities: bytes = b"") -> Engine:
            key = (name, limits, is_https, authorities)
            engine = self._engines.get(key)
            if engine is None:
                make = self._made[name]
                engine = make(limits, is_https=is_https, authorities=authorities)
                self._engines[key] = engine
            return _Lent(engine)

        return lend
