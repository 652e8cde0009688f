"""Scenes about what passes the gateway's own doors: amounts, tenants, texts, and redirects."""

import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from loyalty.v1 import bookings_pb2
from loyalty_gateway.booking.calls import AccountKey, BookingFilter, BookingKey, ReadCall
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.connection import (
    ConnectionSettings,
    VendorCall,
    open_connection,
)
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.sandbox.players import PLAYERS
from tests.booking.house import CARD, KEYRING, TENANT, in_s, open_house
from tests.faults.inside import Inside, open_inside
from tests.faults.trades import ACCOUNTS, TRADES, Desk
from tests.planted.checker import Kind
from tests.planted.scene import REQUEST_ID, Scene
from tests.providers import fault_server
from tests.providers.fault_server import FaultServer
from tests.rpc.conftest import open_door

BOOKS_MONEY = {
    "cashassist": "TopUpBalance",
    "cardsapi": "DebitBalance",
    "openloyaltypay": "PayWithGiftCard",
}
"""An rpc that moves money, by vendor; the fourth vendor moves whole points alone."""

NOT_IN_BINARY = (29, 57, 58, 113, 114, 115, 201, 1001)
"""Cents that are less by one after a trip through a float of whole units and back."""

STRANGER = "another-tenant"
SECRET = "hunter2"

Way = Callable[[bytes], Awaitable[HttpAnswer]]


async def amounts_that_no_float_holds(scene: Scene) -> set[Kind]:
    """Each vendor that moves money is asked for such amounts, from the door to its ledger."""
    found: set[Kind] = set()
    for name, method in BOOKS_MONEY.items():
        folder = scene.path.with_name(name)
        async with open_inside(folder, TRADES[name], PLAYERS[name], {}) as inside:
            for minor in NOT_IN_BINARY:
                found |= await _book_exactly(inside, name, method, minor)
    return found


async def _book_exactly(inside: Inside, name: str, method: str, minor: int) -> set[Kind]:
    trade, request_id = TRADES[name], str(uuid.uuid4())
    # The first draw of this chance allows no part of the amount.
    desk = Desk(inside.caller, trade, random.Random(1), request_id, minor, ACCOUNTS[0])
    before = {effect.number for effect in await inside.vendors[name].effects()}
    request = await trade.makers[method][1](desk)
    assert request is not None, "nothing has to be booked before it"
    reply = await inside.caller.call(request)
    effects = [it for it in await inside.vendors[name].effects() if it.number not in before]
    assert len(effects) == 1, f"{name} booked {len(effects)} times: {reply}"
    booked = {abs(effect.amount_minor) for effect in effects}
    told = {minor}
    if reply.is_ok:
        money = reply.booking.applied.money
        told = {money.units * 100 + money.nanos // 10_000_000}
    return set() if booked | told == {minor} else {Kind.ANOTHER_AMOUNT}


async def a_stranger_who_knows_the_names(scene: Scene) -> set[Kind]:
    """Another tenant has the booking's name, its request_id and the card's token."""
    async with open_house(scene.path) as house:
        await house.book(REQUEST_ID)
        booking = await house.get(REQUEST_ID)
        token = KEYRING.token(TENANT, "main", CARD)
        mine = await house.engine.read(_a_read(TENANT, token))
        assert mine.account_token == token, "whose it is may read it"
        found: set[Kind] = set()
        for key in (BookingKey(booking_id=booking.booking_id), BookingKey(request_id=REQUEST_ID)):
            if await _is_shown(house.engine.get(STRANGER, key)):
                found.add(Kind.FOREIGN_BOOKING)
            if await _is_shown(house.engine.explain(STRANGER, key)):
                found.add(Kind.FOREIGN_BOOKING)
        listed, _ = await house.engine.list(STRANGER, BookingFilter())
        if listed:
            found.add(Kind.FOREIGN_BOOKING)
        if await _is_shown(house.engine.read(_a_read(STRANGER, token))):
            found.add(Kind.FOREIGN_CARD)
        assert await house.moves(REQUEST_ID) == [State.SENDING, State.SUCCEEDED], "untouched"
    return found


def _a_read(tenant: str, token: str) -> ReadCall:
    account = AccountKey("main", token=token)
    return ReadCall(tenant=tenant, operation=Operation.GET_CARD, account=account, deadline=in_s(10))


async def _is_shown(asked: Awaitable[object]) -> bool:
    try:
        await asked
    except LoyaltyError:
        return False
    return True


async def a_bug_that_speaks_of_secrets(scene: Scene) -> set[Kind]:
    """An exception that nobody expected passes the door of a real server."""
    async with open_door() as door:
        door.engine.fails(RuntimeError(f"no route to postgres://loyalty:{SECRET}@db/journal"))
        request = bookings_pb2.GetBookingRequest(request_id="sale-0001-of-till-7")
        reply = await door.wire.call("Bookings/GetBooking", request)
        assert reply.code is grpc.StatusCode.INTERNAL, "the bug was met"
    told = [reply.text.encode(), *map(_bytes, reply.trailers.values())]
    return {Kind.INNER_TEXT} if any(SECRET.encode() in it for it in told) else set()


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


async def an_answer_that_leads_elsewhere(scene: Scene) -> set[Kind]:
    """A booking, and a read, are answered with each kind of redirect, over each HTTP engine."""
    found: set[Kind] = set()
    for status in (301, 302, 303, 307, 308):
        for engine in ("pyreqwest", "httpx"):

            async def leads_elsewhere(
                exchange: fault_server.Exchange, status: int = status
            ) -> bool:
                is_asked = exchange.path == "/book"
                answer = fault_server.redirect(status) if is_asked else fault_server.well
                return await answer(exchange)

            async with fault_server.running(leads_elsewhere) as server:
                async with open_way(server, http_engine=engine) as send:
                    await send(b"{}")
                assert "/book" in server.paths, "the redirect was met"
                if set(server.paths) != {"/book"}:
                    found.add(Kind.SENT_ELSEWHERE)
    return found


@asynccontextmanager
async def open_way(server: FaultServer, **settings: Any) -> AsyncIterator[Way]:
    """A connection to that server, which books with whatever is handed to it."""
    asked = {"base_url": f"http://127.0.0.1:{server.port}", "connect_s": 10, **settings}
    connection = open_connection("vendor", ConnectionSettings.model_validate(asked))

    def whole(answer: HttpAnswer) -> HttpAnswer:
        return answer

    async def send(body: bytes) -> HttpAnswer:
        call = VendorCall(
            operation=Operation.DEBIT_BALANCE,
            method="POST",
            route="/book",
            request_text="POST /book",
            headers=(("content-type", "application/json"),),
            body=body,
        )
        return await connection.exchange(call, whole)

    try:
        yield send
    finally:
        await connection.close()
