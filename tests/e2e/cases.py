"""Whose is which entry in a vendor's books: by our own id where the vendor keeps it, and by what
was asked for where it does not. The callers of a run never ask twice for the same."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.e2e.journal import Row
from tests.e2e.vendor import Effect
from tests.e2e.wanted import Wanted

Content = tuple[str, str, str]
"""request_id, method and ticket: one content under one request_id."""


@dataclass(slots=True)
class Case:
    """One booking of the journal, what it asked for and what it did.

    `wanted` is None for a tombstone, and for what the gateway itself began. `undone` are the
    entries that take back what it did, whoever asked for them; of an undo `effects` are the
    entries by which it did.
    """

    row: Row
    wanted: Wanted | None = None
    effects: list[Effect] = field(default_factory=list)
    undone: list[Effect] = field(default_factory=list)
    original: "Case | None" = None

    @property
    def net(self) -> int:
        """How often it is in the vendor's books today."""
        return len(self.effects) - len(self.undone)

    def is_as_asked(self, effect: Effect) -> bool:
        """Whether the entry is what the booking asked for."""
        wanted = self.wanted
        if self.row.is_undo:
            original = self.original.effects if self.original is not None else []
            opposite = -effect.amount_minor, -effect.points
            return any((it.amount_minor, it.points) == opposite for it in original)
        if wanted is None or not wanted.moves_value:
            return False
        if wanted.purchase_minor:
            sold = effect.detail.get("amount_minor", wanted.purchase_minor)
            if sold != wanted.purchase_minor:
                return False
        is_there = (effect.connection, effect.card) == (wanted.connection, wanted.account)
        return is_there and wanted.is_met_by(effect.amount_minor, effect.points)


class Cases:
    """All bookings of a journal, with the entries that are nobody's."""

    def __init__(
        self,
        rows: Sequence[Row],
        effects: Sequence[Effect],
        contents: Mapping[Content, Wanted],
    ) -> None:
        self.all_effects = list(effects)
        self.orphans: list[Effect] = []
        self._cases = [
            Case(row, contents.get((row.request_id, row.method, row.ticket))) for row in rows
        ]
        self._by_content = {
            (it.row.request_id, it.row.method, it.row.ticket): it for it in self._cases
        }
        self._by_outbound_id = {
            (it.row.connection, it.row.outbound_id): it for it in self._cases if it.row.outbound_id
        }
        self._by_name = {it.row.name: it for it in self._cases}
        self._undos: dict[str, list[Case]] = defaultdict(list)
        for case in self._cases:
            if case.row.original:
                case.original = self._by_name.get(case.row.original)
                if case.row.is_undo:
                    self._undos[case.row.original].append(case)
        self._share_out()

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases)

    def find(self, request_id: str, method: str, ticket: str) -> Case | None:
        """The booking of a content; None where it never became one."""
        return self._by_content.get((request_id, method, ticket))

    def by_outbound_id(self, connection: str, outbound_id: str) -> Case | None:
        return self._by_outbound_id.get((connection, outbound_id))

    def undos_of(self, row: Row) -> list[Case]:
        """Every booking that undoes this one, or tried to."""
        return self._undos.get(row.name, [])

    def _share_out(self) -> None:
        alike: dict[tuple[str, str, int, int], Case] = {}
        for case in self._cases:
            wanted = case.wanted
            if wanted is not None and wanted.moves_value and not wanted.purchase_minor:
                place = wanted.connection, wanted.account
                alike[(*place, wanted.minor, wanted.points)] = case
        owners: dict[tuple[str, int], Case] = {}
        for effect in sorted(self.all_effects, key=lambda it: it.number):
            original = owners.get((effect.connection, effect.reverses or 0))
            owner = self._by_outbound_id.get((effect.connection, effect.idempotency_key))
            if effect.reverses is not None:
                if original is None:
                    self.orphans.append(effect)
                    continue
                original.undone.append(effect)
                owner = owner or self._undoer_of(original)
                if owner is not None:
                    owner.effects.append(effect)
                continue
            if owner is None and not effect.is_keyed:
                place = effect.connection, effect.card
                owner = alike.get((*place, effect.amount_minor, effect.points))
            if owner is None:
                self.orphans.append(effect)
                continue
            owner.effects.append(effect)
            owners[effect.connection, effect.number] = owner
            if owner.row.is_undo and owner.original is not None:
                # The vendor has no word for it and takes the opposite entry.
                owner.original.undone.append(effect)

    def _undoer_of(self, original: Case) -> Case | None:
        """The undo that succeeded, where the vendor does not say which of several it was."""
        undos = self._undos.get(original.row.name, [])
        done = [it for it in undos if it.row.state == "SUCCEEDED" and not it.effects]
        left = done or [it for it in undos if it.row.state not in ("DECLINED", "NOT_EXECUTED")]
        return next(iter(left or undos), None)
