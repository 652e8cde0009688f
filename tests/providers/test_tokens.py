"""A token is fetched once for all who wait, and a refused one is renewed once and no more."""

import asyncio
from dataclasses import dataclass, field

import pytest

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.providers.port import ProviderError, StatusRow
from loyalty_gateway.providers.tokens import REJECTED_AGAIN_S, RENEW_AT, Token, TokenCache

REFUSED = StatusRow(Reason.PROVIDER_CREDENTIALS_REJECTED, Fate.NOT_EXECUTED)


def error(row: StatusRow) -> ProviderError:
    return ProviderError(
        row,
        "words",
        rule="vendor: rule",
        http_status=401,
        provider_code="X-1",
        retry_after_s=7.0,
        request_text="POST /token",
        answer_text="HTTP 401",
    )


@dataclass
class Vendor:
    """Gives numbered tokens and takes those that it has not been told to refuse."""

    lifetime_s: float = 100.0
    now_s: float = 1_000.0
    fetches: int = 0
    sent: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    refusal: StatusRow = REFUSED
    outage: ProviderError | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def cache(self) -> TokenCache:
        return TokenCache(self.fetch, now=lambda: self.now_s)

    async def fetch(self) -> Token:
        self.fetches += 1
        await self.gate.wait()
        if self.outage is not None:
            raise self.outage
        return Token(f"token-{self.fetches}", self.lifetime_s)

    async def send(self, token: str) -> str:
        self.sent.append(token)
        await asyncio.sleep(0)
        if token in self.refused or "*" in self.refused:
            raise error(self.refusal)
        return f"answer to {token}"


async def test_a_token_serves_until_most_of_its_time_has_passed() -> None:
    vendor = Vendor()
    cache = vendor.cache
    assert await cache.get() == "token-1"
    vendor.now_s += RENEW_AT * vendor.lifetime_s - 0.001
    assert await cache.get() == "token-1"
    vendor.now_s += 0.001
    assert await cache.get() == "token-2"
    assert vendor.fetches == 2


async def test_a_token_without_any_time_serves_the_one_who_asked() -> None:
    vendor = Vendor(lifetime_s=0.0)
    cache = vendor.cache
    assert [await cache.send(vendor.send) for _ in range(2)] == [
        "answer to token-1",
        "answer to token-2",
    ]


async def test_everybody_who_waits_gets_the_same_token() -> None:
    vendor = Vendor()
    vendor.gate.clear()
    cache = vendor.cache
    waiting = [asyncio.ensure_future(cache.get()) for _ in range(50)]
    await asyncio.sleep(0)
    vendor.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"token-1"}
    assert vendor.fetches == 1


async def test_one_who_leaves_does_not_end_the_others_wait() -> None:
    vendor = Vendor()
    vendor.gate.clear()
    cache = vendor.cache
    leaving, staying = (asyncio.ensure_future(cache.get()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    vendor.gate.set()
    assert await staying == "token-1"
    assert vendor.fetches == 1


async def test_a_refused_token_is_renewed_and_the_call_sent_once_more() -> None:
    vendor = Vendor(refused={"token-1"})
    cache = vendor.cache
    await cache.get()
    vendor.now_s += REJECTED_AGAIN_S
    assert await cache.send(vendor.send) == "answer to token-2"
    assert vendor.sent == ["token-1", "token-2"]


async def test_many_calls_with_one_refused_token_renew_it_once() -> None:
    vendor = Vendor(refused={"token-1"})
    cache = vendor.cache
    await cache.get()
    vendor.now_s += REJECTED_AGAIN_S
    answers = await asyncio.gather(*(cache.send(vendor.send) for _ in range(50)))
    assert set(answers) == {"answer to token-2"}
    assert vendor.fetches == 2


async def test_a_vendor_that_refuses_every_token_is_sent_two() -> None:
    vendor = Vendor(refused={"*"})
    cache = vendor.cache
    await cache.get()
    vendor.now_s += REJECTED_AGAIN_S
    with pytest.raises(ProviderError) as caught:
        await cache.send(vendor.send)
    assert caught.value.status is REFUSED
    assert (vendor.sent, vendor.fetches) == (["token-1", "token-2"], 2)


async def test_a_token_that_was_only_just_fetched_is_not_renewed() -> None:
    vendor = Vendor(refused={"*"})
    with pytest.raises(ProviderError):
        await vendor.cache.send(vendor.send)
    assert (vendor.sent, vendor.fetches) == (["token-1"], 1)


@pytest.mark.parametrize(
    "row",
    [
        StatusRow(Reason.PROVIDER_CREDENTIALS_REJECTED),
        StatusRow(Reason.PROVIDER_INTERNAL),
        StatusRow(Reason.INSUFFICIENT_BALANCE, Fate.NOT_EXECUTED, is_refusal=True),
        StatusRow(Reason.PROVIDER_ACCESS_DENIED, Fate.NOT_EXECUTED),
    ],
)
async def test_nothing_but_a_proven_refusal_of_the_token_is_sent_again(row: StatusRow) -> None:
    vendor = Vendor(refused={"*"}, refusal=row)
    cache = vendor.cache
    await cache.get()
    vendor.now_s += REJECTED_AGAIN_S
    with pytest.raises(ProviderError) as caught:
        await cache.send(vendor.send)
    assert caught.value.status is row
    assert vendor.sent == ["token-1"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (Reason.PROVIDER_CREDENTIALS_REJECTED, Reason.PROVIDER_CREDENTIALS_REJECTED),
        (Reason.PROVIDER_ACCESS_DENIED, Reason.PROVIDER_ACCESS_DENIED),
        (Reason.PROVIDER_RATE_LIMITED, Reason.PROVIDER_RATE_LIMITED),
        (Reason.ADAPTER_ROUTE_INVALID, Reason.ADAPTER_ROUTE_INVALID),
        (Reason.PROVIDER_INTERNAL, Reason.PROVIDER_UNREACHABLE),
        (Reason.PROVIDER_ANSWER_UNREADABLE, Reason.PROVIDER_UNREACHABLE),
    ],
)
async def test_without_a_token_nothing_was_sent(reason: Reason, told: Reason) -> None:
    vendor = Vendor(outage=error(StatusRow(reason)))
    with pytest.raises(ProviderError) as caught:
        await vendor.cache.send(vendor.send)
    failed = caught.value
    assert failed.status == StatusRow(told, Fate.NOT_EXECUTED)
    assert (failed.rule, failed.http_status, failed.provider_code) == (
        "token: vendor: rule",
        401,
        "X-1",
    )
    assert (failed.retry_after_s, failed.answer_text) == (7.0, "HTTP 401")
    assert vendor.sent == []


async def test_after_an_outage_the_next_call_asks_again() -> None:
    vendor = Vendor(outage=error(StatusRow(Reason.PROVIDER_INTERNAL)))
    cache = vendor.cache
    with pytest.raises(ProviderError):
        await cache.get()
    vendor.outage = None
    assert await cache.send(vendor.send) == "answer to token-2"


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(Token("secret", 1.0))
