"""Nobody passes the door without being known and without the scope that the contract names."""

import grpc
import pytest

from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.rpc.catalog import Rpc, join_catalog
from loyalty_gateway.rpc.dispatch import Authenticator, Caller, Metadata, all_scopes
from tests.rpc.conftest import open_door
from tests.rpc.fakes import redeem

REDEEM = "Points/RedeemPoints"


def _with_scopes(scopes: frozenset[str]) -> Authenticator:
    async def authenticate(metadata: Metadata) -> Caller:
        return Caller("shop", scopes, "key-7")

    return authenticate


@pytest.mark.parametrize("rpc", join_catalog(), ids=lambda rpc: rpc.name)
async def test_every_rpc_needs_its_own_scope(rpc: Rpc) -> None:
    method = rpc.name.removeprefix("loyalty.v1.")
    others = all_scopes() - {rpc.scope}
    async with open_door(authenticate=_with_scopes(others)) as door:
        reply = await door.wire.call(method, b"\xff")
        assert reply.code is grpc.StatusCode.PERMISSION_DENIED, "refused before it is read"
        assert reply.info.reason == "SCOPE_MISSING"
        assert rpc.scope in reply.text
        assert "outcome" not in reply.info.metadata
        assert door.engine.calls == []
    async with open_door(authenticate=_with_scopes(frozenset({rpc.scope}))) as door:
        reply = await door.wire.call(method, b"\xff")
        assert reply.code is grpc.StatusCode.INVALID_ARGUMENT, "passed the gate"


async def test_a_caller_that_is_not_known_gets_nothing_but_that() -> None:
    async def authenticate(metadata: Metadata) -> Caller:
        assert ("x-api-key", "wrong") in [tuple(pair) for pair in metadata]
        raise LoyaltyError(Reason.UNAUTHENTICATED, "The key is not known.")

    async with open_door(authenticate=authenticate) as door:
        reply = await door.wire.call(REDEEM, redeem(), metadata=(("x-api-key", "wrong"),))
        assert reply.code is grpc.StatusCode.UNAUTHENTICATED
        assert reply.info.reason == "UNAUTHENTICATED"
        assert door.engine.calls == []


async def test_a_call_belongs_to_its_callers_tenant() -> None:
    async with open_door(authenticate=_with_scopes(all_scopes())) as door:
        await door.wire.call(REDEEM, redeem())
        assert door.engine.calls[0].tenant == "shop"


async def test_an_authenticator_that_breaks_lets_nobody_in() -> None:
    async def authenticate(metadata: Metadata) -> Caller:
        raise KeyError("kid")

    async with open_door(authenticate=authenticate) as door:
        reply = await door.wire.call(REDEEM, redeem())
        assert reply.code is grpc.StatusCode.INTERNAL
        assert door.engine.calls == []
