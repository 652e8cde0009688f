"""Puts the vendors' promises to the proof and keeps what was found; no promise is ever assumed.

What was shown last counts at once, for better or worse, and is journalled for the target that it
was shown on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime

from loyalty_gateway.booking.calls import Promise
from loyalty_gateway.booking.connections import Connections, Link, proof
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.journal.journal import Journal, PromiseRow
from loyalty_gateway.providers.port import NotShown, ProviderError
from loyalty_gateway.telemetry.redaction import redact

log = logging.getLogger(__name__)

EVIDENCE_LENGTH_MAX = 500
_PROOF_S = 60.0
"""Time limit of one proof that a person asked for: a proof is several calls of a vendor."""
_PROOF_AT_START_S = 5.0
_PROVE_AGAIN_S = 30.0
_REFRESH_S = 5.0


class Promises:
    """What is proven of the connections of this deployment."""

    def __init__(self, journal: Journal, connections: Connections, tenant: str) -> None:
        self._journal = journal
        self._connections = connections
        self._tenant = tenant
        self._proving: dict[str, asyncio.Task[tuple[Promise, ...]]] = {}
        self._keeping: list[asyncio.Task[None]] = []

    async def start(self, *, proves_itself: bool) -> None:
        """Loads what was proven, and keeps up with what other processes prove.

        `proves_itself` is the sandbox's: every promise is put to the proof on a hidden account
        now, and again for a vendor that could not be asked.
        """
        await self._load()
        if proves_itself:
            unasked = await self._prove_all(list(self._connections))
            if unasked:
                self._keeping.append(asyncio.create_task(self._keep_proving(unasked)))
        if self._journal.is_shared:
            self._keeping.append(asyncio.create_task(self._keep_up()))

    async def stop(self) -> None:
        """Ends every proof that runs."""
        tasks: list[asyncio.Task[None] | asyncio.Task[tuple[Promise, ...]]] = [
            *self._keeping,
            *self._proving.values(),
        ]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, LoyaltyError):
                await task

    async def prove(self, connection: str) -> tuple[Promise, ...]:
        """Puts every promise that can be proven to the proof, one after the other.

        A proof books on the connection's test account. It goes on when the caller has left, and
        a second caller hears of the same run. What could not be shown stays as it was, and its
        `not_shown` says why.

        Raises:
            LoyaltyError: CONNECTION_NOT_FOUND; JOURNAL_UNAVAILABLE where a proof could not be
                recorded, and then nothing more was proven.
        """
        link = self._connections.get(connection)
        task = self._proving.get(link.connection)
        if task is None:
            task = asyncio.create_task(self._prove(link, _PROOF_S))
            self._proving[link.connection] = task

            def ended(done: asyncio.Task[tuple[Promise, ...]]) -> None:
                del self._proving[link.connection]
                if not done.cancelled():
                    done.exception()  # Every waiter has it already; nobody may be left to ask.

            task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def _load(self) -> None:
        for row in await self._journal.promises(self._tenant):
            link = self._connections.find(row.connection)
            # A proof speaks of one target: after a change of vendor or credential it is void.
            if link is None or link.target_hash != row.target_hash:
                continue
            known = link.proven.get(row.name)
            if known is not None and not known.value and known.time and row.time < known.time:
                continue  # It was seen broken since, which could not be written down.
            link.proven[row.name] = proof(row.name, row.value, row.time, row.evidence)

    async def _keep_up(self) -> None:
        """A promise that another process saw broken must not be relied upon here for long."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            # Without its journal this process books nothing either.
            with contextlib.suppress(LoyaltyError):
                await self._load()

    async def _prove_all(self, links: Sequence[Link]) -> list[Link]:
        """Proves what the links' offers rest on; returns those whose proof was broken off."""
        proofs = await asyncio.gather(*(self._prove(link, _PROOF_AT_START_S) for link in links))
        return [
            link
            for link, shown in zip(links, proofs, strict=True)
            if any(promise.not_shown.startswith(_BROKEN_OFF) for promise in shown)
        ]

    async def _keep_proving(self, links: list[Link]) -> None:
        while links:
            await asyncio.sleep(_PROVE_AGAIN_S)
            try:
                links = await self._prove_all(links)
            except LoyaltyError as error:
                log.warning("What was proven could not be recorded: %s", error.message)

    async def _prove(self, link: Link, limit_s: float) -> tuple[Promise, ...]:
        names = sorted(name for name, facts in link.adapter.promises.items() if facts.is_provable)
        wished_at = self._journal.now()
        # A proof counts what moves on the test account, so two at once would disprove each other.
        async with self._journal.alone(f"proof of {self._tenant}/{link.connection}"):
            await self._load()
            return await self._prove_alone(link, names, wished_at, limit_s)

    async def _prove_alone(
        self, link: Link, names: Sequence[str], wished_at: datetime, limit_s: float
    ) -> tuple[Promise, ...]:
        shown: list[Promise] = []
        for name in names:
            known = link.proven.get(name)
            if known is not None and known.time is not None and known.time >= wished_at:
                # Another process was asked as well, and began after we were.
                shown.append(known)
            elif shown and shown[-1].not_shown.startswith(_BROKEN_OFF):
                # A vendor that is not there would make every further promise wait as well.
                shown.append(link.promise(name).but_not_shown(shown[-1].not_shown))
            else:
                shown.append(await self._prove_one(link, name, limit_s))
        return tuple(shown)

    async def _prove_one(self, link: Link, name: str, limit_s: float) -> Promise:
        before = link.promise(name)
        now = self._journal.now()
        try:
            async with asyncio.timeout(limit_s):
                evidence = await link.adapter.prove(name)
        except (ProviderError, TimeoutError) as error:
            reason = error.status.reason.value if isinstance(error, ProviderError) else "no answer"
            log.warning("Promise %s of %s was not shown: %s", name, link.connection, reason)
            return before.but_not_shown(f"{_BROKEN_OFF}: {reason}")
        except NotShown as error:
            return before.but_not_shown(_evidence(str(error)))
        except (KeyError, IndexError):
            raise  # A bug of the adapter's says nothing about the vendor.
        except LookupError as error:
            shown = proof(name, False, now, _evidence(str(error)))
            log.warning("Promise %s of %s does not hold: %s", name, link.connection, shown.evidence)
            # Before it is written down: what was seen broken is not relied upon any more.
            link.proven[name] = shown
        else:
            shown = proof(name, True, now, _evidence(evidence))
        row = PromiseRow(link.connection, name, link.target_hash, shown.value, now, shown.evidence)
        try:
            await self._journal.save_promise(self._tenant, row)
        except LoyaltyError:
            if not shown.value:
                self._keeping.append(asyncio.create_task(self._keep_telling(link, row, shown)))
            raise
        link.proven[name] = shown
        return shown

    async def _keep_telling(self, link: Link, row: PromiseRow, broken: Promise) -> None:
        """Writes down what was seen broken as soon as the journal can be written: the next start
        must not rely on what was proven before."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            if link.proven[row.name] is not broken:
                return  # It was put to the proof again since.
            with contextlib.suppress(LoyaltyError):
                await self._journal.save_promise(self._tenant, row)
                return


_BROKEN_OFF = "the proof was broken off"


def _evidence(text: str) -> str:
    return redact(text)[:EVIDENCE_LENGTH_MAX]
