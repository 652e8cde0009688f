"""Points at Loyalife: earned, redeemed, given back, and found again when an answer was lost."""

from datetime import UTC, datetime, timedelta
from typing import Final

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Points
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    Balance,
    CardFacts,
    Operation,
    Order,
    Receipt,
    Reference,
)
from loyalty_gateway.providers.connection import clean
from loyalty_gateway.providers.loyalife import status
from loyalty_gateway.providers.loyalife.session import (
    PROVIDER,
    Answered,
    Asked,
    Session,
    as_question,
    not_sent,
)
from loyalty_gateway.providers.loyalife.settings import Settings
from loyalty_gateway.providers.loyalife.wire import bookings, history
from loyalty_gateway.providers.loyalife.wire.history import Line, LinePage
from loyalty_gateway.providers.port import (
    Candidate,
    Executed,
    Finding,
    Lookup,
    ProviderError,
    Question,
    Send,
)

PAGES_MAX: Final = 20
WINDOW: Final = timedelta(days=2)
"""How far around a lost booking its line is looked for: more than any time zone, clock and cut to
whole days can be wrong by, since a line that is overlooked is a booking that happens twice."""

TRANSACTION_DAY: Final = "transaction_day"
"""What an earning is prepared with: every attempt has to name the same day."""

MERCHANT: Final = "merchant"
KIND: Final = "kind"
"""What a redemption is prepared with: the statement is searched for what was sent, whatever the
settings say by then."""

DONE_RULE: Final = f"{PROVIDER}: 200, IsSucessful, and the answer is whole"


class PointBookings:
    """The verbs that move points, and the question that follows a lost answer."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._programme = settings.programme
        self._clock = settings.clock

    # --- verbs --------------------------------------------------------------------------------

    async def redeem(self, send: Send) -> Executed:
        """Redeems points, once: the vendor knows no key, so a second request is a second booking.

        Raises:
            ProviderError: by the tables, or with NOT_EXECUTED for what cannot be asked here.
        """
        order = send.order
        kind = self._kind(order)
        merchant = self._merchant(order, send.outbound_id)
        asked = Asked(
            order.operation,
            bookings.REDEEM,
            shown=(
                f"POST {bookings.REDEEM}: {order.asked} worth {order.money_value} on "
                f"{mask_account_id(order.account_id)}, kind {kind}, merchant "
                f"{clean(merchant, order.account_id)}"
            ),
            account_id=order.account_id,
            body=bookings.encode_redemption(self._programme, order, merchant, kind),
            fault=send.fault,
        )
        answered = await self._session.exchange(asked, bookings.decode_external_reference)
        number = Reference(bookings.EXTERNAL_REFERENCE, answered.value)
        return _executed(answered, Receipt((number, _named(merchant))))

    async def earn(self, send: Send) -> Executed:
        """Hands a purchase in; what it earns is the vendor's rules' affair and not answered.

        Raises:
            ProviderError: by the tables, or with NOT_EXECUTED for what cannot be asked here.
        """
        return await self._insert(send, send.order, bookings.EARNS)

    async def reverse(self, send: Send) -> Executed:
        """Gives a redemption's points back, or takes an earning's: whole, and once.

        Raises:
            ProviderError: by the tables; NOT_EXECUTED where the original cannot be named.
        """
        order, original = send.order, send.order.original
        assert original is not None, "an undo has an original"
        if original.order.operation is Operation.EARN_POINTS:
            if send.attempt_number > 1 and undoes_redemption(order):
                # It was taken for the undo of a redemption, which alone may run twice.
                raise self._session.refuse(
                    status.NOT_SENT_TWICE,
                    f"POST {bookings.INSERT}",
                    "an earning is taken back once, and it is not known whether it was",
                    "a purchase that takes back is not sent twice",
                )
            return await self._insert(send, original.order, bookings.TAKES_BACK)
        account_id = order.account_id or original.order.account_id
        guid = original.find_reference(bookings.EXTERNAL_REFERENCE)
        merchant = original.find_reference(bookings.MERCHANT_NAME)
        if not (guid and merchant):
            raise self._not_sent(
                Reason.ORIGINAL_NOT_REVERSIBLE,
                "a reversal takes the provider's own number of the redemption and its merchant, "
                "which are not known",
            )
        asked = Asked(
            order.operation,
            bookings.REVERSE,
            shown=f"POST {bookings.REVERSE}: {guid} on {mask_account_id(account_id)}, merchant "
            f"{clean(merchant, account_id)}",
            account_id=account_id,
            body=bookings.encode_reversal(self._programme, account_id, merchant, guid),
            fault=send.fault,
        )
        return await self._book(asked, Receipt((Reference(bookings.REVERSAL_OF, guid),)))

    async def prepare_redemption(self, order: Order) -> tuple[tuple[str, str], ...]:
        """The merchant and the kind that a redemption will name; asks the vendor nothing.

        Raises:
            ProviderError: with NOT_EXECUTED, for what the vendor would miss.
        """
        money, currency = order.money_value, self._settings.currency
        if money is None:
            raise self._not_sent(
                Reason.FIELD_REQUIRED_BY_PROVIDER,
                f"a redemption here needs money_value in {currency}",
            )
        if money.currency != currency:
            raise self._not_sent(
                Reason.CURRENCY_NOT_ACCEPTED, f"what a redemption is worth is told in {currency}"
            )
        wanted = order.redemption_kind or self._settings.redemption_kind
        kind = bookings.redemption_kind(wanted, self._settings.kinds)
        if kind is None:
            raise self._not_sent(
                Reason.REQUEST_INVALID if wanted else Reason.FIELD_REQUIRED_BY_PROVIDER,
                f"redemption_kind is one of {', '.join(self._settings.kinds)} here",
            )
        merchant = order.sale.merchant_name or self._settings.merchant_name
        if not merchant.strip():
            raise self._not_sent(
                Reason.FIELD_REQUIRED_BY_PROVIDER, "a redemption here names the merchant"
            )
        return ((MERCHANT, merchant), (KIND, str(kind)))

    async def prepare_day(self, order: Order) -> tuple[tuple[str, str], ...]:
        """The day that a transaction will name, whenever it is sent; asks the vendor nothing."""
        purchase = order.purchase
        moment = purchase.time if purchase is not None and purchase.time else datetime.now(UTC)
        return ((TRANSACTION_DAY, self._clock.encode_day(moment)),)

    async def get_balance(self, lookup: Lookup) -> CardFacts:
        """The points that can be redeemed now.

        Raises:
            ProviderError: by the tables.
        """
        points = await self.find_points(lookup.account_id, lookup.operation, lookup.fault)
        return CardFacts(lookup.account_id, balances=(Balance(Points(points), datetime.now(UTC)),))

    async def find_points(self, account_id: str, operation: Operation, fault: str = "") -> int:
        """The points that can be redeemed now, as a number."""
        asked = Asked(
            operation,
            bookings.AVAILABILITY,
            shown=f"POST {bookings.AVAILABILITY}",
            account_id=account_id,
            body=bookings.encode(self._programme.account(account_id)),
            is_side_call=True,
            fault=fault,
        )
        return (await self._session.exchange(asked, bookings.decode_points)).value

    # --- the lost answer ----------------------------------------------------------------------

    async def ask_redemption(self, question: Question) -> Finding:
        """Looks for a redemption in the member's books, by its tag or by all that is known of it.

        Raises:
            ProviderError: by the tables; contradicting, where a line has our tag and is not what
                we asked for.
        """
        order = question.order
        assert isinstance(order.asked, Points), "a redemption is in points"
        points = order.asked.value
        kind = self._kind(order)
        merchant = self._merchant(order, question.outbound_id)
        end = max(datetime.now(UTC), question.first_sent_time) + WINDOW
        try:
            answered = await self.find_lines(
                order.operation, order.account_id, question.first_sent_time - WINDOW, end
            )
        except ProviderError as error:
            if error.status.reason is Reason.ACCOUNT_NOT_FOUND:
                # Who is no member has no line; that it stays so is for the engine to wait for.
                return Finding(
                    http_status=error.http_status or 200,
                    rule=f"{PROVIDER}: no such member, so no line",
                    request_text=error.request_text,
                    answer_text=error.answer_text,
                )
            raise as_question(error) from error
        lines = answered.value
        found: dict[str, Candidate] = {}
        for line in lines:
            is_ours = order.carries_tag and bookings.shows_tag(line.merchant, question.outbound_id)
            if is_ours and not (line.points == points and line.is_credit is not True):
                if line.is_credit:
                    continue  # Its reversal, which repeats the name.
                raise self._session.refuse(
                    status.CONTRADICTED,
                    answered.request_text,
                    "the provider's books hold other points under this booking's tag",
                    "a line with our tag and other points",
                )
            if not (is_ours or history.may_be(line, points, merchant, kind)):
                continue
            receipt = _redeemed(line, merchant)
            found[receipt.references[0].value] = Candidate(
                receipt,
                line.time,
                is_certain=is_ours,
                is_unlike=not is_ours and history.is_unlike(line, merchant),
            )
        return Finding(
            tuple(found.values()),
            http_status=answered.http_status,
            rule=f"{PROVIDER}: {len(found)} of {len(lines)} lines may be it",
            request_text=answered.request_text,
            answer_text=answered.answer_text,
        )

    async def find_lines(
        self, operation: Operation, account_id: str, start: datetime, end: datetime
    ) -> Answered[list[Line]]:
        """Every line of a period, from as many pages as it takes, each line once.

        Raises:
            ProviderError: by the tables; TOO_LONG for more than 20 pages.
        """
        period = (self._clock.encode(start), self._clock.encode(end))
        lines: dict[Line, None] = {}
        first = 0
        for _ in range(PAGES_MAX):
            answered = await self.find_page(
                Asked(
                    operation,
                    history.SUMMARY_BY_DATE,
                    shown=f"POST {history.SUMMARY_BY_DATE}: {period[0]} to {period[1]} of "
                    f"{mask_account_id(account_id)}",
                    account_id=account_id,
                    body=history.encode_lines(
                        self._programme, account_id, period, first, history.PAGE_MAX
                    ),
                    is_side_call=True,
                )
            )
            page = answered.value
            # A line that moved to the next page meanwhile comes again, as the very same.
            lines |= dict.fromkeys(page.lines)
            first += len(page.lines)
            # Uncounted lines end with a page without any: how many a page may hold is assumed.
            if first == page.count or (page.count is None and not page.lines):
                return Answered(
                    list(lines),
                    answered.http_status,
                    answered.request_text,
                    answered.answer_text,
                )
            if page.count is not None and (first > page.count or not page.lines):
                # What is missing, or was not counted, may be the one that is looked for.
                raise self._session.refuse(
                    status.UNREADABLE,
                    answered.request_text,
                    "the provider's books show other lines than they count",
                    "a history with lines missing or not counted",
                )
        raise self._session.refuse(
            status.TOO_LONG,
            f"POST {history.SUMMARY_BY_DATE}",
            f"the account has more than {PAGES_MAX} pages of history in that time",
            f"a history is read from at most {PAGES_MAX} pages",
        )

    async def find_page(self, asked: Asked) -> Answered[LinePage]:
        """One page of lines, in the vendor's own order."""
        return await self._session.exchange(
            asked, lambda read: history.decode_lines(read, asked.account_id, self._clock)
        )

    # --- parts --------------------------------------------------------------------------------

    async def _insert(self, send: Send, purchased: Order, transaction_type: str) -> Executed:
        """Sends a transaction; `purchased` is the order that names the purchase."""
        order, purchase = send.order, purchased.purchase
        account_id = order.account_id or purchased.account_id
        if purchase is None:
            raise self._not_sent(
                Reason.FIELD_REQUIRED_BY_PROVIDER,
                "points are earned by a purchase here: the provider's rules make the number",
            )
        if purchase.amount.currency != self._settings.currency:
            raise self._not_sent(
                Reason.CURRENCY_NOT_ACCEPTED,
                f"purchases here are in {self._settings.currency}",
            )
        day = (
            order.find_prepared(TRANSACTION_DAY)
            or dict(await self.prepare_day(purchased))[TRANSACTION_DAY]
        )
        try:
            body = bookings.encode_transaction(
                account_id, purchase, day, send.outbound_id, transaction_type
            )
        except ValueError as error:
            raise self._not_sent(Reason.REQUEST_INVALID, str(error)) from error
        number = bookings.transaction_id(send.outbound_id)
        asked = Asked(
            order.operation,
            bookings.INSERT,
            shown=f"POST {bookings.INSERT}: {transaction_type} {purchase.amount} on "
            f"{mask_account_id(account_id)}, {day}, product "
            f"{clean(purchase.product_code, account_id)}, number {number}",
            account_id=account_id,
            query=self._programme.query,
            body=body,
            fault=send.fault,
        )
        return await self._book(asked, Receipt((Reference(bookings.TRANSACTION_ID, number),)))

    async def _book(self, asked: Asked, receipt: Receipt) -> Executed:
        """Sends what the vendor has no number of its own for: its receipt is known beforehand, and
        is that of an earlier attempt as well where the answer shows one."""
        try:
            answered = await self._session.exchange(asked, bookings.decode_done)
        except ProviderError as error:
            if error.status.shows_earlier:
                error.receipt = receipt
            raise
        return _executed(answered, receipt)

    def _kind(self, order: Order) -> int:
        kind = order.find_prepared(KIND)
        assert kind, "a redemption is prepared with its kind"
        return int(kind)

    def _merchant(self, order: Order, outbound_id: str) -> str:
        name = order.find_prepared(MERCHANT)
        assert name, "a redemption is prepared with its merchant"
        return bookings.merchant_name(name, outbound_id, carries_tag=order.carries_tag)

    def _not_sent(self, reason: Reason, message: str) -> ProviderError:
        return self._session.refuse(not_sent(reason), "", message, f"not sent: {reason.value}")


def undoes_redemption(order: Order) -> bool:
    """Whether an undo is of a redemption, which alone has points that were asked for.

    It goes by what the journal keeps of an undo; its original is looked up for an attempt only.
    """
    return order.asked is not None


def _executed(answered: Answered[object], receipt: Receipt) -> Executed:
    return Executed(
        receipt,
        http_status=answered.http_status,
        rule=DONE_RULE,
        request_text=answered.request_text,
        answer_text=answered.answer_text,
    )


def _redeemed(line: Line, merchant: str) -> Receipt:
    """The receipt of a redemption that a line shows, even where that leaves out its number."""
    if line.external_reference:
        number = Reference(bookings.EXTERNAL_REFERENCE, line.external_reference)
    else:
        number = Reference(bookings.STATEMENT_LINE, str(line.number))
    return Receipt((number, _named(merchant)), echoed=Points(line.points))


def _named(merchant: str) -> Reference:
    """The merchant's name to the letter, which a reversal has to repeat."""
    return Reference(bookings.MERCHANT_NAME, merchant)
