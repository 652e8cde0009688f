"""What an adapter declares: that it names only what exists, and sends nothing it does not offer."""

from typing import Final

from google.protobuf.descriptor import Descriptor

from loyalty_gateway.conformance.duties.duty import Duty, to_any
from loyalty_gateway.conformance.house import open_house
from loyalty_gateway.conformance.stage import Stage
from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation
from loyalty_gateway.providers.port import Adapter
from loyalty_gateway.rpc.catalog import SERVICES

_REQUESTS: Final = {
    f"{service.name}.{method.name}": method.input_type
    for service in SERVICES
    for method in service.methods
}


async def needed_fields_are_the_contracts(stage: Stage, operation: Operation) -> None:
    request = _REQUESTS.get(operation.value)
    assert request is not None, f"the contract has no {operation}"
    for path in stage.adapter.operations[operation].needed_fields:
        assert _is_field(request, path), f"{request.full_name} has no field {path}"


async def needed_fields_are_asked_for(stage: Stage, operation: Operation) -> None:
    needed = frozenset(stage.adapter.operations[operation].needed_fields)
    async with open_house(stage, proves=False) as house:
        for field in needed:
            error = await house.ask(operation, needed - {field})
            assert error is not None, f"it goes without {field}"
            assert error.reason is Reason.FIELD_REQUIRED_BY_PROVIDER, f"{field}: {error.reason}"
    assert not stage.recorder.seen, "the vendor was asked although a field was missing"


async def what_is_not_offered_sends_nothing(stage: Stage) -> None:
    """Not a duty of one operation, but of all that the adapter leaves out."""
    left_out = set(Operation) - set(stage.adapter.operations) - {Operation.VERIFY_CHALLENGE}
    async with open_house(stage, proves=False) as house:
        for operation in sorted(left_out):
            error = await house.ask(operation)
            assert error is not None, f"{operation} is answered, and not offered"
            assert error.reason is Reason.CAPABILITY_NOT_SUPPORTED, f"{operation}: {error.reason}"
    assert not stage.recorder.seen, "the vendor was asked for what it cannot do"


async def its_facts_are_complete(stage: Stage, operation: Operation) -> None:
    adapter, offer = stage.adapter, stage.adapter.operations[operation]
    unknown = set(offer.promises) - set(adapter.promises)
    assert not unknown, f"it rests on promises that the adapter does not tell of: {unknown}"
    assert operation in BOOKING_OPERATIONS or not offer.ways, "only a booking can be in doubt"
    if offer.undo is not None:
        assert offer.undo in adapter.operations, f"its undo {offer.undo} is not offered"
    asking = {"STATUS_QUERY", "STATEMENT_MATCH"} & {way.mode.value for way in offer.ways}
    assert not asking or offer.ask is not None, f"{asking} needs something to ask with"
    undoing = any(way.mode.value == "REVERSE" for way in offer.ways)
    assert not undoing or offer.undo is not None, "REVERSE needs an undo"
    assert not set(adapter.operations) & set(adapter.unsupported_notes), (
        "an operation that is offered has a note that says it is not"
    )


def _is_field(message: Descriptor, path: str) -> bool:
    name, _, rest = path.partition(".")
    field = message.fields_by_name.get(name)
    if field is None:
        return False
    return not rest or (field.message_type is not None and _is_field(field.message_type, rest))


def _needs_fields(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    return bool(adapter.operations[operation].needed_fields)


DUTIES: Final = (
    Duty(
        "needed-fields",
        "every field that it cannot do without is a field of the contract",
        _needs_fields,
        needed_fields_are_the_contracts,
    ),
    Duty(
        "asks-for-fields",
        "a request without a field that is needed is refused, and nothing is sent",
        _needs_fields,
        needed_fields_are_asked_for,
    ),
    Duty(
        "declared-facts",
        "what it declares fits together: promises, ways, undo and notes",
        to_any,
        its_facts_are_complete,
    ),
)
