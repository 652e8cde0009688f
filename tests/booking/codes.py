"""A vendor that sends codes, and callers who ask for them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from loyalty_gateway.booking.calls import (
    ChallengeCall,
    ChallengeIssued,
    CodeCall,
)
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import (
    AccountKind,
    ChallengePurpose,
    Confirmed,
    Issued,
    Operation,
)
from loyalty_gateway.journal.journal import ChallengeState
from loyalty_gateway.providers.port import (
    CodeCheck,
    CodeWish,
    Offer,
    ProviderError,
    StatusRow,
)
from tests.booking.house import (
    CARD,
    TENANT,
    House,
    failure,
    in_s,
)
from tests.booking.vendor import FakeVendor

PHONE = "+41790000001"
EMAIL = "jane.doe@example.com"
CODE = "007421"
RIGHT = Confirmed((CARD, "10473"), AccountKind.CARD, proof="sut_proof-of-the-vendor")
Sending = Callable[[CodeWish], Awaitable[Issued]]
Checking = Callable[[CodeCheck], Awaitable[Confirmed]]


async def sends(wish: CodeWish) -> Issued:
    return Issued("vr_handle-of-the-vendor", datetime.now(UTC) + timedelta(minutes=5))


async def confirms(check: CodeCheck) -> Confirmed:
    return RIGHT


def fails(reason: Reason, fate: Fate = Fate.UNKNOWN, **row: Any) -> Any:
    async def act(_: object) -> Any:
        raise ProviderError(
            StatusRow(reason, fate, **row), "no", rule="for the test", provider_code="their_code"
        )

    return act


class CodeVendor(FakeVendor):
    """Sends and checks codes as a test says; keeps what it was asked."""

    def __init__(
        self,
        *sending: Sending,
        checking: Checking = confirms,
        needs_handle: bool = True,
        **offer: Any,
    ) -> None:
        super().__init__(
            further={
                Operation.CREATE_CHALLENGE: Offer(self._send, **offer),
                Operation.VERIFY_CHALLENGE: Offer(self._check, needs_handle=needs_handle),
            }
        )
        self.sending = list(sending) or [sends]
        self.checking = checking
        self.wishes: list[CodeWish] = []
        self.checks: list[CodeCheck] = []

    async def _send(self, wish: CodeWish) -> Issued:
        self.wishes.append(wish)
        act = self.sending.pop(0) if len(self.sending) > 1 else self.sending[0]
        return await act(wish)

    async def _check(self, check: CodeCheck) -> Confirmed:
        self.checks.append(check)
        return await self.checking(check)


def a_wish(request_id: str = "link-0001", *, within_s: float = 10, **changes: Any) -> ChallengeCall:
    call = ChallengeCall(
        tenant=TENANT,
        connection="main",
        purpose=ChallengePurpose.LINK_CARD,
        request_id=request_id,
        deadline=in_s(within_s),
        phone=PHONE,
    )
    return replace(call, **changes)


def a_code(issued: ChallengeIssued, **changes: Any) -> CodeCall:
    call = CodeCall(
        tenant=TENANT, challenge_token=issued.challenge_token, code=CODE, deadline=in_s(10)
    )
    return replace(call, **changes)


async def create(house: House, *arguments: Any, **changes: Any) -> ChallengeIssued:
    return await house.engine.create_challenge(a_wish(*arguments, **changes))


async def create_fails(house: House, *arguments: Any, **changes: Any) -> LoyaltyError:
    return await failure(create(house, *arguments, **changes))


async def state(house: House, request_id: str = "link-0001") -> ChallengeState | None:
    found = await house.journal.find_challenge(TENANT, request_id)
    return None if found is None else found.state


async def breaks(wish: CodeWish) -> Issued:
    raise RuntimeError(f"a bug that tells {wish.destination.phone}")
