"""A played vendor whose ledger is on disk, and a process of its own that books, undoes and dies.

`python -m tests.booking.ledger JOURNAL LEDGER explicit|cancel` runs one life; the failpoints of
the product's own environment variable say where it ends.
"""

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from loyalty_gateway import failpoints
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.operations import Operation, Receipt, Reference
from loyalty_gateway.providers.port import Send
from tests.booking.house import QUICK, open_house
from tests.booking.vendor import RESENT, Effect, FakeVendor
from tests.postgres import Place

LEASE_S = 2.0
"""Whoever comes after a death in a shared journal waits for so long."""
OFFERS = {
    Operation.DEBIT_BALANCE: replace(RESENT, undo=Operation.REVERSE_POINTS),
    Operation.REVERSE_POINTS: RESENT,
}


class LedgerVendor(FakeVendor):
    """The vendor as it was left by whoever asked it before."""

    def __init__(self, ledger: Path, **changes: Any) -> None:
        super().__init__(offers=OFFERS, **changes)
        self._ledger = ledger
        for line in ledger.read_text().splitlines() if ledger.exists() else ():
            self._remember(json.loads(line))

    def execute(self, send: Send) -> Receipt:
        is_known = send.outbound_id in self._receipts
        receipt = super().execute(send)
        if not is_known:
            original = send.order.original
            entry = {
                "number": send.outbound_id,
                "account": send.order.account_id,
                "undoes": original.outbound_id if original else "",
                "reference": [receipt.references[0].kind, receipt.references[0].value],
            }
            with self._ledger.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        return receipt

    def _remember(self, entry: dict[str, Any]) -> None:
        reference = Reference(*entry["reference"])
        self._receipts[entry["number"]] = Receipt((reference,))
        if entry["undoes"]:
            self.undone[entry["undoes"]] = entry["number"]
        else:
            self.effects.append(Effect(entry["number"], entry["account"], Money("CHF", 1000)))


async def _live(journal: Place, ledger: Path, how: str) -> None:
    limits = Limits(lease_s=LEASE_S)
    async with open_house(journal, LedgerVendor(ledger), policy=QUICK, limits=limits) as house:
        await house.book()
        failpoints.arm(os.environ["LOYALTY_FAILPOINTS"])
        if how == "explicit":
            await house.undo()
        else:
            await house.cancel()
            await house.becomes(State.REVERSED)


if __name__ == "__main__":
    place = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
    asyncio.run(_live(place, Path(sys.argv[2]), sys.argv[3]))
