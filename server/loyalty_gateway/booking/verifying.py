"""Whether a person is who they say: a code, a receipt or a password is asked about once.

They go to the vendor and nowhere else: not into the journal, a log or a span.
"""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar

from loyalty_gateway.booking.calls import CodeCall, CredentialsCall, OwnershipCall, Verified
from loyalty_gateway.booking.challenges import log_bug, open_challenge_token
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.gate import open_account, refuse_gaps, refuse_paused
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.reads import failed, read_error, seen_account
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason, Violation
from loyalty_gateway.domain.operations import Confirmed, CredentialsFacts, Operation
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import (
    CheckCode,
    CheckPassword,
    CheckReceipt,
    CodeCheck,
    PasswordCheck,
    ProviderError,
    ReceiptCheck,
)

Answer = TypeVar("Answer")

_SKEW = timedelta(seconds=60)
"""So long after a code's end the vendor may judge by itself: its clock may be behind."""

_UNCHECKED = (
    "The vendor's answer is missing, so nobody knows whether it was right, or is used up. Try it"
    " once more; if it is refused then, start again."
)
_LOST = frozenset(
    {
        Reason.PROVIDER_INTERNAL,
        Reason.PROVIDER_UNREACHABLE,
        Reason.PROVIDER_ANSWER_UNREADABLE,
        Reason.PROVIDER_PENDING,
    }
)
"""Reasons that leave open what the vendor did, unless it is proven that nothing reached it."""


class Verifying:
    """The calls by which a person shows who they are."""

    def __init__(
        self, journal: Journal, keyring: Keyring, connections: Connections, limits: Limits
    ) -> None:
        self._journal = journal
        self._keyring = keyring
        self._connections = connections
        self._limits = limits

    async def verify(self, call: CodeCall) -> Verified:
        """Asks the vendor once whether the code is right; it may count wrong ones.

        Raises:
            LoyaltyError: CODE_INVALID; CODE_EXPIRED; REQUEST_INVALID for a token of another
                tenant or of nobody; PROVIDER_PENDING where the vendor's answer was lost.
        """
        try:
            sent = open_challenge_token(self._keyring, call.tenant, call.challenge_token)
        except LookupError as error:
            raise _no_token() from error
        link = self._connections.find(sent.connection)
        if link is None:
            raise _no_token()
        check: CheckCode = self._connections.offer(link, Operation.VERIFY_CHALLENGE).call  # type: ignore[assignment]
        refuse_paused(link)
        if self._journal.now() > sent.expire_time + _SKEW:
            raise failed(Reason.CODE_EXPIRED, link)
        code = CodeCheck(sent.purpose, sent.destination, sent.handle, call.code, call.fault)
        confirmed = await self._ask(link, check(code), call.deadline)
        return self._verified(call.tenant, link, confirmed)

    async def verify_ownership(self, call: OwnershipCall) -> Verified:
        """Asks the vendor once whether the receipt belongs to the card; a no is an answer.

        Raises:
            LoyaltyError: CURRENCY_NOT_ACCEPTED; PROVIDER_PENDING where the vendor's answer was
                lost; the reasons that every call of a vendor can meet.
        """
        link = self._connections.get(call.account.connection)
        offer = self._connections.offer(link, Operation.VERIFY_CARD_OWNERSHIP)
        refuse_paused(link)
        refuse_gaps(link, offer, call.filled_fields)
        amount = call.receipt_amount
        if amount is not None and amount.currency != link.adapter.currency:
            raise LoyaltyError(
                Reason.CURRENCY_NOT_ACCEPTED,
                f"This connection books in {link.adapter.currency} only.",
                field="receipt.amount",
                connection=link.connection,
                provider=link.adapter.provider,
            )
        check: CheckReceipt = offer.call  # type: ignore[assignment]
        confirmed = await self._ask(
            link,
            check(
                ReceiptCheck(
                    open_account(self._keyring, call.tenant, call.account),
                    call.receipt_number,
                    call.receipt_date,
                    amount,
                    call.fault,
                )
            ),
            call.deadline,
        )
        if confirmed is None:
            return Verified(is_verified=False)
        return self._verified(call.tenant, link, confirmed)

    async def verify_credentials(self, call: CredentialsCall) -> CredentialsFacts:
        """Asks the vendor once whether a member's password is right; a no is an answer.

        Nothing more is told of a member whose password was wrong.

        Raises:
            LoyaltyError: PROVIDER_PENDING where the vendor's answer was lost; the reasons that
                every call of a vendor can meet.
        """
        link = self._connections.get(call.account.connection)
        offer = self._connections.offer(link, Operation.VERIFY_CREDENTIALS)
        refuse_paused(link)
        account_id = open_account(self._keyring, call.tenant, call.account)
        check: CheckPassword = offer.call  # type: ignore[assignment]
        password = PasswordCheck(account_id, call.password_hash, call.scheme, call.fault)
        facts = await self._ask(link, check(password), call.deadline)
        return facts if facts.is_verified else CredentialsFacts(is_verified=False)

    async def _ask(self, link: Link, asking: Awaitable[Answer], deadline: float) -> Answer:
        loop = asyncio.get_running_loop()
        end = min(deadline, loop.time() + self._limits.attempt_total_s)
        try:
            async with asyncio.timeout_at(end):
                answer = await asking
        except ProviderError as error:
            status = error.status
            link.saw(status.reason)
            if status.reason in _LOST and status.fate is not Fate.NOT_EXECUTED:
                raise _unchecked(link, error.provider_code) from error
            raise _refused(error, link) from error
        except TimeoutError as error:
            link.saw(Reason.PROVIDER_INTERNAL)
            raise _unchecked(link) from error
        except Exception as error:
            # Not for the dispatcher: the text of a bug may hold the code or the password.
            log_bug(error, link)
            raise LoyaltyError(
                Reason.INTERNAL,
                "The gateway failed, and nobody knows whether the vendor was asked.",
                connection=link.connection,
                provider=link.adapter.provider,
            ) from None
        link.saw(None)
        return answer

    def _verified(self, tenant: str, link: Link, confirmed: Confirmed) -> Verified:
        proof_token, expire_time = "", None
        if confirmed.proof:
            life = timedelta(seconds=self._limits.proof_life_s)
            expire_time = confirmed.expire_time or self._journal.now() + life
            proof_token = self._keyring.seal_proof(
                tenant, link.connection, confirmed.proof, expire_time
            )
        return Verified(
            is_verified=True,
            accounts=tuple(
                seen_account(self._keyring, tenant, link.connection, account_id, confirmed.kind)
                for account_id in dict.fromkeys(confirmed.account_ids)
            ),
            proof_token=proof_token,
            expire_time=expire_time,
        )


def _no_token() -> LoyaltyError:
    return LoyaltyError(
        Reason.REQUEST_INVALID,
        "challenge_token is not a token of CreateChallenge.",
        field="challenge_token",
        violations=(Violation("challenge_token", "is not a token of CreateChallenge"),),
    )


def _unchecked(link: Link, provider_code: str = "") -> LoyaltyError:
    told = failed(Reason.PROVIDER_PENDING, link, provider_code=provider_code)
    told.message = _UNCHECKED
    told.is_retry_forbidden = True
    return told


def _refused(error: ProviderError, link: Link) -> LoyaltyError:
    told = read_error(error, link)
    if told.reason is Reason.CODE_INVALID:
        told.field = "code"
        told.violations = (Violation("code", "is not the code that was sent"),)
    return told
