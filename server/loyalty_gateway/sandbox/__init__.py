"""Plays the vendors on loopback, in a process of its own; it must never import the gateway.

Nothing is loaded here until it is asked for, so that naming the room costs a server nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loyalty_gateway.sandbox.cashassist.player import CashassistPlayer as CashassistPlayer
    from loyalty_gateway.sandbox.loyalife.player import LoyalifePlayer as LoyalifePlayer
    from loyalty_gateway.sandbox.loyalife.player import LoyalifeSettings as LoyalifeSettings
    from loyalty_gateway.sandbox.openloyaltypay.player import (
        OpenLoyaltyPayPlayer as OpenLoyaltyPayPlayer,
    )
    from loyalty_gateway.sandbox.openloyaltypay.settings import (
        OpenLoyaltyPaySettings as OpenLoyaltyPaySettings,
    )
    from loyalty_gateway.sandbox.process import PlayersProcess as PlayersProcess
    from loyalty_gateway.sandbox.settings import Settings as Settings

__all__ = [
    "CashassistPlayer",
    "LoyalifePlayer",
    "LoyalifeSettings",
    "OpenLoyaltyPayPlayer",
    "OpenLoyaltyPaySettings",
    "PlayersProcess",
    "Settings",
]

_HOMES = {
    "LoyalifePlayer": "loyalty_gateway.sandbox.loyalife.player",
    "LoyalifeSettings": "loyalty_gateway.sandbox.loyalife.player",
    "CashassistPlayer": "loyalty_gateway.sandbox.cashassist.player",
    "OpenLoyaltyPayPlayer": "loyalty_gateway.sandbox.openloyaltypay.player",
    "OpenLoyaltyPaySettings": "loyalty_gateway.sandbox.openloyaltypay.settings",
    "PlayersProcess": "loyalty_gateway.sandbox.process",
    "Settings": "loyalty_gateway.sandbox.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
