"""A vendor played in memory for the engine's tests: scripted answers and a ledger of effects."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NoReturn

from loyalty_gateway.booking.connections import NO_OTHER_CHANNEL_BOOKS
from loyalty_gateway.domain.amounts import Amount, Money
from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import (
    UNDO_OPERATIONS,
    Balance,
    CardFacts,
    Found,
    Operation,
    Order,
    Receipt,
    RecoveryMode,
    Reference,
)
from loyalty_gateway.providers.port import (
    Candidate,
    Check,
    Executed,
    Finding,
    Lookup,
    Offer,
    PromiseFacts,
    ProviderError,
    Question,
    Send,
    StatusRow,
    Way,
)

RESEND_IS_SAFE = "resend_is_safe"
QUERY_ANSWERS = "query_answers"
TAG_IS_SHOWN = "tag_is_shown"
UNDO_TAKES_OUR_NUMBER = "undo_takes_our_number"


async def _nobody(_: object) -> NoReturn:
    raise AssertionError("the vendor that plays it has its own")


SAFE_RESEND = Way(RecoveryMode.SAFE_RESEND, RESEND_IS_SAFE)
QUERY = Way(RecoveryMode.STATUS_QUERY, QUERY_ANSWERS)
MATCH = Way(RecoveryMode.STATEMENT_MATCH, any_of=(TAG_IS_SHOWN, NO_OTHER_CHANNEL_BOOKS))
REVERSE = Way(RecoveryMode.REVERSE, UNDO_TAKES_OUR_NUMBER)

RESENT = Offer(_nobody, ways=(SAFE_RESEND,))
ASKED = Offer(_nobody, ways=(QUERY,), ask=_nobody)
MATCHED = Offer(_nobody, ways=(MATCH,), ask=_nobody, tag_promise=TAG_IS_SHOWN)
TAKES_PARTS = Offer(_nobody, ways=(SAFE_RESEND,), partial_amounts=True)
"""Offers to be played, each with one way to the truth; a test adds what it needs."""


Prepared = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Effect:
    """One booking that really happened at the vendor."""

    outbound_id: str
    account_id: str
    asked: Amount | None


class FakeVendor:
    """Fills the adapter's port. Each attempt takes the script's next act, then `otherwise`.

    A question takes the next of `answers`, then the truth; a preparation the next of `prepares`.
    An undo is an attempt like any other: it undoes the effect of its original, once.
    """

    provider = "fakevendor"
    points_unit = ""
    settle_s = 0.0
    promises: Mapping[str, PromiseFacts] = {
        RESEND_IS_SAFE: PromiseFacts("a booking that is sent twice is booked once"),
        QUERY_ANSWERS: PromiseFacts("a booking is found by our number"),
        TAG_IS_SHOWN: PromiseFacts("the statement shows our tag"),
        UNDO_TAKES_OUR_NUMBER: PromiseFacts("a booking is undone by our number"),
        NO_OTHER_CHANNEL_BOOKS: PromiseFacts("nobody else books", is_provable=False),
    }
    unsupported_notes: Mapping[Operation, str] = {}

    def __init__(
        self,
        *acts: "Act",
        otherwise: "Act | None" = None,
        currency: str = "CHF",
        key_lifetime_s: float = 86_400.0,
        target: str = "https://vendor.test|credential-1",
        is_idempotent: bool = True,
        offers: Mapping[Operation, Offer] | None = None,
        further: Mapping[Operation, Offer] | None = None,
        applied: Amount | None = None,
        card: CardFacts | None = None,
        answers: Sequence["Reply"] = (),
        prepares: Sequence["Prepared | ProviderError"] = (),
    ) -> None:
        self.display_name = "A vendor played in memory"
        self.currency = currency
        self.key_lifetime_s = key_lifetime_s
        self.target = target
        self.script = deque(acts)
        self.otherwise: Act = otherwise or books
        self.is_idempotent = is_idempotent
        self.applied = applied
        self.card = card
        self.answers = deque(answers)
        self.prepares = deque(prepares)
        self.prepared: list[Order] = []
        self.questions: list[Question] = []
        self.undone: dict[str, str] = {}
        self.undos: list[Send] = []
        self.undoes_again = False
        self.sends: list[Send] = []
        self.effects: list[Effect] = []
        self.running = 0
        self.running_max = 0
        self._receipts: dict[str, Receipt] = {}
        sends_again = Offer(self._book, ways=(Way(RecoveryMode.SAFE_RESEND, RESEND_IS_SAFE),))
        self.operations: Mapping[Operation, Offer] = {
            Operation.GET_CARD: Offer(self._read),
            Operation.TOP_UP_BALANCE: sends_again,
            Operation.DEBIT_BALANCE: sends_again,
            **{
                operation: replace(
                    offer,
                    call=self._book,
                    ask=offer.ask and self._ask,
                    prepare=offer.prepare and self._prepare,
                )
                for operation, offer in (offers or {}).items()
            },
            # Reads and challenges, with the calls that a test brings.
            **(further or {}),
        }

    def execute(self, send: Send) -> Receipt:
        """The effect; an idempotent vendor makes it once for one outbound id."""
        known = self._receipts.get(send.outbound_id)
        if known is not None and self.is_idempotent:
            return replace(known, is_replay=True)
        order = send.order
        if order.operation in UNDO_OPERATIONS:
            return self._undo(send)
        self.effects.append(Effect(send.outbound_id, order.account_id, order.asked))
        receipt = Receipt(
            references=(Reference("receipt", f"R-{send.outbound_id[:13]}-{len(self.effects)}"),),
            echoed=self.applied,
            balances_after=(Balance(Money(self.currency, 4250)),),
            card=self.card,
        )
        self._receipts[send.outbound_id] = receipt
        return receipt

    @property
    def standing(self) -> list[Effect]:
        """The effects that were not undone."""
        return [it for it in self.effects if it.outbound_id not in self.undone]

    def _undo(self, send: Send) -> Receipt:
        original = send.order.original
        assert original is not None, "an undo comes with its original"
        if original.outbound_id in self.undone and not self.undoes_again:
            raise refusal(Reason.ALREADY_REVERSED, shows_earlier=True)
        if all(it.outbound_id != original.outbound_id for it in self.effects):
            raise refusal(Reason.ORIGINAL_NOT_FOUND)
        self.undone[original.outbound_id] = send.outbound_id
        self.undos.append(send)
        receipt = Receipt(references=(Reference("undo", f"U-{send.outbound_id[:13]}"),))
        self._receipts[send.outbound_id] = receipt
        return receipt

    async def _ask(self, question: Question) -> Finding:
        self.questions.append(question)
        reply = self.answers.popleft() if self.answers else tells_the_truth
        return await reply(self, question)

    async def _prepare(self, order: Order) -> Prepared:
        self.prepared.append(order)
        told = self.prepares.popleft() if self.prepares else (("pass", "P-1"),)
        if isinstance(told, ProviderError):
            raise told
        return told

    async def _book(self, send: Send) -> Executed:
        self.sends.append(send)
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            act = self.script.popleft() if self.script else self.otherwise
            return await act(self, send)
        finally:
            self.running -= 1

    async def _read(self, lookup: Lookup) -> Found:
        return CardFacts(lookup.account_id)

    async def prove(self, promise: str) -> str:
        return f"{promise} was seen to hold"

    async def check(self) -> Check:
        return Check(is_reachable=True, are_credentials_accepted=True, latency_s=0.0)

    async def close(self) -> None:
        return None


Act = Callable[[FakeVendor, Send], Awaitable[Executed]]
Reply = Callable[[FakeVendor, Question], Awaitable[Finding]]


async def tells_the_truth(vendor: FakeVendor, question: Question) -> Finding:
    """What the vendor's books hold under our number."""
    receipt = vendor._receipts.get(question.outbound_id)
    found = () if receipt is None else (Candidate(receipt, is_certain=True),)
    return Finding(found, rule="asked by our number")


async def shows_a_statement(vendor: FakeVendor, question: Question) -> Finding:
    """Every booking of the account and amount, without our number."""
    wanted = (question.order.account_id, question.order.asked)
    return Finding(
        tuple(
            Candidate(vendor._receipts[it.outbound_id], datetime.now(UTC))
            for it in vendor.effects
            if (it.account_id, it.asked) == wanted
        ),
        rule="statement",
    )


async def finds_nothing(vendor: FakeVendor, question: Question) -> Finding:
    """Not there (yet), whatever is true."""
    return Finding(rule="not there")


async def is_working_on_it(vendor: FakeVendor, question: Question) -> Finding:
    """The vendor has it and is not done."""
    return Finding(is_pending=True, rule="pending")


async def says_it_refused(vendor: FakeVendor, question: Question) -> Finding:
    """The vendor took it and did not execute it."""
    return Finding(is_refused=True, rule="failed")


async def contradicts_the_question(vendor: FakeVendor, question: Question) -> Finding:
    """The vendor says that it was executed, and undone by nobody that we know of."""
    raise ProviderError(
        StatusRow(Reason.ALREADY_REVERSED, Fate.UNKNOWN, contradicts=True),
        "undone elsewhere",
        rule="undone elsewhere",
        http_status=200,
        provider_code="undone",
    )


async def is_silent(vendor: FakeVendor, question: Question) -> Finding:
    """No answer to the question."""
    raise _no_answer()


def finds(*candidates: Candidate) -> Reply:
    """Just these."""

    async def reply(vendor: FakeVendor, question: Question) -> Finding:
        return Finding(candidates, rule="found")

    return reply


async def books(vendor: FakeVendor, send: Send) -> Executed:
    """The effect, and an answer that tells of it."""
    return Executed(vendor.execute(send), 200, "200, complete", "POST /book", "200 booked")


async def loses_the_answer(vendor: FakeVendor, send: Send) -> Executed:
    """The effect, and no answer."""
    vendor.execute(send)
    raise _no_answer()


async def loses_the_request(vendor: FakeVendor, send: Send) -> Executed:
    """No effect, and no answer either; from outside it looks the same."""
    raise _no_answer()


async def is_not_reached(vendor: FakeVendor, send: Send) -> Executed:
    """The connection was refused: provably nothing left."""
    raise ProviderError(
        StatusRow(Reason.PROVIDER_UNREACHABLE, Fate.NOT_EXECUTED),
        "the connection was refused",
        rule="connect refused",
    )


async def contradicts(vendor: FakeVendor, send: Send) -> Executed:
    """The vendor says that our key came with another body."""
    raise ProviderError(
        StatusRow(Reason.PROVIDER_KEY_CONFLICT, Fate.UNKNOWN, contradicts=True),
        "key conflict",
        rule="key reused",
        http_status=409,
        provider_code="key_reused",
    )


async def breaks(vendor: FakeVendor, send: Send) -> Executed:
    """A bug of the adapter, after the effect."""
    vendor.execute(send)
    raise RuntimeError("secret inner text 4111111111111111")


async def cancels_itself(vendor: FakeVendor, send: Send) -> Executed:
    """A CancelledError that nobody asked for, as http libraries let slip now and then."""
    vendor.execute(send)
    raise asyncio.CancelledError


def refuses(
    reason: Reason = Reason.INSUFFICIENT_BALANCE, proves: Proves = Proves.THIS_ATTEMPT
) -> Act:
    """A documented refusal."""

    async def act(vendor: FakeVendor, send: Send) -> Executed:
        raise ProviderError(
            StatusRow(reason, Fate.NOT_EXECUTED, proves, is_refusal=True),
            "refused",
            rule="refusal",
            http_status=422,
            provider_code="insufficient_balance",
        )

    return act


def refusal(
    reason: Reason,
    *,
    shows_earlier: bool = False,
    contradicts: bool = False,
    receipt: Receipt | None = None,
) -> ProviderError:
    """A documented refusal, as the adapter raises it."""
    return ProviderError(
        StatusRow(
            reason,
            Fate.NOT_EXECUTED,
            is_refusal=True,
            contradicts=contradicts,
            shows_earlier=shows_earlier,
        ),
        "refused",
        rule=f"refusal: {reason}",
        http_status=409,
        provider_code=reason.lower(),
        receipt=receipt,
    )


async def is_a_named_duplicate(vendor: FakeVendor, send: Send) -> Executed:
    """The vendor has had this booking, under the number that was given to it."""
    receipt = Receipt((Reference("our-number", send.outbound_id),))
    raise refusal(Reason.PROVIDER_DECLINED, shows_earlier=True, receipt=receipt)


async def is_a_duplicate(vendor: FakeVendor, send: Send) -> Executed:
    """The vendor has had this booking, and does not say what it was called."""
    raise refusal(Reason.PROVIDER_DECLINED, shows_earlier=True)


def limits_the_rate(retry_after_s: float) -> Act:
    """A 429 that came before anything was booked."""

    async def act(vendor: FakeVendor, send: Send) -> Executed:
        raise ProviderError(
            StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED),
            "too often",
            rule="429",
            http_status=429,
            provider_code="rate_limited",
            retry_after_s=retry_after_s,
        )

    return act


class Gate:
    """An act that waits: `arrived` tells that the vendor has the request, `go` lets it answer."""

    def __init__(self, then: Act = books) -> None:
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()
        self._then = then

    async def __call__(self, vendor: FakeVendor, send: Send) -> Executed:
        self.arrived.set()
        await self.go.wait()
        return await self._then(vendor, send)


def _no_answer() -> ProviderError:
    return ProviderError(
        StatusRow(Reason.PROVIDER_INTERNAL), "no answer came", rule="read time-out"
    )
