"""A stranger with grpcurl can read the contract and call it, with nothing but the address."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from loyalty_gateway.rpc.catalog import SERVICES
from loyalty_gateway.rpc.reflection import V1, V1ALPHA
from tests.rpc.conftest import Door

Grpcurl = Callable[..., Awaitable[str]]


@pytest.fixture
async def run(door: Door, grpcurl: str) -> Grpcurl:
    """Runs grpcurl against the server and gives what it prints."""

    async def run(*words: str, before: tuple[str, ...] = ()) -> str:
        address = f"127.0.0.1:{door.port}"
        process = await asyncio.create_subprocess_exec(
            grpcurl,
            "-plaintext",
            *before,
            address,
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await asyncio.wait_for(process.communicate(), 30)
        return printed.decode()

    return run


async def test_grpcurl_lists_every_service(run: Grpcurl) -> None:
    listed = (await run("list")).split()
    assert {service.full_name for service in SERVICES} <= set(listed)
    assert {V1, V1ALPHA} <= set(listed)


async def test_grpcurl_lists_the_methods_of_a_service(run: Grpcurl) -> None:
    assert "loyalty.v1.Points.RedeemPoints" in (await run("list", "loyalty.v1.Points")).split()


async def test_grpcurl_describes_a_method(run: Grpcurl) -> None:
    told = await run("describe", "loyalty.v1.Points.RedeemPoints")
    assert "loyalty.v1.Points.RedeemPoints is a method" in told
    assert "points:book" in told, "the scope is told too"


@pytest.mark.parametrize(
    "symbol",
    [
        "loyalty.v1.RedeemPointsRequest",
        "loyalty.v1.Booking",
        "loyalty.v1.ErrorReason",
        "google.rpc.Status",
        "google.rpc.ErrorInfo",
        "google.type.Money",
        "buf.validate.FieldRules",
    ],
)
async def test_grpcurl_describes_every_type_that_a_caller_meets(run: Grpcurl, symbol: str) -> None:
    assert f"{symbol} is a" in await run("describe", symbol)


async def test_grpcurl_shows_the_template_of_a_request(run: Grpcurl) -> None:
    told = await run("describe", "loyalty.v1.RedeemPointsRequest", before=("-msg-template",))
    assert '"requestId"' in told


async def test_grpcurl_says_that_a_symbol_does_not_exist(run: Grpcurl) -> None:
    assert "not found" in await run("describe", "loyalty.v1.Points.StealPoints")


async def test_grpcurl_calls_and_shows_the_details_of_a_refusal(run: Grpcurl) -> None:
    told = await run("loyalty.v1.Points/RedeemPoints", before=("-d", '{"requestId": "short"}'))
    assert "InvalidArgument" in told
    assert "REQUEST_INVALID" in told
    assert "account" in told


@pytest.mark.parametrize("name", [V1, V1ALPHA])
async def test_both_names_of_reflection_answer_alike(door: Door, name: str) -> None:
    ask: grpc.aio.StreamStreamMultiCallable[
        reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
    ] = door.wire.channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services="*"),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="loyalty.v1.Points.RedeemPoints"
        ),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="loyalty.v1.RedeemPointsRequest"
        ),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="loyalty.v1.No.Such"),
    ]
    kinds = [answer.WhichOneof("message_response") async for answer in ask(iter(questions))]
    assert kinds == [
        "list_services_response",
        "file_descriptor_response",
        "file_descriptor_response",
        "error_response",
    ]
