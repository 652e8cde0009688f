"""A member, a secret and a name that are unmistakable, through every kind of end of a call."""

import json
from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Destination,
    External,
    Operation,
    Order,
    Person,
    Receipt,
    Reference,
    Sale,
)
from loyalty_gateway.providers.port import (
    CodeCheck,
    CodeWish,
    Lookup,
    PasswordCheck,
    ProviderError,
    Search,
    Send,
)
from loyalty_gateway.telemetry.setup import Telemetry
from tests.providers.fault_server import Exchange, Script, running
from tests.providers.loyalife.conftest import Open
from tests.providers.loyalife.verbs import KEY, call, purchase, redemption, reversal

MEMBER = "canary.member@example.com"
SECRETS = (MEMBER, "canary-secret", "canary-token", "canary-hash", "918273", "Max Muster", "+41790")
DESTINATION = Destination(email=MEMBER)
PERSON = Person("Max Muster", email=MEMBER, phone="+4179000")


class _TelemetrySettings:
    otlp_endpoint = ""
    trace_file = None
    sample_ratio = 1.0
    log_level = "info"
    log_format = "json"


def saying(inner: dict[str, Any], *, status: str = "200 OK") -> Script:
    token = {"token": "canary-token", "tokenExpiresOn": "2099-01-01T00:00:00Z"}

    async def script(exchange: Exchange) -> bool:
        is_token = exchange.path.endswith("/Token")
        body = json.dumps({"results": token if is_token else inner}).encode()
        await exchange.answer(body, status="200 OK" if is_token else status)
        return True

    return script


def everything() -> list[tuple[Operation, Any]]:
    """Every operation of the adapter, with the canaries wherever it can carry them."""
    order = redemption(
        member=MEMBER,
        sale=Sale(merchant_name=MEMBER),
        prepared=(("merchant", MEMBER), ("kind", "30")),
    )
    guid = "3FA85F64-5717-4562-B3FC-2C963F66AFA6"
    undo = reversal(order, _receipt(guid))
    profile = Order(
        Operation.CREATE_WALLET,
        MEMBER,
        person=PERSON,
        update_mask=("email",),
        prepared=(("member_number", "12345"),),
    )
    link = Order(Operation.LINK_ACCOUNT, MEMBER, external=External("device", "canary-hash"))
    reads = (
        Operation.GET_CARD,
        Operation.GET_BALANCE,
        Operation.LIST_TRANSACTIONS,
        Operation.LIST_LINKED_ACCOUNTS,
        Operation.LIST_EXPIRING_POINTS,
    )
    return [
        *((read, Lookup(read, MEMBER, year=2026)) for read in reads),
        (Operation.SEARCH_CARDS, Lookup(Operation.SEARCH_CARDS, search=Search(email=MEMBER))),
        *(
            (asked.operation, Send(asked, KEY, 1))
            for asked in (order, undo, purchase(member=MEMBER), profile, link)
        ),
        (Operation.UPDATE_WALLET, Send(profile, KEY, 1)),
        (Operation.CREATE_CHALLENGE, CodeWish(ChallengePurpose.LOG_IN, DESTINATION, KEY)),
        (
            Operation.VERIFY_CHALLENGE,
            CodeCheck(ChallengePurpose.LOG_IN, DESTINATION, "", "918273"),
        ),
        (Operation.VERIFY_CREDENTIALS, PasswordCheck(MEMBER, "canary-hash", "bcrypt")),
    ]


def _receipt(guid: str) -> Receipt:
    return Receipt((Reference("external_reference", guid), Reference("merchant_name", "Amazon")))


async def test_neither_member_nor_secret_nor_name_is_written_anywhere(
    open_connection_to: Open,
) -> None:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(exporter=exporter)
    telemetry.start(_TelemetrySettings())  # type: ignore[arg-type]
    talkative = f"{MEMBER} is Max Muster with canary-token"
    failure = {
        "IsSucessful": False,
        "ErrorCode": "103",
        "ExceptionMessage": talkative,
        "ReturnObject": None,
    }
    scripts = [
        saying({**failure, "IsSucessful": True, "ErrorCode": "000", "ReturnObject": talkative}),
        saying({**failure, "IsSucessful": True, "ErrorCode": "000", "ReturnObject": True}),
        saying(failure),
        saying({**failure, "ErrorCode": "canary-secret"}),
        saying({**failure, "ErrorCode": "E918273"}, status="418 Teapot"),
        saying(failure, status="401 Unauthorized"),
        saying(failure, status="500 Oops"),
    ]
    shown: list[str] = []
    try:
        for script in scripts:
            async with running(script) as server:
                adapter = open_connection_to(
                    f"http://127.0.0.1:{server.port}", client_secret="canary-secret"
                )
                for operation, asked in everything():
                    shown.append(repr(asked).replace(f"merchant_name='{MEMBER}'", ""))
                    try:
                        done = await call(adapter, operation, asked)
                        shown.append(repr(done).replace(f"value='{MEMBER}'", ""))
                    except ProviderError as error:
                        shown.append(f"{error!r} {vars(error)!r}")
                shown.append(adapter.target)
        shown += [span.to_json() for span in exporter.get_finished_spans()]
        shown.append(telemetry.metrics_text().decode())
    finally:
        await telemetry.stop()
    written = "\n".join(shown)
    assert len(exporter.get_finished_spans()) > len(scripts) * len(everything())
    assert 'loyalty_provider_call_duration_seconds_count{connection="loyalife"' in written
    for secret in SECRETS:
        assert secret not in written, secret
