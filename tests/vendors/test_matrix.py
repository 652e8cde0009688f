"""What each vendor can do, and that what it cannot do is said without asking it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import grpc
import pytest

from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.sandbox.players import PLAYERS
from tests.e2e.caller import METHODS
from tests.vendors.asking import FACTS, ask
from tests.vendors.house import House
from tests.vendors.matrix import CONNECTIONS, EMPTY, MATRIX, RPCS, SUPPORT, Cell, cell_id

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "providers.md"
OUR_OWN: Final = frozenset({"Bookings", "Providers"})
"""Services that the gateway serves by itself, for every connection alike."""

NOBODY_GETS_THERE: Final[Mapping[Cell, str]] = {
    ("Wallets.VerifyChallenge", "cardsapi"): "a challenge_token names the connection",
    ("Wallets.VerifyChallenge", "openloyaltypay"): "a challenge_token names the connection",
}
"""Blank cells that no request can name: what names the vendor is only given out by another rpc,
which the vendor lacks too."""


def test_the_table_has_a_row_for_every_rpc_that_reaches_a_vendor() -> None:
    contract = {
        f"{method.containing_service.name}.{method.name}"
        for method in METHODS.values()
        if method.containing_service.name not in OUR_OWN
    }

    assert set(RPCS) == contract


def test_the_table_has_a_column_for_every_vendor() -> None:
    assert set(CONNECTIONS) == set(PROVIDERS) == set(PLAYERS) == set(FACTS)


def test_the_page_of_the_providers_shows_the_table() -> None:
    assert dict(_page_cells(PAGE.read_text("utf-8"))) == MATRIX


def _page_cells(page: str) -> Iterator[tuple[Cell, str]]:
    lines = iter(page.splitlines())
    head = next(line for line in lines if line.startswith("| RPC | kind |"))
    connections = [name.strip() for name in head.split("|")[3:-1]]
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        rpc, _, *words = (word.strip() for word in line.split("|")[1:-1])
        for connection, word in zip(connections, words, strict=True):
            yield (rpc, connection), word


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_a_connection_tells_what_the_table_says(house: House, connection: str) -> None:
    told = await house.capabilities(connection)

    ours = {rpc: it for rpc, it in told.items() if it.service in OUR_OWN}
    theirs = {rpc: it.support for rpc, it in told.items() if rpc not in ours}
    assert theirs == {rpc: SUPPORT[MATRIX[rpc, connection]] for rpc in RPCS}
    assert {it.support for it in ours.values()} == {SUPPORT["native"]}
    # A person reads why: an emulated answer costs more, or is told another way.
    assert [
        rpc for rpc in RPCS if MATRIX[rpc, connection] == "emulated" and not told[rpc].note
    ] == []


@pytest.mark.parametrize("cell", EMPTY, ids=cell_id)
async def test_what_a_vendor_cannot_do_is_refused_without_a_request_to_it(
    house: House, cell: Cell
) -> None:
    _, connection = cell
    vendor = house.vendors[connection]
    request = await ask(house, cell)
    before = vendor.books
    vendor.recorder.seen.clear()

    reply = await house.call(request)

    assert vendor.recorder.seen == []
    assert vendor.books == before
    if cell in NOBODY_GETS_THERE:
        assert (reply.code, reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
        return
    assert reply.code is grpc.StatusCode.UNIMPLEMENTED, str(reply)
    assert reply.reason == "CAPABILITY_NOT_SUPPORTED"
    assert reply.info.domain == "loyalty-gateway"
    assert reply.info.metadata["connection"] == connection
    assert reply.info.metadata["provider"] == connection
    # Nothing was looked up, so nothing is said of an earlier call, and nothing was journalled.
    assert reply.outcome == ""
    request_id = getattr(request, "request_id", "")
    if request_id:
        assert await house.caller.get(request_id) is None


def test_what_nobody_gets_to_is_blank() -> None:
    assert set(NOBODY_GETS_THERE) <= set(EMPTY)
