"""CashAssist's line: the key on every request, and every answer read by the vendor's tables."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from loyalty_gateway.domain.errors import Proves
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
        self,
        call: VendorCall,
        account_id: str,
        decode: Callable[[Document], Found],
        *,
        is_second: bool = False,
    ) -> Found:
        """Sends one request once and returns what `decode` makes of a 200.

        `is_second` tells the second attempt of a booking, which only one came before.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer.
        """
        sent = replace(call, headers=(*self._headers, *call.headers))

        def read(answer: HttpAnswer) -> Found:
            document = read_document(answer)
            try:
                return DIALECT.read(sent, account_id, document, lambda: decode(document))
            except ProviderError as error:
                if is_second and error.status.may_be_own and wire.is_replay(document):
                    # The answer to the first attempt: nothing of ours came before that one. Later
                    # on it could be the answer to the second, which the first one's effect caused.
                    error.status = replace(
                        error.status, may_be_own=False, proves=Proves.WHOLE_BOOKING
                    )
                    error.rule += ", marked as the answer to the first attempt"
                raise

        return await self.connection.exchange(sent, read)


def refusal(row: StatusRow, message: str, rule: str) -> ProviderError:
    """A refusal of the adapter's own, before anything was sent."""
    return ProviderError(row, message, rule=f"{DIALECT.provider}: {rule}")
