"""Puts a row of a vendor's STATUS table into its mouth, and looks at what a caller is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from loyalty.v1 import types_pb2
from loyalty_gateway.conformance.books import Books
from loyalty_gateway.conformance.recorder import Play, Seen
from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation
from loyalty_gateway.sandbox.faults import Answer
from tests.conformance.test_cardsapi import SUBJECT as CARDSAPI
from tests.conformance.test_cashassist import SUBJECT as CASHASSIST
from tests.conformance.test_loyalife import SUBJECT as LOYALIFE
from tests.conformance.test_openloyaltypay import SUBJECT as OPENLOYALTYPAY
from tests.e2e.caller import METHODS, Reply
from tests.vendors.asking import ask
from tests.vendors.house import House, Vendor

SUBJECTS: Final[Mapping[str, Subject]] = {
    "cashassist": CASHASSIST,
    "cardsapi": CARDSAPI,
    "loyalife": LOYALIFE,
    "openloyaltypay": OPENLOYALTYPAY,
}

BOOKING_OF: Final[Mapping[str, str]] = {
    "cashassist": "Balance.DebitBalance",
    "cardsapi": "Balance.DebitBalance",
    "loyalife": "Points.RedeemPoints",
    "openloyaltypay": "Gift.PayWithGiftCard",
}
READ_OF: Final[Mapping[str, str]] = dict.fromkeys(BOOKING_OF, "Balance.GetBalance")
"""The operations on which the rows of any operation are tried."""

ROUTES: Final[Mapping[tuple[str, str], str]] = {
    ("cashassist", "Balance.DebitBalance"): "/loyalty-cards/withdraw",
    ("cashassist", "Balance.GetBalance"): "/loyalty-cards/info",
    ("cashassist", "Cards.CreateCard"): "/loyalty-cards/create",
    ("cashassist", "Wallets.CreateWallet"): "/loyalty-cards/create",
    ("cashassist", "Wallets.CreateChallenge"): "/loyalty-cards/request-code",
    ("cashassist", "Wallets.VerifyChallenge"): "/loyalty-cards/confirm-code",
    ("cashassist", "Cards.VerifyCardOwnership"): "/loyalty-cards/verify",
    ("cardsapi", "Balance.DebitBalance"): "/cards/cashback/debit",
    ("cardsapi", "Balance.GetBalance"): "/cards",
    ("loyalife", "Points.RedeemPoints"): "/API/PG/RedeemPoints",
    ("loyalife", "Points.ReversePoints"): "/API/PG/ReversalPoints",
    ("loyalife", "Points.EarnPoints"): "/API/Transaction/InsertTransactionData",
    ("loyalife", "Balance.GetBalance"): "/API/PG/CheckAvailability",
    ("loyalife", "Cards.CreateCard"): "/api/Member/CreateProfileWithAttributes",
    ("loyalife", "Wallets.CreateWallet"): "/api/Member/CreateProfileWithAttributes",
    ("loyalife", "Wallets.LinkAccount"): "/api/Member/AddSubRelation",
    ("loyalife", "Wallets.VerifyChallenge"): "/api/Member/VerifyOTP",
    ("openloyaltypay", "Gift.PayWithGiftCard"): "/openLoyaltyPay/giftTransaction",
    ("openloyaltypay", "Gift.VoidGiftTransaction"): "/openLoyaltyPay/giftVoid",
    ("openloyaltypay", "Gift.AddGiftTip"): "/openLoyaltyPay/giftTip",
    ("openloyaltypay", "Balance.GetBalance"): "/openLoyaltyPay/giftInquiry",
}
"""Where each request goes that a row is the answer to, by the end of its path."""

QUESTIONS: Final = ("/openPay/queryOrder", "/GetMemberTransactionSummaryByDate")
"""Where a vendor is asked about a lost answer. It is out of order for as long as the row is in
its mouth, so that a doubt is told as a doubt."""

CANARY: Final = "Käsefondue-Kanarienvogel"
"""Words of a vendor that no caller, and nobody who reads the journal, may ever see."""

FIRST_CALL_S: Final = 1.0
"""What a caller waits who is to see a doubt: the machine goes on finding out for so long."""

OUTAGE: Final = Answer(503, b"out of order", content_type="text/plain")


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller is told; without an outcome it is a read or a question."""

    code: grpc.StatusCode
    reason: str
    outcome: str = ""
    is_final: bool | None = None
    retries: bool = False
    """Whether repeating the same call is useful, which RetryInfo says."""
    is_stopped: bool = False
    """Whether libraries are told not to repeat by themselves."""
    field: str = ""
    """The field that is told to be wrong."""


def is_booking(rpc: str) -> bool:
    return Operation(rpc) in BOOKING_OPERATIONS


def speak(connection: str, rpc: str, answer: Answer) -> Play:
    """Answers the rpc's own request with the row, and leaves every other one to the vendor."""
    route = ROUTES[connection, rpc]

    def play(seen: Seen) -> Answer | None:
        path = seen.route[1]
        if path.endswith(route):
            return answer
        return OUTAGE if path.endswith(QUESTIONS) else None

    return play


@dataclass(frozen=True, slots=True)
class Trial:
    """One row that was answered, and the request that met it."""

    request: Message
    reply: Reply
    before: Books
    """The vendor's books before the request; what had to happen first is in them."""

    @property
    def request_id(self) -> str:
        return str(getattr(self.request, "request_id", ""))


async def try_row(house: House, connection: str, rpc: str, answer: Answer) -> Trial:
    """Asks while the vendor has the row's words in its mouth, and takes them out again."""
    request = await ask(house, (rpc, connection))
    return await send_at(house, connection, request, speak(connection, rpc, answer))


async def send_at(house: House, connection: str, request: Message, play: Play) -> Trial:
    """Sends the request once while the vendor says what it is made to say."""
    before = house.vendors[connection].books
    service, _, method = METHODS[request.DESCRIPTOR.full_name].full_name.rpartition(".")
    rpc = f"{service.rpartition('.')[2]}.{method}"
    house.play(connection, play)
    try:
        reply = await house.call(request, timeout_s=FIRST_CALL_S if is_booking(rpc) else 15.0)
    finally:
        house.play(connection, None)
    return Trial(request, reply, before)


def check_told(reply: Reply, told: Told, provider: str, code: str, connection: str = "") -> None:
    """The whole of what a caller is told, in the status, its details and the trailers."""
    assert (reply.code, reply.reason) == (told.code, told.reason), str(reply)
    info = reply.info
    assert info.domain == "loyalty-gateway"
    assert info.metadata["provider"] == provider
    assert info.metadata["connection"] == (connection or provider)
    assert info.metadata.get("field", "") == told.field
    assert info.metadata.get("provider_code", "") == code
    assert reply.outcome == told.outcome
    final = {True: "true", False: "false", None: None}[told.is_final]
    assert info.metadata.get("final") == final
    assert (reply.retry_delay_s is not None) is told.retries
    pushback = reply.trailers.get("grpc-retry-pushback-ms")
    if told.is_stopped:
        assert pushback == "-1"
    elif told.outcome and told.retries:
        assert pushback is not None and int(pushback) > 0
    else:
        assert pushback is None
    assert details_of(reply) == details_for(told)
    check_no_words(reply)


def details_of(reply: Reply) -> set[str]:
    """The kinds of the details, without ErrorInfo, which every error has."""
    status = status_pb2.Status.FromString(reply.status_bytes)
    names = [it.TypeName().removeprefix("google.rpc.") for it in status.details]
    assert names.count("ErrorInfo") == 1 and len(set(names)) == len(names), names
    return set(names) - {"ErrorInfo"}


_RESOURCES: Final[Mapping[str, str]] = {
    "ACCOUNT_NOT_FOUND": "loyalty.v1.Account",
    "ORIGINAL_NOT_FOUND": "loyalty.v1.Booking",
    "NOT_FOUND": "loyalty.v1.Booking",
}


def details_for(told: Told) -> set[str]:
    """The kinds that design demands for a reason."""
    return {
        name
        for name, is_there in (
            ("RetryInfo", told.retries),
            ("ResourceInfo", told.reason in _RESOURCES),
            ("PreconditionFailure", told.reason == "INSUFFICIENT_BALANCE"),
            ("BadRequest", bool(told.field)),
        )
        if is_there
    }


def check_no_words(reply: Reply) -> None:
    """Nothing of what the vendor said beside its code reaches the caller."""
    words = CANARY.encode()
    assert words not in reply.status_bytes
    assert CANARY not in reply.message
    assert not any(CANARY in value for value in reply.trailers.values())


def resource_of(reply: Reply) -> error_details_pb2.ResourceInfo:
    """What was not found."""
    found = error_details_pb2.ResourceInfo()
    for packed in status_pb2.Status.FromString(reply.status_bytes).details:
        packed.Unpack(found)
    return found


async def _check_pause(house: House, vendor: Vendor, trial: Trial) -> None:
    """Until the time that was told is over, a repeat hears the same and the vendor hears nothing;
    then it is over."""
    vendor.recorder.seen.clear()
    again = await house.call(trial.request)
    first = trial.reply
    assert (again.code, again.reason, again.outcome) == (first.code, first.reason, first.outcome)
    assert again.is_replayed
    assert first.retry_delay_s is not None and again.retry_delay_s is not None
    assert 0 < again.retry_delay_s <= first.retry_delay_s
    assert vendor.recorder.seen == []
    house.move_on(again.retry_delay_s)


async def check_truth(house: House, connection: str, trial: Trial) -> None:
    """When the vendor speaks for itself again, what is told of the booking is what its books say.

    A refusal is told again to the byte; what was never sent can be repeated; a doubt ends.
    """
    vendor = house.vendors[connection]
    booking = await house.caller.get(trial.request_id)
    assert booking is not None, "the booking was never journalled"
    if booking.state == types_pb2.BOOKING_STATE_DECLINED:
        vendor.recorder.seen.clear()
        again = await house.call(trial.request)
        assert again.status_bytes == trial.reply.status_bytes
        assert again.is_replayed
        assert vendor.recorder.seen == []
    elif booking.state == types_pb2.BOOKING_STATE_RESERVED:
        if trial.reply.reason == "PROVIDER_RATE_LIMITED":
            await _check_pause(house, vendor, trial)
        again = await house.call(trial.request)
        assert again.is_ok, str(again)
    else:
        booking = await house.close(trial.request_id)
    ended = await house.caller.get(trial.request_id)
    assert ended is not None and ended.final
    has_effect = vendor.books != trial.before
    assert has_effect is (ended.outcome == types_pb2.OUTCOME_EXECUTED), ended
