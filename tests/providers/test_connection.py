"""The way to a vendor: which settings it takes, and what is seen of each call from outside."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.connection import (
    AdapterSettingsError,
    Connection,
    ConnectionSettings,
    VendorCall,
    check_base_url,
    clean,
    open_connection,
    read_secret,
    read_settings,
)
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.port import ProviderError, StatusRow
from loyalty_gateway.telemetry.setup import Telemetry
from tests.providers import fault_server
from tests.providers.fault_server import running


class TestBaseUrls:
    @pytest.mark.parametrize(
        ("text", "is_sandbox", "result"),
        [
            ("https://api.example/v1", False, "https://api.example/v1"),
            ("https://api.example/v1/", False, "https://api.example/v1"),
            ("https://api.example:8443", False, "https://api.example:8443"),
            ("http://127.0.0.1:8080/v1", False, "http://127.0.0.1:8080/v1"),
            ("http://[::1]:8080", False, "http://[::1]:8080"),
            ("http://localhost", False, "http://localhost"),
            ("http://players:8080", True, "http://players:8080"),
        ],
    )
    def test_a_sound_url_is_taken(self, text: str, is_sandbox: bool, result: str) -> None:
        assert check_base_url(text, is_sandbox=is_sandbox) == result

    @pytest.mark.parametrize(
        "text",
        [
            "http://api.example",
            "http://10.0.0.1",
            "http://127.0.0.1.example",
            "http://localhost.example",
            "https://user:secret@api.example",
            "https://user@api.example",
            "http://127.0.0.1@api.example",
            "https://",
            "https:///v1",
            "https://api.example/v1?key=secret",
            "https://api.example/v1#x",
            "https://api.example/v1?",
            "https://api.example:99999",
            "https://api.example:port",
            "https://[::1",
            "https://api.exämple",
            "https://api.example/a b",
            "https://api.example\n",
            "ftp://api.example",
            "file:///etc/passwd",
            "api.example",
            "",
        ],
    )
    def test_anything_else_is_refused_without_being_shown(self, text: str) -> None:
        with pytest.raises(ValueError) as caught:
            check_base_url(text, is_sandbox=False)
        assert "secret" not in str(caught.value)


class TestSettings:
    def test_the_limits_have_the_contracts_defaults(self) -> None:
        settings = read_settings(
            ConnectionSettings, {"base_url": "https://api.example"}, profile="production"
        )
        assert (settings.connect_s, settings.attempt_total_s) == (2.0, 15.0)
        assert settings.answer_bytes_max == 262_144
        assert settings.http_engine == "pyreqwest"

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            ({}, "base_url: is missing"),
            ({"base_url": "https://a.example", "surplus": "secret"}, "surplus: is not a known"),
            ({"base_url": "https://a.example", "connect_s": 15}, "connect_s must be less"),
            ({"base_url": "https://a.example", "connect_s": float("nan")}, "connect_s: "),
            ({"base_url": "https://a.example", "http_engine": "curl"}, "http_engine: "),
            ({"base_url": "http://a.example"}, "base_url: must begin with https"),
        ],
    )
    def test_each_problem_names_its_setting(self, raw: dict[str, Any], problem: str) -> None:
        with pytest.raises(AdapterSettingsError) as caught:
            read_settings(ConnectionSettings, raw, profile="production")
        assert caught.value.problems[0].startswith(problem)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("engine", ["pyreqwest", "httpx"])
    @pytest.mark.parametrize("content", [b"no certificate", b"\xff\xfe", b"x" * 1_100_000])
    def test_a_file_that_holds_no_certificates_stops_the_start(
        self, engine: str, content: bytes, tmp_path: Path
    ) -> None:
        file = tmp_path / "ca.pem"
        file.write_bytes(content)
        settings = ConnectionSettings.model_validate(
            {"base_url": "https://a.example", "ca_file": file, "http_engine": engine}
        )
        with pytest.raises(AdapterSettingsError, match=r"^ca_file: "):
            open_connection("vendor", settings)

    def test_a_secret_is_given_once(self, tmp_path: Path) -> None:
        file = tmp_path / "key"
        file.write_text("sk_1\r\n")
        assert read_secret("api_key", None, file) == "sk_1"
        assert read_secret("api_key", SecretStr("sk_2"), None) == "sk_2"
        for value, path in ((None, None), (SecretStr("sk_2"), file), (SecretStr(""), None)):
            with pytest.raises(AdapterSettingsError, match=r"^api_key: "):
                read_secret("api_key", value, path)

    @pytest.mark.parametrize("text", ["a b", "a\nb", "ä", "\x7f", "\0"])
    def test_a_secret_that_is_no_header_is_refused_without_being_shown(self, text: str) -> None:
        with pytest.raises(AdapterSettingsError) as caught:
            read_secret("api_key", SecretStr(text), None)
        assert text not in str(caught.value)


class TestTextsFromOutside:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "withdraw",
            "insufficient_balance",
            "tx_90003",
            "12.50",
            "-200",
            "2026-01-15T10:01:00Z",
            "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11",
            "Receipt 5512 of till 3",
        ],
    )
    def test_what_hides_nothing_stays_as_it_is(self, text: str) -> None:
        assert clean(text, "10472") == text

    @pytest.mark.parametrize(
        ("text", "secret"),
        [
            ("tx_10472", "10472"),
            ("card 10472 of 10472", "10472"),
            ("4111111111111111", "4111111111111111"),
            ("tx_4111111111111111", "4111111111111111"),
            ("sk_test_demo", "sk_test_demo"),
            ("lgw_test_abc", "lgw_test_abc"),
            ("api_key=hunter", "hunter"),
            ("Bearer abcdefgh", "abcdefgh"),
            ("eyJhbGciOi.eyJzdWIi.c2ln", "eyJzdWIi"),
        ],
    )
    def test_accounts_cards_and_keys_do_not(self, text: str, secret: str) -> None:
        assert secret not in clean(text, "10472")


class _Sampled:
    otlp_endpoint = ""
    trace_file = None
    sample_ratio = 1.0
    log_level = "info"
    log_format = "json"


CALL = VendorCall(
    operation=Operation.DEBIT_BALANCE,
    method="POST",
    route="/cards/withdraw",
    request_text="POST /cards/withdraw",
    query=(("id", "10472"),),
    body=b"{}",
)


@pytest.fixture
async def telemetry() -> AsyncIterator[tuple[Telemetry, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    started = Telemetry(exporter=exporter)
    started.start(_Sampled())  # type: ignore[arg-type]
    yield started, exporter
    await started.stop()


def connection_to(base_url: str) -> Connection:
    return open_connection("vendor", ConnectionSettings(base_url=base_url))


class TestTelemetry:
    async def test_a_call_is_one_client_span_without_query_and_one_figure(
        self, telemetry: tuple[Telemetry, InMemorySpanExporter]
    ) -> None:
        started, exporter = telemetry
        async with running(fault_server.well) as server:
            connection = connection_to(f"http://127.0.0.1:{server.port}")
            await connection.exchange(CALL, lambda answer: answer.status)
            await connection.close()
        (span,) = exporter.get_finished_spans()
        assert (span.name, span.kind) == ("POST /cards/withdraw", SpanKind.CLIENT)
        assert dict(span.attributes or {}) == {
            "http.request.method": "POST",
            "url.template": "/cards/withdraw",
            "server.address": "127.0.0.1",
            "server.port": server.port,
            "loyalty.connection": "vendor",
            "loyalty.operation": "Balance.DebitBalance",
            "http.response.status_code": 200,
        }
        assert "10472" not in span.to_json()
        assert (
            'loyalty_provider_call_duration_seconds_count{connection="vendor",'
            'operation="Balance.DebitBalance",result="EXECUTED"} 1.0'
        ) in started.metrics_text().decode()

    async def test_a_refusal_fails_the_span_with_the_rule_that_was_applied(
        self, telemetry: tuple[Telemetry, InMemorySpanExporter]
    ) -> None:
        def refuse(answer: HttpAnswer) -> None:
            row = StatusRow(Reason.ACCOUNT_NOT_FOUND, Fate.NOT_EXECUTED, is_refusal=True)
            raise ProviderError(row, "no such account", rule="vendor: card_not_found")

        started, exporter = telemetry
        async with running(fault_server.well) as server:
            connection = connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError):
                await connection.exchange(CALL, refuse)
            await connection.close()
        (span,) = exporter.get_finished_spans()
        assert span.status.status_code is StatusCode.ERROR
        attributes = dict(span.attributes or {})
        assert attributes["loyalty.rule"] == "vendor: card_not_found"
        assert attributes["loyalty.fate"] == "NOT_EXECUTED"
        assert attributes["http.response.status_code"] == 200
        assert 'result="NOT_EXECUTED"' in started.metrics_text().decode()

    async def test_a_mistake_of_ours_after_the_send_counts_as_unknown(
        self, telemetry: tuple[Telemetry, InMemorySpanExporter]
    ) -> None:
        def stumble(answer: HttpAnswer) -> None:
            raise ZeroDivisionError

        started, _ = telemetry
        async with running(fault_server.well) as server:
            connection = connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ZeroDivisionError):
                await connection.exchange(CALL, stumble)
            await connection.close()
        assert 'result="UNKNOWN"' in started.metrics_text().decode()
