"""A gateway's engine on a PostgreSQL that other replicas share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from loyalty_gateway.booking.connections import Connections, Link, proof
from loyalty_gateway.booking.engine import Engine
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.journal.postgres import PostgresStore
from tests.booking.house import KEYRING, QUICK, TENANT, HookedJournal, House, PlainCodec
from tests.booking.vendor import RESEND_IS_SAFE, FakeVendor


@asynccontextmanager
async def open_replica(
    dsn: str, vendor: FakeVendor, *, limits: Limits, boot_id: str
) -> AsyncIterator[House]:
    """One replica, with recovery in fractions of a second."""
    journal = HookedJournal(PostgresStore(dsn), boot_id)
    await journal.start(KEYRING.salt_check)
    promise = proof(RESEND_IS_SAFE, True, datetime.now(UTC), "for the test")
    link = Link(
        "main", vendor, KEYRING.target_hash(vendor.target), proven={RESEND_IS_SAFE: promise}
    )
    codec = PlainCodec()
    engine = Engine(
        journal,
        KEYRING,
        Connections([link]),
        codec,
        limits=limits,
        policy=QUICK,
        tenant=TENANT,
        recovery_parallel_max=8,
    )
    house = House(engine=engine, journal=journal, vendor=vendor, link=link, codec=codec)
    try:
        await engine.start(proves_itself=False)
        yield house
    finally:
        await house.stop()
