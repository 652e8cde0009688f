"""CashAssist's line: the key on every request, and every answer read by the vendor's tables."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from loyalty_gateway.providers.answers import Dialect, Document, read_document
from loyalty_gateway.providers.cashassist import status, wire
from loyalty_gateway.providers.connection import Connection, VendorCall
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.port import ProviderError, StatusRow

Found = TypeVar("Found")

DIALECT: Final = Dialect(
    provider="cashassist",
    status=status.STATUS,
    default=status.DEFAULT,
    unreadable=status.UNREADABLE,
    documented=status.DOCUMENTED,
    find_code=wire.decode_error_code,
    describe=wire.describe,
)


class Channel:
    """What all calls of one connection have in common."""

    def __init__(self, connection: Connection, api_key: str) -> None:
        self.connection = connection
        self._headers = ((wire.API_KEY_HEADER, api_key),)

    async def send(
        self, call: VendorCall, account_id: str, decode: Callable[[Document], Found]
    ) -> Found:
        """Sends one request once and returns what `decode` makes of a 200.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer.
        """
        sent = replace(call, headers=(*self._headers, *call.headers))

        def read(answer: HttpAnswer) -> Found:
            document = read_document(answer)
            return DIALECT.read(sent, account_id, document, lambda: decode(document))

        return await self.connection.exchange(sent, read)


def refusal(row: StatusRow, message: str, rule: str) -> ProviderError:
    """A refusal of the adapter's own, before anything was sent."""
    return ProviderError(row, message, rule=f"{DIALECT.provider}: {rule}")
