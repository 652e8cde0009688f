"""What an adapter does about its credential, the vendor's limits, and what must never be told."""

import asyncio
import logging
import re
from dataclasses import fields, is_dataclass
from typing import Final

from loyalty_gateway.conformance.duties.duty import Duty, to_any
from loyalty_gateway.conformance.recorder import Seen
from loyalty_gateway.conformance.samples import PERSON
from loyalty_gateway.conformance.stage import Ask, Stage
from loyalty_gateway.conformance.subject import Content, Subject
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation
from loyalty_gateway.providers import tokens
from loyalty_gateway.providers.port import (
    Adapter,
    CodeCheck,
    Executed,
    PasswordCheck,
    ProviderError,
)
from loyalty_gateway.sandbox.faults import Answer

RATE_LIMITS: Final = ("429", "429-bare", "429-date", "429-far", "429-negative", "429-text")
RETRY_AFTER_S: Final = (1.0, 300.0)
TOGETHER: Final = 8
SPOILED: Final = ("garbage-after", "500-after", "lost-after", "truncated-after")


async def a_refused_credential_is_our_trouble(stage: Stage, operation: Operation) -> None:
    ask = await stage.ask(operation)
    ask.adapter = stage.open_adapter(stage.subject.refused_settings)
    error = await ask.fails()
    assert error.status.reason is Reason.PROVIDER_CREDENTIALS_REJECTED, f"rule {error.rule!r}"
    _nothing_was_booked(ask, error)


async def a_check_tells_the_truth(stage: Stage) -> None:
    """Not a duty of one operation, but of the adapter's own check."""
    before = stage.books()
    good = await stage.adapter.check()
    assert good.is_reachable and good.are_credentials_accepted, f"a good credential: {good.error}"
    bad = await stage.open_adapter(stage.subject.refused_settings).check()
    assert bad.is_reachable, "a vendor that refuses the credential is there all the same"
    is_shown = not stage.subject.refused_settings or not bad.are_credentials_accepted
    assert is_shown, "a credential that the vendor refuses passes the check"
    await stage.recorder.stop()
    try:
        gone = await stage.adapter.check()
    finally:
        await stage.recorder.start()
    assert not gone.is_reachable and not gone.are_credentials_accepted, "nobody was there"
    assert stage.books() == before, "a check has changed the vendor's books"


async def a_token_that_ended_is_renewed_once(stage: Stage, operation: Operation) -> None:
    await stage.adapter.check()
    assert _tokens_fetched(stage) == 1, f"no token is fetched at {stage.subject.token_path}"
    ask = await stage.ask(operation)
    asks = [ask, *(ask.again() for _ in range(TOGETHER - 1))]
    route = stage.route(operation)
    refused = 0

    def play(seen: Seen) -> Answer | None:
        nonlocal refused
        if seen.route != route or _tokens_fetched(stage):
            return None
        refused += 1
        return stage.player.unauthorized()

    stage.recorder.play = play
    waited_s, tokens.REJECTED_AGAIN_S = tokens.REJECTED_AGAIN_S, 0.0  # type: ignore[misc]
    try:
        results = await asyncio.gather(*(it.send() for it in asks), return_exceptions=True)
    finally:
        tokens.REJECTED_AGAIN_S = waited_s  # type: ignore[misc]
    assert refused, "the token that ended was used again"
    fetched = _tokens_fetched(stage)
    assert fetched == 1, f"{TOGETHER} calls with a token that ended fetched {fetched} new ones"
    for result in results:
        # A second undo of one booking, say, may be refused; but not for its token.
        assert not isinstance(result, BaseException) or isinstance(result, ProviderError), result
        if isinstance(result, ProviderError):
            assert result.status.reason is not Reason.PROVIDER_CREDENTIALS_REJECTED, result.rule
    assert any(not isinstance(it, BaseException) for it in results), "none of them went well"


async def a_token_that_is_always_refused_is_not_fetched_again(
    stage: Stage, operation: Operation
) -> None:
    ask = await stage.ask(operation)
    route = stage.route(operation)
    stage.recorder.play = lambda seen: stage.player.unauthorized() if seen.route == route else None
    error = await ask.fails()
    assert error.status.reason is Reason.PROVIDER_CREDENTIALS_REJECTED, f"rule {error.rule!r}"
    assert len(ask.requests) <= 2, f"a refused credential was sent {len(ask.requests)} times"
    _nothing_was_booked(ask, error)


async def a_rate_limit_says_when_to_come_back(stage: Stage, operation: Operation) -> None:
    least_s, most_s = RETRY_AFTER_S
    for fault in RATE_LIMITS:
        await stage.fresh()
        ask = await stage.ask(operation)
        error = await ask.fails(fault)
        assert error.status.reason is Reason.PROVIDER_RATE_LIMITED, f"{fault}: {error.rule!r}"
        wait_s = error.retry_after_s
        assert wait_s is not None and least_s <= wait_s <= most_s, f"{fault}: wait {wait_s} s"
        _nothing_was_booked(ask, error)


async def nothing_secret_is_told(stage: Stage, operation: Operation) -> None:
    told: list[str] = []
    with _Overheard() as overheard:
        ask = await stage.ask(operation)
        told += _texts(await ask.send())
        for fault in SPOILED:
            await stage.fresh()
            ask = await stage.ask(operation)
            told += _texts(await ask.fails(fault))
        await stage.fresh()
        ask = await stage.ask(operation)
        route = stage.route(operation)
        # A vendor that repeats the whole request, its credential included, in its own words.
        stage.recorder.play = lambda seen: (
            _repeated(stage.subject, seen) if seen.route == route else None
        )
        told += _texts(await ask.fails())
        told += overheard.lines
    for kind, secret in _secrets(stage, ask):
        # A short number may be a part of a longer one that is harmless.
        alone = re.compile(rf"(?<!\d){re.escape(secret)}(?!\d)")
        leaks = [alone.sub("(here)", text) for text in told if alone.search(text)]
        assert not leaks, f"{kind} stands in: {leaks[0]}"


def _nothing_was_booked(ask: Ask, error: ProviderError) -> None:
    assert not error.status.is_refusal, "the account was not even looked at: it is no refusal"
    if ask.operation in BOOKING_OPERATIONS:
        assert error.status.fate is Fate.NOT_EXECUTED, f"fate {error.status.fate}"
        assert ask.effects == 0, "it was booked all the same"


def _tokens_fetched(stage: Stage) -> int:
    paths = [seen.target.partition("?")[0] for seen in stage.recorder.seen]
    return paths.count(stage.subject.token_path)


def _repeated(subject: Subject, seen: Seen) -> Answer | None:
    code = next(code for _, code in subject.status if isinstance(code, str))
    return subject.refusal(code, " ".join(seen.text.split()))


def _secrets(stage: Stage, ask: Ask) -> list[tuple[str, str]]:
    subject, content = stage.subject, ask.content
    found = [("a credential", secret) for secret in subject.secrets]
    found += [("an account id", account) for account in _account_ids(subject, content)]
    found += [
        ("a person's phone", PERSON.phone),
        ("a person's mail", PERSON.email),
        ("a person's name", PERSON.family_name),
    ]
    if isinstance(content, CodeCheck):
        found += [("a code", content.code), ("a challenge's handle", content.handle)]
    if isinstance(content, PasswordCheck):
        found.append(("a password's hash", content.password_hash))
    return [(kind, secret) for kind, secret in found if secret]


def _account_ids(subject: Subject, content: Content) -> list[str]:
    named = getattr(content, "account_id", "") or subject.accounts.ordinary
    return [named]


def _texts(told: object) -> list[str]:
    """Every text that reaches a log, a span, an error or ExplainBooking."""
    if isinstance(told, ProviderError):
        texts = [str(told), repr(told), told.message, told.rule, told.provider_code]
        return [*texts, told.request_text, told.answer_text, repr(told.status)]
    if isinstance(told, Executed):
        return [told.rule, told.request_text, told.answer_text, repr(told)]
    # What a read brings back is for the caller; its shape in a log is not.
    return [repr(told)] if is_dataclass(told) and fields(told) else []


class _Overheard(logging.Handler):
    """Everything that is logged in the block, by anybody, at any level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("loyalty_gateway") and ".sandbox" not in record.name:
            self.lines.append(record.getMessage())

    def __enter__(self) -> "_Overheard":
        logger = logging.getLogger("loyalty_gateway")
        self._level = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("loyalty_gateway")
        logger.setLevel(self._level)
        logger.removeHandler(self)


def _has_refused_settings(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    return bool(subject.refused_settings)


def _has_token(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    return bool(subject.token_path)


DUTIES: Final = (
    Duty(
        "refused-credential",
        "a credential that the vendor refuses is PROVIDER_CREDENTIALS_REJECTED; nothing is booked",
        _has_refused_settings,
        a_refused_credential_is_our_trouble,
    ),
    Duty(
        "token-renewed",
        "a token that ended is renewed once for all who wait, and their requests go out again",
        _has_token,
        a_token_that_ended_is_renewed_once,
    ),
    Duty(
        "credential-once",
        "a credential that is always refused is not sent for ever, and nothing is booked",
        to_any,
        a_token_that_is_always_refused_is_not_fetched_again,
    ),
    Duty(
        "rate-limit",
        "a rate limit is PROVIDER_RATE_LIMITED with a wait from 1 to 300 s; nothing is booked",
        to_any,
        a_rate_limit_says_when_to_come_back,
    ),
    Duty(
        "nothing-secret",
        "no credential, account id, phone, mail, name or code stands in any text or log line",
        to_any,
        nothing_secret_is_told,
    ),
)
