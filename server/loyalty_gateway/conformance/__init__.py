"""Tries an adapter against a played vendor: what every adapter owes, for each of its operations.

An adapter's test derives from ConformanceSuite and says in one Subject what is to be tried;
docs/adding-a-provider.md walks through it. Nothing is loaded here until it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loyalty_gateway.conformance.subject import Accounts as Accounts
    from loyalty_gateway.conformance.subject import Behaviour as Behaviour
    from loyalty_gateway.conformance.subject import Subject as Subject
    from loyalty_gateway.conformance.suite import ConformanceSuite as ConformanceSuite

__all__ = ["Accounts", "Behaviour", "ConformanceSuite", "Subject"]

_HOMES = {
    "Accounts": "loyalty_gateway.conformance.subject",
    "Behaviour": "loyalty_gateway.conformance.subject",
    "ConformanceSuite": "loyalty_gateway.conformance.suite",
    "Subject": "loyalty_gateway.conformance.subject",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
