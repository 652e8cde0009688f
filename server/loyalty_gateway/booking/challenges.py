"""Codes that show who a person is: one is sent for a request_id, and never a second one.

What is journalled of a code is that it was asked for, and the sealed token that was answered.
"""

import asyncio
import contextlib
import json
import logging
import traceback
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta

from loyalty_gateway.booking.calls import (
    ChallengeCall,
    ChallengeIssued,
)
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.gate import open_account, refuse_gaps
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.reads import failed, read_error
from loyalty_gateway.domain.accounts import mask_account_id, mask_email
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Destination,
    Issued,
    Operation,
)
from loyalty_gateway.journal.journal import Challenge, ChallengeState, Journal
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import (
    CodeWish,
    ProviderError,
    SendCode,
    StatusRow,
)
from loyalty_gateway.telemetry import metrics

log = logging.getLogger(__name__)

TOKEN_LENGTH_MAX = 2048
"""What the contract lets a caller bring back."""
_TOKEN = "challenge"
_OTHERS_POLL_S = 0.2
_OTHERS_MARGIN_S = 5.0
_RETRY_S = 1.0
_FRAMES_SHOWN = -5

_MISSING = "The vendor was asked to send a code, and its answer is missing."
_LOST_FOR_GOOD = (
    f"{_MISSING} A code may arrive, but it cannot be checked without that answer. No second one is"
    " sent under this request_id; use a new one to have another code sent."
)
_LOST_BUT_USABLE = (
    f"{_MISSING} If a code arrives it can be used: repeat this request_id for the token to check it"
    " with. No second code is sent under this request_id."
)
_UNDER_WAY = (
    "The vendor is still being asked to send the code. Repeat this request_id, which sends no"
    " second one."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentCode:
    """What a challenge_token holds: all that is needed to check the code."""

    connection: str
    purpose: ChallengePurpose
    destination: Destination
    handle: str = field(repr=False)
    expire_time: datetime


def open_challenge_token(keyring: Keyring, tenant: str, token: str) -> SentCode:
    """Raises LookupError for a token that is not of this tenant's challenges."""
    opened = keyring.open_sealed_token(tenant, _TOKEN, token)
    purpose, phone, email, account_id, handle = json.loads(opened.plain)
    return SentCode(
        connection=opened.connection,
        purpose=ChallengePurpose(purpose),
        destination=Destination(phone, email, account_id),
        handle=handle,
        expire_time=opened.expire_time,
    )


@dataclass(slots=True)
class _Flight:
    """A code on its way, by (tenant, request_id). `waiting` counts the callers who wait."""

    fingerprint: bytes
    task: "asyncio.Task[ChallengeIssued] | None" = None
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """A caller's wish for a code, opened and checked."""

    call: ChallengeCall
    link: Link
    destination: Destination
    challenge: Challenge

    @property
    def masked(self) -> str:
        to = self.destination
        return mask_email(to.email) if to.email else mask_account_id(to.phone or to.account_id)


class Challenges:
    """Codes on their way to a person."""

    def __init__(
        self,
        journal: Journal,
        keyring: Keyring,
        connections: Connections,
        limits: Limits,
    ) -> None:
        self._journal = journal
        self._keyring = keyring
        self._connections = connections
        self._limits = limits
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._is_draining = False

    def drain(self) -> None:
        """From now on no new code is sent; known ones are still answered and checked."""
        self._is_draining = True

    async def finish(self, timeout_s: float) -> None:
        """Waits for the codes on their way; what is left then is lost, as after a crash."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=timeout_s)
        for task in left:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, LoyaltyError):
                await task

    async def create(self, call: ChallengeCall) -> ChallengeIssued:
        """Has a code sent, once for a request_id while the challenge lives.

        A repeat within that time answers the same token. Where the vendor's answer was lost, the
        caller hears PROVIDER_PENDING with the outcome UNKNOWN; a repeat then answers a token if
        the vendor checks codes without a handle of its own, and else hears the same again.

        Raises:
            LoyaltyError: REQUEST_ID_REUSED; PROVIDER_PENDING; what the vendor refused, with the
                outcome NOT_EXECUTED; the reasons that every call of a vendor can meet.
        """
        wish = self._wish(call)
        key = (call.tenant, call.request_id)
        flight = self._flights.get(key)
        if flight is None:
            refusal = self._admission(wish)
            if refusal is not None:
                return await self._answer_known(wish, refusal)
            flight = self._launch(key, wish)
        elif flight.fingerprint != wish.challenge.fingerprint:
            raise _reused(wish)
        assert flight.task is not None
        timeout_s = max(0.0, call.deadline - asyncio.get_running_loop().time())
        flight.waiting += 1
        try:
            done, _ = await asyncio.wait({flight.task}, timeout=timeout_s)
        finally:
            flight.waiting -= 1
        if not done or flight.task.cancelled():
            raise _pending(wish, _UNDER_WAY, is_repeated=True)
        return flight.task.result()

    def _wish(self, call: ChallengeCall) -> _Wish:
        link = self._connections.get(call.connection)
        offer = self._connections.offer(link, Operation.CREATE_CHALLENGE)
        self._connections.offer(link, Operation.VERIFY_CHALLENGE)
        refuse_gaps(link, offer, call.filled_fields)
        account_id = ""
        if call.account is not None:
            account_id = open_account(self._keyring, call.tenant, call.account)
        destination = Destination(call.phone, call.email, account_id)
        now = self._journal.now()
        person = json.dumps(asdict(call.person), default=str) if call.person else ""
        challenge = Challenge(
            tenant=call.tenant,
            request_id=call.request_id,
            fingerprint=self._keyring.fingerprint(
                [
                    Operation.CREATE_CHALLENGE,
                    link.connection,
                    call.purpose,
                    *(destination.phone, destination.email, destination.account_id),
                    person,
                ]
            ),
            connection=link.connection,
            create_time=now,
            expire_time=now + timedelta(seconds=self._limits.challenge_life_s),
        )
        return _Wish(call=call, link=link, destination=destination, challenge=challenge)

    def _admission(self, wish: _Wish) -> LoyaltyError | None:
        """Why no code may be sent now; a known challenge is answered all the same."""
        left_s = wish.call.deadline - asyncio.get_running_loop().time()
        if self._is_draining:
            reason = Reason.DRAINING
            message = "This server is stopping; repeat the same request_id, another will take it."
        elif wish.link.is_paused:
            reason = Reason.CONNECTION_PAUSED
            message = "An operator has paused this connection."
        elif len(self._flights) >= self._limits.in_flight_max:
            reason = Reason.OVERLOADED
            message = "Too many codes are on their way; repeat the same request_id in a moment."
        elif left_s < self._limits.deadline_min_s:
            reason = Reason.DEADLINE_TOO_SHORT
            message = f"A code needs at least {self._limits.deadline_min_s} s; nothing was sent."
        else:
            return None
        is_retried = reason in (Reason.DRAINING, Reason.OVERLOADED)
        return _refusal(wish, reason, message, retry_after_s=_RETRY_S if is_retried else None)

    async def _answer_known(self, wish: _Wish, refusal: LoyaltyError) -> ChallengeIssued:
        asked = wish.challenge
        known = await self._journal.find_challenge(asked.tenant, asked.request_id)
        if known is None or known.expire_time <= self._journal.now():
            metrics.admission_rejected(refusal.reason.value)
            raise refusal
        return self._tell(wish, known)

    def _launch(self, key: tuple[str, str], wish: _Wish) -> _Flight:
        """A task that no RPC owns: a caller who leaves breaks nothing off."""
        flight = self._flights[key] = _Flight(wish.challenge.fingerprint)
        task = flight.task = asyncio.create_task(self._fly(flight, wish))

        def landed(done: asyncio.Task[ChallengeIssued]) -> None:
            del self._flights[key]
            if not done.cancelled():
                done.exception()  # Every waiter has it already; nobody may be left to ask.

        task.add_done_callback(landed)
        return flight

    async def _fly(self, flight: _Flight, wish: _Wish) -> ChallengeIssued:
        while not (opened := await self._journal.open_challenge(wish.challenge)).is_new:
            known = await self._await_others(wish, opened.challenge)
            is_over = known.expire_time <= self._journal.now()
            if known.state is not ChallengeState.FAILED or not is_over:
                return self._tell(wish, known)
            # Whoever had it has sent nothing, and whoever repeats it may: this is a repeat.
            wish = self._wish(wish.call)
        if not flight.waiting:
            # The journal was slow and the caller has gone: nobody waits for a code.
            await self._settle(self._unsent(wish, StatusRow(Reason.DEADLINE_TOO_SHORT)))
            raise _refusal(wish, Reason.DEADLINE_TOO_SHORT, "The time was over before it was sent.")
        link = wish.link
        lost: BaseException
        try:
            issued = await self._send(wish)
        except ProviderError as error:
            link.saw(error.status.reason)
            if error.status.fate is Fate.NOT_EXECUTED:
                await self._settle(self._unsent(wish, error.status))
                raise _not_sent(wish, error) from error
            lost = error
        except TimeoutError as error:
            link.saw(Reason.PROVIDER_INTERNAL)
            lost = error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            lost = error
        except Exception as error:  # after the intent was journalled: the code may be on its way
            log_bug(error, link)
            lost = error
        else:
            link.saw(None)
            return await self._issued(wish, issued)
        settled = self._lost(wish)
        await self._settle(settled)
        code = lost.provider_code if isinstance(lost, ProviderError) else ""
        raise _lost(wish, settled, provider_code=code) from lost

    async def _send(self, wish: _Wish) -> Issued:
        call = wish.call
        send: SendCode = wish.link.adapter.operations[Operation.CREATE_CHALLENGE].call  # type: ignore[assignment]
        async with asyncio.timeout(self._limits.attempt_total_s):
            return await send(
                CodeWish(
                    purpose=call.purpose,
                    destination=wish.destination,
                    # Of its own kind: a booking may have the same request_id.
                    outbound_id=self._keyring.outbound_id(
                        call.tenant, f"challenge/{call.request_id}"
                    ),
                    person=call.person,
                    fault=call.fault,
                )
            )

    async def _issued(self, wish: _Wish, issued: Issued) -> ChallengeIssued:
        expire_time = issued.expire_time or wish.challenge.expire_time
        answer = self._answer(wish, issued.handle, expire_time)
        if len(answer.challenge_token) > TOKEN_LENGTH_MAX:
            # A token that nobody can bring back: the same as no answer.
            settled = self._lost(wish)
            await self._settle(settled)
            raise _lost(wish, settled)
        settled = replace(
            wish.challenge,
            state=ChallengeState.ISSUED,
            answer_sealed=self._seal(wish, answer),
            expire_time=expire_time,
        )
        await self._settle(settled)
        return answer

    def _unsent(self, wish: _Wish, status: StatusRow) -> Challenge:
        """Refused for what it asks: a repeat hears it again. Else it may be tried again now."""
        expire_time = wish.challenge.expire_time if status.is_refusal else self._journal.now()
        return replace(
            wish.challenge,
            state=ChallengeState.FAILED,
            reason=status.reason,
            expire_time=expire_time,
        )

    def _lost(self, wish: _Wish) -> Challenge:
        """With the answer for repeats where a code can be checked without the vendor's handle."""
        challenge = replace(wish.challenge, state=ChallengeState.LOST)
        if wish.link.adapter.operations[Operation.VERIFY_CHALLENGE].needs_handle:
            return challenge
        answer = self._answer(wish, "", challenge.expire_time)
        return replace(challenge, answer_sealed=self._seal(wish, answer))

    async def _settle(self, challenge: Challenge) -> None:
        """Writes the end down. Without it a repeat hears that the answer was lost."""
        try:
            await self._journal.settle_challenge(challenge)
        except LoyaltyError as error:
            log.error("The end of a challenge was not written down: %s", error.message)

    async def _await_others(self, wish: _Wish, known: Challenge) -> Challenge:
        """Waits for another process that sends the code; one that is gone has lost its answer."""
        gone_at = known.create_time + timedelta(
            seconds=self._limits.attempt_total_s + _OTHERS_MARGIN_S
        )
        while known.state is ChallengeState.OPEN:
            self._refuse_another(wish, known)
            if self._journal.now() >= gone_at:
                lost = self._lost(
                    replace(
                        wish,
                        challenge=replace(
                            wish.challenge,
                            create_time=known.create_time,
                            expire_time=known.expire_time,
                        ),
                    )
                )
                await self._journal.settle_challenge(lost)
            else:
                await asyncio.sleep(_OTHERS_POLL_S)
            found = await self._journal.find_challenge(known.tenant, known.request_id)
            if found is None:
                raise _pending(wish, _UNDER_WAY, is_repeated=True)
            known = found
        return known

    def _refuse_another(self, wish: _Wish, known: Challenge) -> None:
        if known.fingerprint != wish.challenge.fingerprint:
            raise _reused(wish)

    def _tell(self, wish: _Wish, known: Challenge) -> ChallengeIssued:
        """What a repeat hears of a challenge that the journal knows."""
        self._refuse_another(wish, known)
        if known.state is ChallengeState.FAILED:
            raise _told(wish, known.reason or Reason.INTERNAL)
        if known.state is ChallengeState.OPEN:
            raise _pending(wish, _UNDER_WAY, is_repeated=True)
        if known.answer_sealed is None:
            raise _lost(wish, known)
        try:
            plain = self._keyring.unseal(known.answer_sealed, _context(known))
        except LookupError as error:
            raise _refusal(
                wish,
                Reason.CODE_EXPIRED,
                "The key that this challenge was sealed with is gone; use a new request_id.",
            ) from error
        token, expires_us, masked = json.loads(plain)
        expire_time = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=expires_us)
        return ChallengeIssued(token, expire_time, masked)

    def _answer(self, wish: _Wish, handle: str, expire_time: datetime) -> ChallengeIssued:
        to = wish.destination
        plain = json.dumps([wish.call.purpose, to.phone, to.email, to.account_id, handle])
        token = self._keyring.seal_token(
            wish.call.tenant, wish.link.connection, _TOKEN, plain, expire_time
        )
        return ChallengeIssued(token, expire_time, wish.masked)

    def _seal(self, wish: _Wish, answer: ChallengeIssued) -> bytes:
        assert answer.expire_time is not None, "a challenge of ours always ends"
        since = answer.expire_time - datetime.fromtimestamp(0, UTC)
        plain = [
            answer.challenge_token,
            since // timedelta(microseconds=1),
            answer.masked_destination,
        ]
        return self._keyring.seal(json.dumps(plain), _context(wish.challenge))


def log_bug(error: Exception, link: Link) -> None:
    """Where it broke, and never the text: it may hold a phone number, a code or a password."""
    place = "".join(traceback.format_tb(error.__traceback__, _FRAMES_SHOWN))
    log.error(
        "A challenge of %s broke with %s\n%s", link.connection, type(error).__qualname__, place
    )


# --- what callers are told --------------------------------------------------------------------


def _context(challenge: Challenge) -> str:
    return f"{challenge.tenant}/challenge/{challenge.request_id}"


def _refusal(
    wish: _Wish, reason: Reason, message: str, *, retry_after_s: float | None = None
) -> LoyaltyError:
    """No code was sent for this request_id, and the journal was asked."""
    return LoyaltyError(
        reason,
        message,
        fate=Fate.NOT_EXECUTED,
        request_id=wish.call.request_id,
        connection=wish.link.connection,
        provider=wish.link.adapter.provider,
        retry_after_s=retry_after_s,
    )


def _reused(wish: _Wish) -> LoyaltyError:
    return LoyaltyError(
        Reason.REQUEST_ID_REUSED,
        "This request_id was used for another challenge; no code was sent for this one. Use a new"
        " request_id.",
        request_id=wish.call.request_id,
        connection=wish.link.connection,
        provider=wish.link.adapter.provider,
        field="request_id",
    )


def _pending(
    wish: _Wish, message: str, *, is_repeated: bool, provider_code: str = ""
) -> LoyaltyError:
    return LoyaltyError(
        Reason.PROVIDER_PENDING,
        message,
        fate=Fate.UNKNOWN,
        request_id=wish.call.request_id,
        connection=wish.link.connection,
        provider=wish.link.adapter.provider,
        provider_code=provider_code,
        retry_after_s=_RETRY_S if is_repeated else None,
        is_retry_forbidden=not is_repeated,
    )


def _lost(wish: _Wish, challenge: Challenge, *, provider_code: str = "") -> LoyaltyError:
    is_usable = challenge.answer_sealed is not None
    message = _LOST_BUT_USABLE if is_usable else _LOST_FOR_GOOD
    return _pending(wish, message, is_repeated=is_usable, provider_code=provider_code)


def _not_sent(wish: _Wish, error: ProviderError) -> LoyaltyError:
    told = read_error(error, wish.link)
    told.fate = Fate.NOT_EXECUTED
    told.is_final = error.status.is_refusal
    told.request_id = wish.call.request_id
    return told


def _told(wish: _Wish, reason: Reason) -> LoyaltyError:
    told = failed(reason, wish.link)
    told.fate, told.is_final = Fate.NOT_EXECUTED, True
    told.request_id = wish.call.request_id
    return told
