"""Loyalife's promises are shown on a test member, or seen not to hold, or not shown at all."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from loyalty_gateway.providers.loyalife import LoyalifeAdapter, proofs
from loyalty_gateway.providers.loyalife.points import PointBookings
from loyalty_gateway.providers.loyalife.session import Answered
from loyalty_gateway.providers.loyalife.settings import Settings
from loyalty_gateway.providers.loyalife.wire.history import Line
from loyalty_gateway.providers.port import NotShown, ProviderError, Send
from loyalty_gateway.sandbox import LoyalifePlayer, LoyalifeSettings
from tests.providers.loyalife.conftest import PROGRAMME, Open
from tests.providers.loyalife.verbs import points_of

PROVABLE = ["idempotency_key_dedupes", "merchant_name_may_carry_tag", "reversal_runs_once"]


@pytest.mark.parametrize("promise", PROVABLE)
@pytest.mark.parametrize("lists", ["oldest_first", "newest_first"])
async def test_a_promise_that_holds_is_shown_and_the_evidence_says_what_was_seen(
    player: LoyalifePlayer, adapter: LoyalifeAdapter, promise: str, lists: str
) -> None:
    player.stage.settings = LoyalifeSettings(lists=lists)  # type: ignore[arg-type]
    held = points_of(player, "10999")
    evidence = await adapter.prove(promise)
    assert "10999" not in evidence
    earned = 20 if promise == "idempotency_key_dedupes" else 0
    assert points_of(player, "10999") == held + earned
    assert list(player.stage.violations) == []


@pytest.mark.parametrize(
    ("promise", "settings", "seen"),
    [
        ("idempotency_key_dedupes", LoyalifeSettings(repeat="books_again"), "2 new lines"),
        (
            "merchant_name_may_carry_tag",
            LoyalifeSettings(accepts_merchant_tag=False),
            "shows 0 lines with that tag",
        ),
        ("merchant_name_may_carry_tag", LoyalifeSettings(time_zone="UTC"), "time_zone"),
        (
            "reversal_runs_once",
            LoyalifeSettings(reversal="again", repeat="books_again"),
            "the second was accepted",
        ),
    ],
)
async def test_a_promise_that_does_not_hold_is_seen_not_to(
    player: LoyalifePlayer,
    adapter: LoyalifeAdapter,
    promise: str,
    settings: LoyalifeSettings,
    seen: str,
) -> None:
    player.stage.settings = settings
    with pytest.raises(LookupError, match=seen) as caught:
        await adapter.prove(promise)
    assert not isinstance(caught.value, NotShown)
    assert "10999" not in str(caught.value)


@pytest.mark.parametrize("promise", ["no_other_channel_books", "declines_are_replayed", "x"])
async def test_what_can_only_be_declared_is_not_shown(
    player: LoyalifePlayer, adapter: LoyalifeAdapter, promise: str
) -> None:
    with pytest.raises(NotShown, match="declared"):
        await adapter.prove(promise)
    assert list(player.stage.exchanges) == []


@pytest.mark.parametrize(
    ("settings", "promise", "missing"),
    [
        ({}, "reversal_runs_once", "proof_member"),
        ({"proof_member": "10999"}, "idempotency_key_dedupes", "proof_product"),
    ],
)
async def test_without_somebody_to_prove_it_on_nothing_is_shown(
    player: LoyalifePlayer,
    open_connection_to: Open,
    settings: dict[str, str],
    promise: str,
    missing: str,
) -> None:
    with pytest.raises(NotShown, match=missing):
        await open_connection_to(player.base_url, **settings).prove(promise)


async def test_a_vendor_that_cannot_be_asked_proves_nothing(open_connection_to: Open) -> None:
    adapter = open_connection_to("http://127.0.0.1:1", proof_member="10999")
    with pytest.raises(ProviderError):
        await adapter.prove("reversal_runs_once")


@pytest.mark.parametrize("member", ["10999", ""])
async def test_a_check_shows_that_the_vendor_answers_and_knows_us(
    player: LoyalifePlayer, open_connection_to: Open, member: str
) -> None:
    check = await open_connection_to(player.base_url, proof_member=member).check()
    assert (check.is_reachable, check.are_credentials_accepted) == (True, True)
    assert check.error is None
    assert check.clock_skew_s is not None


class Books:
    """A vendor that accepts every purchase; `line_of` says when the line of each is there."""

    def __init__(self, *, line_of: dict[int, str]) -> None:
        self.line_of = line_of
        self.sends: list[Send] = []
        self.lines: list[Line] = []
        self.waits = 0

    async def prepare_day(self, order: object) -> tuple[tuple[str, str], ...]:
        return ()

    async def earn(self, send: Send) -> None:
        self.sends.append(send)
        if self.line_of[len(self.sends)] == "at once":
            self.post()

    async def find_lines(self, *_: object) -> Answered[list[Line]]:
        return Answered(list(self.lines), 200, "", "")

    async def wait(self, seconds: float) -> None:
        self.waits += 1
        if self.line_of[len(self.sends)] == "late":
            self.post()

    def post(self) -> None:
        self.lines.append(Line(len(self.lines) + 1, 10, datetime.now(UTC), is_credit=True))


class TestProofOfTheKey:
    """What one look straight after the sends does not show."""

    async def prove(self, books: Books, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(asyncio, "sleep", books.wait)
        wanted: dict[str, Any] = {
            "base_url": "http://127.0.0.1:1",
            **PROGRAMME,
            "proof_member": "10999",
            "proof_product": "RETAIL001",
        }
        settings = Settings.model_validate(wanted)
        return await proofs.prove(
            cast(PointBookings, books), settings, proofs.IDEMPOTENCY_KEY_DEDUPES
        )

    @pytest.mark.parametrize(("third", "waits"), [("at once", 1), ("late", 2)])
    async def test_a_repeat_that_is_accepted_and_makes_no_line_shows_it(
        self, monkeypatch: pytest.MonkeyPatch, third: str, waits: int
    ) -> None:
        books = Books(line_of={1: "at once", 2: "none", 3: third})
        assert "under another key it made a second line" in await self.prove(books, monkeypatch)
        keys = [send.outbound_id for send in books.sends]
        assert keys[0] == keys[1] != keys[2]
        assert books.waits == waits

    async def test_a_second_line_that_comes_later_disproves_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        books = Books(line_of={1: "at once", 2: "late"})
        with pytest.raises(LookupError, match="2 new lines") as caught:
            await self.prove(books, monkeypatch)
        assert not isinstance(caught.value, NotShown)

    async def test_a_cap_is_not_taken_for_a_key_that_counts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        books = Books(line_of={1: "at once", 2: "none", 3: "none"})
        with pytest.raises(NotShown, match="made no line either"):
            await self.prove(books, monkeypatch)
