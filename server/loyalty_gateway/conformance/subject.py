"""What a newcomer says about an adapter, so that the suite can try it; it tries nothing itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loyalty_gateway.domain.operations import Operation, Order
from loyalty_gateway.providers.port import (
    CodeCheck,
    CodeWish,
    Factory,
    Lookup,
    PasswordCheck,
    ReceiptCheck,
    StatusRow,
)
from loyalty_gateway.providers.status import StatusTable
from loyalty_gateway.sandbox.faults import Answer
from loyalty_gateway.sandbox.player import Player

if TYPE_CHECKING:
    from loyalty_gateway.conformance.stage import Stage

Content = Order | Lookup | CodeWish | CodeCheck | ReceiptCheck | PasswordCheck
"""What is asked of an operation, without the outbound id and without a fault."""

Sample = Content | Callable[["Stage"], Awaitable[Content]]
"""One usual thing to ask; a function where it has to be found out at the player first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Accounts of the player by what they are good for; an empty one is not to be had.

    `ordinary` holds enough for a booking of 10.00 and of 100 points, `empty` holds nothing.
    """

    ordinary: str
    empty: str = ""
    blocked: str = ""
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way the vendor may behave, as settings of its player.

    `disproves` names the promises that do not hold of a vendor that behaves so.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    disproves: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One adapter and the player of its vendor.

    `settings` are the adapter's own, with `{origin}` and `{base_url}` where an address of the
    player belongs; `base_url` is set where they do not. `refused_settings` are changes after
    which the vendor refuses the credential. `secrets` may appear in no text: the credentials in
    `settings` and whatever else the vendor's credential is made of.
    """

    open: Factory
    player: type[Player]
    accounts: Accounts
    status: StatusTable
    """The adapter's own table, whose every row is tried over the wire."""
    status_default: StatusRow
    refusal: Callable[[str | int, str], Answer | None]
    """The vendor's words for a code of the table (or an HTTP status) and a text that comes with
    it; None where the vendor has no such answer of its own."""
    settings: Mapping[str, Any]
    refused_settings: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    token_path: str = ""
    """Where the adapter fetches its access token; empty where the vendor has none."""
    samples: Mapping[Operation, Sample] = field(default_factory=dict)
    """What to ask, where the usual sample does not fit the vendor."""
    originals: Mapping[Operation, Operation] = field(default_factory=dict)
    """What an undo is tried on, where more than one operation names it as its undo."""
    behaviours: Mapping[str, Behaviour] = field(default_factory=lambda: {"": Behaviour()})
    """How the vendor may behave, beginning with how its player behaves of its own accord."""
    exclusions: Mapping[tuple[Operation | None, str], str] = field(default_factory=dict)
    """Duties that an operation (None: any) cannot fulfil, with the reason. An excluded duty must
    really fail: one that holds after all is a stale exclusion and fails the suite."""

    @property
    def provider(self) -> str:
        """The vendor's name, which its adapter and its player share."""
        return self.player.name

    def find_exclusion(self, operation: Operation | None, duty: str) -> str | None:
        """Why the duty is excluded for the operation, or None."""
        return self.exclusions.get((operation, duty)) or self.exclusions.get((None, duty))
