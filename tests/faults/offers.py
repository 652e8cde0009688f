"""What a connection offers today, by its own word; the callers ask for nothing else."""

from dataclasses import replace
from typing import Final

from loyalty.v1 import providers_pb2, types_pb2
from tests.e2e.caller import Caller
from tests.e2e.wanted import ADDS, TAKES, UNDOES
from tests.faults.trades import Trade

RECORDS: Final = frozenset(
    {
        *("CreateCard", "UpdateCard", "CreateWallet", "UpdateWallet", "LinkAccount"),
        "ActivateGiftCard",
    }
)
BOOKINGS: Final = ADDS | TAKES | UNDOES | RECORDS


async def find_trade(caller: Caller, trade: Trade) -> Trade:
    """The trade as far as the gateway supports it.

    Raises AssertionError for a booking that is offered and that no caller knows how to ask for.
    """
    asked = providers_pb2.GetCapabilitiesRequest(connection=trade.connection)
    reply = await caller.call(asked)
    assert reply.is_ok, str(reply)
    offered = {
        it.method
        for it in reply.response.capabilities
        if it.method in BOOKINGS and it.support != providers_pb2.SUPPORT_UNSUPPORTED
    }
    unknown = offered - trade.methods
    assert not unknown, f"no caller asks {trade.connection} for {sorted(unknown)}"
    makers = {method: make for method, make in trade.makers.items() if method in offered}
    undoable = trade.undoable if offered & UNDOES else frozenset()
    by_people = frozenset(
        it.method
        for it in reply.response.capabilities
        if it.method in offered and it.recovery_mode == types_pb2.RECOVERY_MODE_MANUAL
    )
    return replace(trade, makers=makers, undoable=undoable, by_people=by_people)
