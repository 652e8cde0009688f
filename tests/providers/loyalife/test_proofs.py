"""Loyalife's promises are shown on a test member, or seen not to hold, or not shown at all."""

import pytest

from loyalty_gateway.providers.loyalife import LoyalifeAdapter
from loyalty_gateway.providers.port import NotShown, ProviderError
from loyalty_gateway.sandbox import LoyalifePlayer, LoyalifeSettings
from tests.providers.loyalife.conftest import Open
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
    earned = 10 if promise == "idempotency_key_dedupes" else 0
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
