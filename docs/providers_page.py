"""docs/providers.md: what each vendor can do, how a lost answer is found out, what is assumed."""

from collections.abc import Iterator, Mapping
from typing import Final

from docs.vendors import VENDORS, Vendor
from loyalty_gateway.conformance.duties import DUTIES
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation, Support, kind_of
from loyalty_gateway.providers.port import Offer, Way

INTRODUCTION: Final = """\
# Providers

<!-- Made by `make docs` from the adapters' own tables; edit those. -->

What each vendor can do through the gateway, as its adapter declares it; `Providers.GetCapabilities`
says the same for your connection, with what was proven of it. What a vendor cannot do is answered
with `UNIMPLEMENTED` and `CAPABILITY_NOT_SUPPORTED`, without a request to the vendor.
[errors.md](errors.md) says what each vendor's codes are taken for, and
[adding-a-provider.md](adding-a-provider.md) how to add a vendor.

## What can be done

*native* is one call of the vendor's, *emulated* is built from other calls; an empty cell is not
supported. A booking has an effect and is journalled; a challenge sends a code or checks a proof.
"""

MODES: Final[Mapping[str, str]] = {
    "SAFE_RESEND": (
        "the same booking is sent again under the same id, which the vendor knows; where no promise"
        " stands beside it, twice is the same as once, and a refusal then proves nothing of the"
        " attempts before"
    ),
    "STATUS_QUERY": "the vendor is asked for the booking by our id",
    "STATEMENT_MATCH": "the booking is looked for in the account's history",
    "REVERSE": "the booking is undone by our id, whatever happened",
    "MANUAL": "nothing is left but a person, who looks at the vendor's statement",
}

OUT_OF_SCOPE: Final = """\
## Out of scope

The gateway does not touch the vendors' reward catalogues and their fulfilment, the definition of
attributes, the merging of members, or transfers between accounts.
"""

ENGINE_PROMISES: Final[Mapping[str, str]] = {
    "keys_survive_rotation": (
        "the vendor knows our ids again after its credential was changed; without it a doubt of "
        "before is ended by a person, unless the vendor shows that it was booked; can only be "
        "declared"
    ),
    "declines_are_replayed": (
        "the vendor answers a resend of a declined booking with the first decline; can only be "
        "declared"
    ),
}
"""What the engine itself asks of every connection."""


def providers_page() -> str:
    """The page."""
    lines = [INTRODUCTION, *_matrix(), "", *_recovery()]
    for provider, vendor in VENDORS.items():
        lines += ["", *_vendor(provider, vendor)]
    lines += ["", *_duties(), "", OUT_OF_SCOPE]
    return "\n".join(lines)


def _matrix() -> Iterator[str]:
    yield f"| RPC | kind | {' | '.join(VENDORS)} |"
    yield f"| --- | --- |{' --- |' * len(VENDORS)}"
    for operation in Operation:
        cells = [_cell(vendor.adapter.operations.get(operation)) for vendor in VENDORS.values()]
        yield f"| {operation} | {kind_of(operation).lower()} | {' | '.join(cells)} |"


def _cell(offer: Offer | None) -> str:
    return "" if offer is None else offer.support.lower()


def _recovery() -> Iterator[str]:
    yield "## How a lost answer is found out"
    yield ""
    yield "Each way rests on a promise of the vendor's that was proven for the connection, or that"
    yield "an operator has declared; the first way whose promise holds counts, and where none does"
    yield "the mode is `MANUAL`."
    yield ""
    yield "| mode | meaning |"
    yield "| --- | --- |"
    for mode, meaning in MODES.items():
        yield f"| `{mode}` | {meaning} |"
    yield ""
    yield "Promises that every connection may be declared to keep:"
    yield ""
    for name, meaning in ENGINE_PROMISES.items():
        yield f"- `{name}`: {meaning}."


def _vendor(provider: str, vendor: Vendor) -> Iterator[str]:
    adapter = vendor.adapter
    yield f"## {adapter.display_name} (`{provider}`)"
    yield ""
    yield "| RPC | support | recovery, best first | partial amounts | needed fields | to know |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for operation in Operation:
        offer = adapter.operations.get(operation)
        if offer is not None:
            yield _offer_row(operation, offer)
    notes = adapter.unsupported_notes
    if notes:
        yield ""
        yield "Not supported, and why:"
        yield ""
        for operation, note in notes.items():
            yield f"- {operation}: {note}."
    yield ""
    yield "Promises:"
    yield ""
    for name, facts in adapter.promises.items():
        shown = "shown by `loyalty prove`" if facts.is_provable else "can only be declared"
        yield f"- `{name}`: {facts.meaning} ({shown})."
    yield ""
    hours = adapter.key_lifetime_s / 3_600
    yield f"A resend is sent for at most {hours / 2:g} hours after the first attempt."
    yield ""
    yield "Assumed, because the vendor's own text does not say so:"
    yield ""
    for name, sentence in vendor.assumptions.items():
        yield f"- *{name}*: {sentence}."
    yield ""
    yield from _exclusions(vendor)


def _offer_row(operation: Operation, offer: Offer) -> str:
    is_booking = operation in BOOKING_OPERATIONS
    ways = ", ".join(map(_way, offer.ways)) or "`MANUAL`"
    if offer.is_held_in_doubt:
        ways += "; a doubt holds the account"
    if offer.undo is not None:
        ways += f"; undone by {offer.undo}"
    partial = "yes" if offer.partial_amounts else "no"
    if offer.partial_promise:
        partial += f", with `{offer.partial_promise}`"
    fields = ", ".join(f"`{path}`" for path in offer.needed_fields)
    support = offer.support if offer.support is Support.NATIVE else f"*{offer.support}*"
    cells = [
        str(operation),
        support.lower(),
        ways if is_booking else "",
        partial if is_booking else "",
        fields,
        offer.note,
    ]
    return f"| {' | '.join(cells)} |"


def _way(way: Way) -> str:
    rests = " or ".join(f"`{name}`" for name in way.promises)
    limits = ", of some bookings" if way.only_for is not None else ""
    return f"`{way.mode}`{limits}" + (f" ({rests})" if rests else "")


def _exclusions(vendor: Vendor) -> Iterator[str]:
    exclusions = vendor.subject.exclusions
    if not exclusions:
        yield "It fulfils every duty of the conformance suite."
        return
    yield "It cannot fulfil these duties of the conformance suite:"
    yield ""
    for (operation, duty), reason in exclusions.items():
        yield f"- {duty}, {operation or 'any operation'}: {reason}."


def _duties() -> Iterator[str]:
    yield "## What every adapter owes"
    yield ""
    yield "`make conformance` tries each of these for every operation that an adapter offers, over"
    yield "real HTTP against the played vendor. An adapter of your own is tried in the same way."
    yield ""
    yield "| duty | meaning |"
    yield "| --- | --- |"
    for duty in DUTIES:
        yield f"| {duty.name} | {duty.meaning} |"
