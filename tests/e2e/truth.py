"""What must hold of one booking when all is over: ledger, journal and answers say the same."""

from loyalty.v1 import types_pb2
from tests.e2e.caller import Reply
from tests.e2e.house import House, until
from tests.e2e.vendor import Effect
from tests.e2e.wanted import BookingRequest, ticket_of, wanted_of


async def effects_of(house: House, request: BookingRequest) -> list[Effect]:
    """What the vendor booked for a request, found by the ticket number that it carries."""
    return await house.vendor.effects(reference=ticket_of(request))


async def assert_booked_once(
    house: House, request: BookingRequest, reply: Reply | None = None
) -> types_pb2.Booking:
    """One effect as asked, in the ledger, by GetBooking and, where there is one, by the answer."""
    effects = await effects_of(house, request)
    assert len(effects) == 1, f"{len(effects)} effects for {request.request_id}"
    effect = effects[0]
    wanted = wanted_of(request)
    assert (effect.amount_minor, effect.points) == (wanted.minor, wanted.points)
    assert effect.card == wanted.account
    booking = await house.caller.get(request.request_id)
    assert booking is not None
    for told in (booking, reply.booking if reply is not None else booking):
        assert told.name == booking.name
        assert told.state == types_pb2.BOOKING_STATE_SUCCEEDED
        assert told.outcome == types_pb2.OUTCOME_EXECUTED
        assert told.final
        assert told.applied == told.asked
        references = {reference.value for reference in told.provider_references}
        assert effect.transaction_id in references
    return booking


async def assert_not_booked(house: House, request: BookingRequest) -> None:
    """The vendor never booked it."""
    assert await effects_of(house, request) == []


async def until_final(house: House, request_id: str, limit_s: float = 20.0) -> types_pb2.Booking:
    """Waits, without repeating the call, until the gateway itself has found out."""

    async def find() -> types_pb2.Booking | None:
        booking = await house.caller.get(request_id)
        return booking if booking is not None and booking.final else None

    found = await until(find, f"{request_id} is final", limit_s)
    assert found is not None
    return found
