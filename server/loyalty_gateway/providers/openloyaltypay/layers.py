"""The layers of an answer in their order, HTTP status, code, data; what the data says is not its
affair.

An answer is a success only where every layer says so, and a refusal only where no other layer
speaks against it.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.providers.answers import Dialect, Document, UnreadableAnswer
from loyalty_gateway.providers.connection import VendorCall, clean
from loyalty_gateway.providers.openloyaltypay import status, wire
from loyalty_gateway.providers.port import ProviderError, StatusRow
from loyalty_gateway.providers.status import describe_row, find_row, read_retry_after

Found = TypeVar("Found")

PROVIDER: Final = "openloyaltypay"

_DIALECT: Final = Dialect(
    provider=PROVIDER,
    status=status.STATUS,
    default=status.DEFAULT,
    unreadable=status.UNREADABLE,
    # A code may come with two HTTP statuses here, so it is looked up below.
    documented={},
    find_code=wire.find_code,
    describe=wire.describe,
)


def read(
    call: VendorCall,
    account_id: str,
    document: Document,
    decode: Callable[[], Found],
    *,
    is_first: bool = False,
) -> Found:
    """What `decode` makes of an answer that is a success by its HTTP status and its code.

    `is_first` tells the very first attempt of a booking from later ones and from questions.

    Raises:
        ProviderError: by the STATUS tables; UNREADABLE for a success that cannot be read.
    """
    http_status, code = document.answer.status, wire.find_code(document)
    if http_status == 200 and code in ("", status.SUCCESS):
        try:
            if not code:
                raise UnreadableAnswer(document.problem or "code is missing or no number")
            return decode()
        except UnreadableAnswer as error:
            raise refused(
                status.UNREADABLE,
                f"200 that proves nothing: {error}",
                call,
                account_id,
                document,
                f"the provider's answer proves nothing: {error}",
            ) from error
    if http_status not in status.DOCUMENTED.get(code, (http_status,)):
        row, rule = status.DEFAULT, f"{code} under HTTP {http_status}"
    elif wire.has_data(document):
        row, rule = status.UNREADABLE, f"{code} with data, which stands beside no error"
    elif is_first and code in status.FIRST_ATTEMPT:
        row, rule = status.FIRST_ATTEMPT[code], f"{code} to a first attempt"
    else:
        row, rule = find_row(status.STATUS, status.DEFAULT, call.operation, code, http_status)
    if call.is_side_call:
        # The vendor refused the question. That says nothing of the booking it was about.
        row, rule = StatusRow(row.reason), f"{rule}, to a question"
    raise refused(row, clean(rule, account_id), call, account_id, document)


def refused(
    row: StatusRow,
    rule: str,
    call: VendorCall,
    account_id: str,
    document: Document,
    message: str = "",
) -> ProviderError:
    """The error that an answer stands for, with what people may be shown of it."""
    code = wire.find_code(document)
    error = _DIALECT.refuse(
        row,
        message or describe_row(row, call.operation),
        rule,
        call,
        account_id,
        document,
        "" if code == status.SUCCESS else code,
    )
    if row.reason is Reason.PROVIDER_RATE_LIMITED and row.fate is Fate.NOT_EXECUTED:
        # Said by the code alone as well, under HTTP 200.
        error.retry_after_s = read_retry_after(document.answer.headers.get("retry-after"))
    return error


def show(document: Document, account_id: str) -> str:
    """An answer for people, in one line."""
    return _DIALECT.show(document, account_id)
