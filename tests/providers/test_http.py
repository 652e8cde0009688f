"""Every way an exchange can fail, against a raw server, for both HTTP engines alike."""

import asyncio
import json
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from pyreqwest import exceptions as pyreqwest_errors

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.connection import (
    Connection,
    ConnectionSettings,
    VendorCall,
    open_connection,
)
from loyalty_gateway.providers.http import (
    ENGINES,
    HTTPX_FAILURES,
    PYREQWEST_FAILURES,
    SENTENCES,
    TRANSPORT,
    Failure,
    HttpAnswer,
    HttpRequest,
    Limits,
    TransportFailure,
)
from loyalty_gateway.providers.port import ProviderError
from tests.providers import fault_server
from tests.providers.certificates import make_certificate
from tests.providers.fault_server import Script, running

# Wide where an exchange should go well, so that a busy machine fails no test; narrow where the
# limit itself is what is seen.
PATIENT: Mapping[str, float] = {"connect_s": 10, "attempt_total_s": 20}
TOTAL_S = 2.0
NARROW: Mapping[str, float] = {"connect_s": 1.2, "attempt_total_s": TOTAL_S}
UNCONNECTED: Mapping[str, float] = {"connect_s": 0.5, "attempt_total_s": 10}
LATE_S = 2.0
BODY = b'{"id":"10472","amount":12.50}'

pytestmark = pytest.mark.parametrize("engine", sorted(ENGINES))


@asynccontextmanager
async def connected(
    engine: str,
    port: int,
    *,
    scheme: str = "http",
    host: str = "127.0.0.1",
    limits: Mapping[str, float] = PATIENT,
    **more: object,
) -> AsyncIterator[Connection]:
    settings = ConnectionSettings.model_validate(
        {
            "base_url": f"{scheme}://{host}:{port}",
            "http_engine": engine,
            **limits,
            **more,
        }
    )
    connection = open_connection("vendor", settings)
    try:
        yield connection
    finally:
        await connection.close()


def booking(body: bytes = BODY, route: str = "/book") -> VendorCall:
    return VendorCall(
        operation=Operation.DEBIT_BALANCE,
        method="POST",
        route=route,
        request_text="POST /book",
        headers=(("content-type", "application/json"), ("x-api-key", "sk_test_secret")),
        body=body,
    )


def reading(body: bytes = b"") -> VendorCall:
    """A read with a body, which no vendor has: it lets the same effects be counted."""
    return VendorCall(
        operation=Operation.GET_BALANCE,
        method="POST" if body else "GET",
        route="/info",
        request_text="GET /info",
        query=(("id", "10472"),),
        body=body,
    )


def whole(answer: HttpAnswer) -> HttpAnswer:
    return answer


async def failed(connection: Connection, call: VendorCall) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await connection.exchange(call, whole)
    return caught.value


async def error_or_none(connection: Connection, call: VendorCall) -> ProviderError | None:
    try:
        await connection.exchange(call, whole)
    except ProviderError as error:
        return error
    return None


def failure_of(error: ProviderError) -> Failure:
    name = error.rule.removeprefix("TRANSPORT ")
    assert error.status is TRANSPORT[Failure(name)]
    return Failure(name)


class TestTheTable:
    def test_every_failure_has_a_row_and_a_sentence(self, engine: str) -> None:
        assert set(TRANSPORT) == set(SENTENCES) == set(Failure)

    def test_only_what_proves_that_nothing_left_is_not_executed(self, engine: str) -> None:
        proven = {failure for failure, row in TRANSPORT.items() if row.fate is not Fate.UNKNOWN}
        assert proven == {Failure.NOT_BUILT, Failure.NO_SLOT, Failure.NO_CONNECTION}
        assert {TRANSPORT[failure].fate for failure in proven} == {Fate.NOT_EXECUTED}
        for row in TRANSPORT.values():
            assert row.proves is Proves.THIS_ATTEMPT
            assert not row.is_refusal
            assert not row.contradicts

    def test_unreachable_is_said_only_where_no_request_left(self, engine: str) -> None:
        for row in TRANSPORT.values():
            if row.reason is Reason.PROVIDER_UNREACHABLE:
                assert row.fate is Fate.NOT_EXECUTED

    def test_every_exception_of_the_engine_is_mapped(self, engine: str) -> None:
        if engine == "httpx":
            named = [getattr(httpx, name) for name in httpx.__all__]
            mapped = HTTPX_FAILURES
            roots: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.StreamError)
        else:
            named = list(vars(pyreqwest_errors).values())
            mapped = PYREQWEST_FAILURES
            roots = (pyreqwest_errors.PyreqwestError,)
        exceptions = {
            thing for thing in named if isinstance(thing, type) and issubclass(thing, Exception)
        } - {json.JSONDecodeError}
        for root in roots:
            exceptions |= set(descendants(root))
        assert len(exceptions) > 15
        assert exceptions == set(mapped)

    def test_no_class_of_pyreqwest_proves_that_nothing_was_sent(self, engine: str) -> None:
        if engine == "pyreqwest":
            assert all(
                TRANSPORT[failure].fate is Fate.UNKNOWN for failure in PYREQWEST_FAILURES.values()
            )


def descendants(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__.split(".")[0] in ("httpx", "pyreqwest"):
            yield from descendants(child)


class TestNotSent:
    async def test_a_refused_connection_proves_that_nothing_was_sent(self, engine: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            async with connected(engine, taken.getsockname()[1]) as connection:
                error = await failed(connection, booking())
        assert failure_of(error) is Failure.NO_CONNECTION
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_UNREACHABLE,
            Fate.NOT_EXECUTED,
        )

    async def test_a_name_that_does_not_exist_proves_it(self, engine: str) -> None:
        async with connected(engine, 80, host="no-such-vendor.invalid") as connection:
            assert failure_of(await failed(connection, booking())) is Failure.NO_CONNECTION

    async def test_a_full_backlog_ends_at_the_connect_limit_and_proves_it(
        self, engine: str
    ) -> None:
        with full_backlog() as port:
            async with connected(engine, port, limits=UNCONNECTED) as connection:
                started_s = time.monotonic()
                error = await failed(connection, booking())
        assert failure_of(error) is Failure.NO_CONNECTION
        took_s = time.monotonic() - started_s
        assert UNCONNECTED["connect_s"] * 0.8 <= took_s < UNCONNECTED["connect_s"] + LATE_S

    @pytest.mark.parametrize("fault", ["unknown authority", "another address", "expired"])
    async def test_a_certificate_that_cannot_be_trusted_proves_it(
        self, engine: str, fault: str, tmp_path: Path
    ) -> None:
        certificate = make_certificate(
            tmp_path,
            "vendor",
            address="127.0.0.2" if fault == "another address" else "127.0.0.1",
            is_expired=fault == "expired",
        )
        ca_file = None if fault == "unknown authority" else certificate.authority_file
        async with (
            running(fault_server.well, tls=certificate.context) as server,
            connected(engine, server.port, scheme="https", ca_file=ca_file) as connection,
        ):
            error = await failed(connection, booking())
            assert failure_of(error) is Failure.NO_CONNECTION
            assert server.effects == []

    async def test_a_server_that_speaks_no_tls_proves_it(self, engine: str) -> None:
        async with (
            running(fault_server.close_after_effect, is_reset_on_accept=True) as server,
            connected(engine, server.port, scheme="https") as connection,
        ):
            assert failure_of(await failed(connection, booking())) is Failure.NO_CONNECTION
            assert server.effects == []

    async def test_waiting_for_a_free_place_counts_in_the_limit_and_proves_it(
        self, engine: str
    ) -> None:
        async with (
            running(fault_server.hang) as server,
            connected(engine, server.port, max_in_flight=1, limits=NARROW) as connection,
        ):
            first = asyncio.create_task(failed(connection, booking(b'{"number":1}')))
            await server.until(lambda: len(server.effects) == 1)
            # The place becomes free when the first gives up, which is too late for this one.
            started_s = time.monotonic()
            async with asyncio.TaskGroup() as group:
                waiting = [
                    group.create_task(failed(connection, booking(b'{"number":2}')))
                    for _ in range(2)
                ]
            failures = sorted(failure_of(task.result()) for task in waiting)
            assert time.monotonic() - started_s < TOTAL_S + LATE_S
            assert failure_of(await first) is Failure.TIMED_OUT
            assert failures[0] is Failure.NO_SLOT
            # Only what had a place, for its last moment, can have had an effect.
            assert len(server.effects) <= 1 + failures.count(Failure.TIMED_OUT)

    async def test_a_header_that_cannot_be_sent_proves_it(self, engine: str) -> None:
        async with running(fault_server.well) as server:
            sender = ENGINES[engine](Limits(), is_https=False)
            request = HttpRequest("POST", f"http://127.0.0.1:{server.port}/", (("x", "a\nb"),))
            with pytest.raises(TransportFailure) as caught:
                await sender.send(request)
            await sender.close()
            assert TRANSPORT[caught.value.failure].fate in (Fate.NOT_EXECUTED, Fate.UNKNOWN)
            assert server.effects == []

    async def test_a_url_that_is_none_proves_it(self, engine: str) -> None:
        sender = ENGINES[engine](Limits(), is_https=False)
        for url in ("ftp://127.0.0.1/", "/no/host"):
            with pytest.raises(TransportFailure) as caught:
                await sender.send(HttpRequest("POST", url))
            assert caught.value.failure is Failure.NOT_BUILT
        await sender.close()

    async def test_plain_http_is_never_used_where_https_was_set(self, engine: str) -> None:
        async with running(fault_server.well) as server:
            sender = ENGINES[engine](Limits(), is_https=True)
            with pytest.raises(TransportFailure):
                await sender.send(HttpRequest("POST", f"http://127.0.0.1:{server.port}/"))
            await sender.close()
            assert server.connections == 0


LOST: tuple[tuple[Script, frozenset[Failure]], ...] = (
    (fault_server.reset_after_effect, frozenset({Failure.ANSWER_LOST})),
    (fault_server.close_after_effect, frozenset({Failure.ANSWER_LOST})),
    (fault_server.hang, frozenset({Failure.TIMED_OUT})),
    (fault_server.drip_head, frozenset({Failure.TIMED_OUT})),
    (fault_server.drip_body, frozenset({Failure.TIMED_OUT})),
    (fault_server.truncated_length, frozenset({Failure.ANSWER_BROKEN})),
    (fault_server.truncated_chunked, frozenset({Failure.ANSWER_BROKEN})),
    (fault_server.reset_in_body, frozenset({Failure.ANSWER_BROKEN, Failure.ANSWER_LOST})),
    (fault_server.not_http, frozenset({Failure.ANSWER_BROKEN, Failure.ANSWER_LOST})),
    (fault_server.endless_head, frozenset({Failure.ANSWER_BROKEN, Failure.ANSWER_LOST})),
    (fault_server.huge_body, frozenset({Failure.ANSWER_TOO_LARGE})),
    (fault_server.endless_chunks, frozenset({Failure.ANSWER_TOO_LARGE})),
)


class TestSent:
    @pytest.mark.parametrize(("script", "expected"), LOST, ids=[s.__name__ for s, _ in LOST])
    @pytest.mark.parametrize("kind", ["own connection", "kept connection"])
    async def test_once_a_request_may_have_left_the_fate_is_unknown(
        self, engine: str, script: Script, expected: frozenset[Failure], kind: str
    ) -> None:
        limits: Mapping[str, float] = NARROW if Failure.TIMED_OUT in expected else PATIENT
        async with (
            running(first_well_then(script)) as server,
            connected(engine, server.port, limits=limits) as connection,
        ):
            call = booking if kind == "own connection" else reading
            await connection.exchange(call(b"{}"), whole)
            started_s = time.monotonic()
            error = await failed(connection, call(BODY))
            if limits is NARROW:
                assert time.monotonic() - started_s < TOTAL_S + LATE_S
            assert failure_of(error) in expected
            assert error.status.fate is Fate.UNKNOWN
            assert error.http_status is None
            # The request had its effect once: nothing below us sends anything again.
            assert server.effects == [b"{}", BODY]

    async def test_a_reset_before_the_request_was_read_is_not_taken_for_a_proof(
        self, engine: str
    ) -> None:
        async with (
            running(fault_server.well, is_reset_on_accept=True) as server,
            connected(engine, server.port) as connection,
        ):
            error = await failed(connection, booking())
            assert (server.connections, server.effects) == (1, [])
        # A reset may be so fast that connecting itself fails, and that is a proof.
        assert failure_of(error) in (Failure.ANSWER_LOST, Failure.NO_CONNECTION)

    async def test_the_total_limit_closes_the_connection(self, engine: str) -> None:
        async with (
            running(fault_server.hang) as server,
            connected(engine, server.port, limits=NARROW) as connection,
        ):
            await failed(connection, booking())
            await server.until(lambda: server.open_connections == 0)

    async def test_a_cancelled_exchange_ends_at_its_limit_at_the_latest(self, engine: str) -> None:
        async with (
            running(fault_server.hang) as server,
            connected(engine, server.port, limits=NARROW) as connection,
        ):
            task = asyncio.create_task(connection.exchange(booking(), whole))
            await server.until(lambda: len(server.effects) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until(lambda: server.open_connections == 0)

    async def test_closing_the_engine_leaves_what_is_in_flight_unknown(self, engine: str) -> None:
        async with (
            running(fault_server.hang) as server,
            connected(engine, server.port, limits=NARROW) as connection,
        ):
            task = asyncio.create_task(failed(connection, booking()))
            await server.until(lambda: len(server.effects) == 1)
            await connection.close()
            assert (await task).status.fate is Fate.UNKNOWN

    async def test_a_client_that_is_closed_does_not_send(self, engine: str) -> None:
        async with running(fault_server.well) as server:
            async with connected(engine, server.port) as connection:
                await connection.exchange(booking(), whole)
            try:
                await connection.exchange(booking(), whole)
            except (ProviderError, RuntimeError):
                pass
            assert len(server.effects) == 1

    @pytest.mark.parametrize("script", [fault_server.huge_body, fault_server.endless_chunks])
    async def test_a_huge_answer_is_not_read_beyond_the_limit(
        self, engine: str, script: Script
    ) -> None:
        async with (
            running(script) as server,
            connected(engine, server.port) as connection,
        ):
            before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            error = await failed(connection, booking())
            await server.until(lambda: server.open_connections == 0)
            after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            assert failure_of(error) is Failure.ANSWER_TOO_LARGE
            # What was written beyond the limit lies in the kernel's buffers.
            assert server.bytes_written < 16_000_000
            assert after_kib - before_kib < 32 * 1024

    async def test_an_answer_of_exactly_the_limit_is_read(self, engine: str) -> None:
        limit = 2_048
        async with (
            running(fault_server.well) as server,
            connected(engine, server.port, answer_bytes_max=limit) as connection,
        ):
            assert len((await connection.exchange(booking(b" " * limit), whole)).body) == limit
            error = await failed(connection, booking(b" " * (limit + 1)))
            assert failure_of(error) is Failure.ANSWER_TOO_LARGE


def first_well_then(script: Script) -> Script:
    """The first exchange goes well, so that a kept connection is there to go wrong on."""

    async def both(exchange: fault_server.Exchange) -> bool:
        return await (fault_server.well if exchange.number == 1 else script)(exchange)

    return both


class TestAnswers:
    async def test_an_answer_in_pieces_is_read_whole(self, engine: str) -> None:
        async with (
            running(fault_server.two_pieces) as server,
            connected(engine, server.port) as connection,
        ):
            answer = await connection.exchange(booking(), whole)
            assert (answer.status, answer.body) == (200, b'{"whole":true}')

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_an_answer_and_is_never_followed(
        self, engine: str, status: int
    ) -> None:
        async with (
            running(fault_server.redirect(status)) as server,
            connected(engine, server.port) as connection,
        ):
            answer = await connection.exchange(booking(), whole)
            assert answer.status == status
            assert server.paths == ["/book"]

    async def test_a_packed_answer_stays_packed(self, engine: str) -> None:
        async with (
            running(fault_server.gzip_bomb) as server,
            connected(engine, server.port) as connection,
        ):
            answer = await connection.exchange(booking(), whole)
            assert answer.body.startswith(b"\x1f\x8b")
            assert len(answer.body) < 262_144

    async def test_a_header_that_is_not_text_does_not_cost_the_answer(self, engine: str) -> None:
        async with (
            running(fault_server.odd_header) as server,
            connected(engine, server.port) as connection,
        ):
            answer = await connection.exchange(booking(), whole)
            assert answer.headers["content-type"] == "application/json"

    async def test_a_trusted_certificate_lets_the_booking_through(
        self, engine: str, tmp_path: Path
    ) -> None:
        certificate = make_certificate(tmp_path, "vendor")
        async with (
            running(fault_server.well, tls=certificate.context) as server,
            connected(
                engine,
                server.port,
                scheme="https",
                ca_file=certificate.authority_file,
            ) as connection,
        ):
            assert (await connection.exchange(booking(), whole)).body == BODY

    async def test_no_cookie_is_carried_from_one_request_to_the_next(self, engine: str) -> None:
        heads: list[bytes] = []

        async def keep_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: session=first; path=/\r\n")
            writer.write(b"content-length: 2\r\n\r\n{}")
            await writer.drain()
            writer.close()

        listener = await asyncio.start_server(keep_head, "127.0.0.1", 0)
        async with listener, connected(engine, listener.sockets[0].getsockname()[1]) as connection:
            for _ in range(2):
                await connection.exchange(reading(), whole)
        assert len(heads) == 2
        assert b"cookie" not in heads[1].lower()
        assert b"accept-encoding: identity\r\n" in heads[1].lower()
        assert heads[1].lower().count(b"accept-encoding") == 1

    async def test_proxies_of_the_environment_are_not_used(
        self, engine: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(fault_server.well) as proxy, running(fault_server.well) as server:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            async with connected(engine, server.port) as connection:
                await connection.exchange(booking(), whole)
            assert (len(server.effects), proxy.connections) == (1, 0)


class TestStrayAnswers:
    """An answer that nobody asked for must never be taken for the answer to a booking."""

    @pytest.mark.parametrize("delay_ms", [0, 50, 500])
    @pytest.mark.parametrize("is_next_in_flight", [False, True])
    async def test_a_second_answer_never_reaches_the_next_booking(
        self, engine: str, delay_ms: int, is_next_in_flight: bool
    ) -> None:
        delay_s = delay_ms / 1000
        takes_s = delay_s + 0.1 if is_next_in_flight else 0.0
        async with (
            running(fault_server.stray_after(delay_s, then_takes_s=takes_s)) as server,
            connected(engine, server.port) as connection,
        ):
            for number in range(4):
                body = json.dumps({"number": number}).encode()
                answer = await connection.exchange(booking(body), whole)
                assert answer.body == body
            assert server.connections == 4

    async def test_bookings_and_reads_never_share_a_connection(self, engine: str) -> None:
        async with (
            running(fault_server.stray_after(0.05, then_takes_s=0.1)) as server,
            connected(engine, server.port) as connection,
        ):
            await connection.exchange(reading(b'{"number":0}'), whole)
            answer = await connection.exchange(booking(b'{"number":1}'), whole)
            assert answer.body == b'{"number":1}'


class TestKeptConnections:
    async def test_reads_share_a_connection_where_the_engine_keeps_them(self, engine: str) -> None:
        async with (
            running(fault_server.well) as server,
            connected(engine, server.port) as connection,
        ):
            for _ in range(5):
                await connection.exchange(reading(), whole)
            # One that is not given back at once is not waited for.
            assert (server.connections < 5) is (engine == "pyreqwest")

    async def test_a_vendor_that_closes_idle_connections_costs_no_booking(
        self, engine: str
    ) -> None:
        async def close_soon(exchange: fault_server.Exchange) -> bool:
            await exchange.answer(exchange.body)
            return False

        async with (
            running(close_soon) as server,
            connected(engine, server.port) as connection,
        ):
            bodies = [json.dumps({"number": number}).encode() for number in range(100)]
            for body in bodies:
                assert (await connection.exchange(booking(body), whole)).body == body
            assert server.effects == bodies

    async def test_a_stale_connection_never_doubles_a_request(self, engine: str) -> None:
        async def reset_after_answer(exchange: fault_server.Exchange) -> bool:
            await exchange.answer(exchange.body)
            fault_server.reset(exchange.writer)
            return False

        async with (
            running(reset_after_answer) as server,
            connected(engine, server.port) as connection,
        ):
            bodies = [json.dumps({"number": number}).encode() for number in range(100)]
            errors = [
                error
                for body in bodies
                if (error := await error_or_none(connection, reading(body))) is not None
            ]
            assert {error.status.fate for error in errors} <= {Fate.UNKNOWN}
            assert len(server.effects) == len(set(server.effects))
            assert len(server.effects) + len(errors) >= len(bodies)
            assert len(server.effects) > 50


class TestWhatPeopleAreShown:
    async def test_no_text_of_a_failure_holds_the_card_or_the_key(self, engine: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            async with connected(engine, taken.getsockname()[1]) as connection:
                errors = [await failed(connection, reading())]
        async with (
            running(fault_server.close_after_effect) as server,
            connected(engine, server.port) as connection,
        ):
            errors += [await failed(connection, reading()), await failed(connection, booking())]
        for error in errors:
            shown = " ".join(
                (error.message, error.rule, error.request_text, error.answer_text, str(error))
            )
            assert "10472" not in shown
            assert "sk_test" not in shown
            assert error.answer_text


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port on which a connection is never accepted: its queue is full and stays so."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting: list[socket.socket] = []
        try:
            for _ in range(8):
                caller = socket.socket()
                caller.setblocking(False)
                caller.connect_ex(listener.getsockname())
                waiting.append(caller)
            yield listener.getsockname()[1]
        finally:
            for caller in waiting:
                caller.close()
