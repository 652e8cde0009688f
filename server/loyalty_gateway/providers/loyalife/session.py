"""One exchange with Loyalife: token, envelope, and what an answer proves; no verb lives here."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.answers import Dialect, Document, UnreadableAnswer
from loyalty_gateway.providers.connection import Connection, VendorCall, clean
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.loyalife import status
from loyalty_gateway.providers.loyalife.wire import envelope
from loyalty_gateway.providers.loyalife.wire.bookings import encode
from loyalty_gateway.providers.loyalife.wire.envelope import Envelope
from loyalty_gateway.providers.port import ProviderError, StatusRow
from loyalty_gateway.providers.status import StatusTable, describe_row
from loyalty_gateway.providers.tokens import Token, TokenCache

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)

PROVIDER: Final = "loyalife"
TOKEN_ROUTE: Final = "/lbms-ingress/oauth/api/Auth/Token"
JSON: Final = ("content-type", "application/json")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the vendor; `shown` is what people see of it, without ids in plain."""

    operation: Operation
    route: str
    shown: str
    account_id: str = field(default="", repr=False)
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    is_side_call: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Answered(Generic[Value_co]):
    """What a success held, with what ExplainBooking shows of the exchange."""

    value: Value_co
    http_status: int
    request_text: str
    answer_text: str


class Session:
    """Our login at one deployment. It asks once; only a refused token is renewed, and once."""

    def __init__(
        self, connection: Connection, table: StatusTable, client_id: str, client_secret: str
    ) -> None:
        self.connection = connection
        self._login = encode(
            {
                "grant_type": "client_credentials",
                "client_id": client_id,
                "client_secret": client_secret,
            }
        )
        self._table = table
        # The HTTP status does not decide at this vendor, so reading is our own; showing is not.
        self._dialect = Dialect(
            provider=PROVIDER,
            status=table,
            default=status.DEFAULT,
            unreadable=status.UNREADABLE,
            documented={},
            find_code=envelope.find_code,
            describe=envelope.describe,
        )
        self._tokens = TokenCache(self._fetch_token)

    async def token(self) -> str:
        """The token that the next exchange would use."""
        return await self._tokens.get()

    async def exchange(self, asked: Asked, decode: Callable[[Envelope], Value]) -> Answered[Value]:
        """One request, answered.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an answer that proves nothing.
        """
        faults = [asked.fault]

        async def send(token: str) -> Answered[Value]:
            # A fault is wished for the first sending; a second one, with a new token, has none.
            return await self._send(asked, token, faults.pop() if faults else "", decode)

        return await self._tokens.send(send)

    async def exchange_once(
        self, asked: Asked, token: str, decode: Callable[[Envelope], Value]
    ) -> Answered[Value]:
        """One request with this very token: a refusal of it is not met with another try."""
        return await self._send(asked, token, asked.fault, decode)

    def refuse(self, row: StatusRow, shown: str, message: str, rule: str) -> ProviderError:
        """An error of our own about what was asked or found, with no answer to show."""
        return ProviderError(row, message, rule=f"{PROVIDER}: {rule}", request_text=shown)

    async def _send(
        self, asked: Asked, token: str, fault: str, decode: Callable[[Envelope], Value]
    ) -> Answered[Value]:
        call = VendorCall(
            operation=asked.operation,
            method="POST" if asked.body else "GET",
            route=asked.route,
            request_text=asked.shown,
            query=asked.query,
            headers=(("authorization", f"Bearer {token}"), *((JSON,) if asked.body else ())),
            body=asked.body,
            is_side_call=asked.is_side_call,
            fault=fault,
        )

        def read(answer: HttpAnswer) -> Answered[Value]:
            document = envelope.read_document(answer)
            value = self._read(call, asked.account_id, document, decode)
            shown = self._dialect.show(document, asked.account_id)
            return Answered(value, answer.status, call.request_text, shown)

        return await self.connection.exchange(call, read)

    def _read(
        self,
        call: VendorCall,
        account_id: str,
        document: Document,
        decode: Callable[[Envelope], Value],
    ) -> Value:
        """What a success holds: HTTP 200, IsSucessful true, a code that fits, and a whole answer.

        Raises:
            ProviderError: for anything else.
        """
        http_status = document.answer.status
        codes = status.SUCCESS_CODES.get(call.operation, frozenset({status.SUCCESS_CODE}))
        try:
            read = envelope.read_envelope(document)
            if read.is_successful is not (read.code in codes):
                raise UnreadableAnswer(
                    f"IsSucessful and the code {read.code} contradict each other"
                )
            if http_status == 200 and read.is_successful:
                return decode(read)
            code = "" if read.is_successful else read.code
        except UnreadableAnswer as error:
            if http_status == 200:
                problem = f"200 that proves nothing: {error}"
                message = f"the provider's answer proves nothing: {error}"
                raise self._dialect.refuse(
                    status.UNREADABLE, message, problem, call, account_id, document
                ) from error
            code = ""
        row, rule = status.find_row(self._table, call.operation, code, http_status)
        message = describe_row(row, call.operation)
        raise self._dialect.refuse(
            row, message, clean(rule, account_id), call, account_id, document, code
        )

    async def _fetch_token(self) -> Token:
        call = VendorCall(
            operation=Operation.GET_BALANCE,
            method="POST",
            route=TOKEN_ROUTE,
            request_text=f"POST {TOKEN_ROUTE}",
            headers=(JSON,),
            body=self._login,
            is_side_call=True,
        )

        def read(answer: HttpAnswer) -> Token:
            document = envelope.read_document(answer)
            if answer.status == 200:
                try:
                    return envelope.read_token(document, datetime.now(UTC))
                except UnreadableAnswer as error:
                    raise self._dialect.refuse(
                        StatusRow(Reason.PROVIDER_ANSWER_UNREADABLE, Fate.NOT_EXECUTED),
                        f"the provider's answer holds no token: {error}",
                        f"200 without a token: {error}",
                        call,
                        "",
                        document,
                    ) from error
            code = envelope.find_code(document)
            row, rule = status.find_row(self._table, call.operation, code, answer.status)
            message = describe_row(row, call.operation)
            raise self._dialect.refuse(row, message, rule, call, "", document, code)

        return await self.connection.exchange(call, read)


def not_sent(reason: Reason) -> StatusRow:
    """A request that was refused here, before anything left: for this booking it is final."""
    return StatusRow(reason, Fate.NOT_EXECUTED, is_refusal=True)


def as_question(error: ProviderError) -> ProviderError:
    """An error of a question about a booking: it proves nothing of the booking itself."""
    row = replace(error.status, fate=Fate.UNKNOWN, is_refusal=False, shows_earlier=False)
    return _with_row(error, row)


def as_preparation(error: ProviderError) -> ProviderError:
    """An error before a booking: whatever it was, nothing of the booking has been sent."""
    return _with_row(error, replace(error.status, fate=Fate.NOT_EXECUTED))


def _with_row(error: ProviderError, row: StatusRow) -> ProviderError:
    return ProviderError(
        row,
        error.message,
        rule=error.rule,
        http_status=error.http_status,
        provider_code=error.provider_code,
        retry_after_s=error.retry_after_s,
        request_text=error.request_text,
        answer_text=error.answer_text,
    )
