"""Whose a vendor's reference is: one booking's, for ever."""

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection, String, select, tuple_

from loyalty_gateway.domain.booking import Booking
from loyalty_gateway.domain.operations import Reference
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.rows import storable
from loyalty_gateway.journal.store import Row

assert isinstance(schema.vendor_reference.c.value.type, String)
_VALUE_MAX = schema.vendor_reference.c.value.type.length or 0


def stored_value(value: str) -> str:
    """A reference as it is kept: itself, or its hash where the column could not hold it."""
    text = storable(value)
    if len(text) <= _VALUE_MAX:
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def reference_row(booking: Booking, reference: Reference) -> Row:
    """The row that makes a reference this booking's."""
    return {
        "tenant": booking.tenant,
        "connection": booking.connection,
        "kind": reference.kind,
        "value": stored_value(reference.value),
        "booking_id": booking.booking_id,
    }


def holder_of(connection: Connection, booking: Booking, reference: Reference) -> str | None:
    """The id of the booking that a reference belongs to, as seen from a booking beside it."""
    return find_holder(
        connection, booking.tenant, booking.connection, reference.kind, reference.value
    )


def find_holders(
    connection: Connection, tenant: str, connection_id: str, references: Sequence[Reference]
) -> dict[str, str]:
    """The ids of the bookings that references belong to, by the value of the reference."""
    table = schema.vendor_reference
    values = {stored_value(it.value): it.value for it in references}
    statement = select(table.c.value, table.c.booking_id).where(
        table.c.tenant == tenant,
        table.c.connection == connection_id,
        table.c.kind.in_({it.kind for it in references}),
        table.c.value.in_(values),
    )
    return {values[row.value]: row.booking_id for row in connection.execute(statement)}


def find_holder(
    connection: Connection, tenant: str, connection_id: str, kind: str, value: str
) -> str | None:
    """The id of the booking that a reference belongs to, or None."""
    table = schema.vendor_reference
    statement = select(table.c.booking_id).where(
        table.c.tenant == tenant,
        table.c.connection == connection_id,
        table.c.kind == kind,
        table.c.value == stored_value(value),
    )
    return connection.execute(statement).scalar_one_or_none()


def taken_by_others(
    connection: Connection, booking: Booking, references: Sequence[Reference]
) -> frozenset[Reference]:
    """Those of the references that belong to other bookings."""
    table = schema.vendor_reference
    stored = {(it.kind, stored_value(it.value)): it for it in references}
    statement = select(table.c.kind, table.c.value).where(
        table.c.tenant == booking.tenant,
        table.c.connection == booking.connection,
        tuple_(table.c.kind, table.c.value).in_(list(stored)),
        table.c.booking_id != booking.booking_id,
    )
    return frozenset(stored[row.kind, row.value] for row in connection.execute(statement))
