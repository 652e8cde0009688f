"""What the doctor makes of what it sees: one line a part, in words that help at three o'clock."""

from pathlib import Path

import pytest

from loyalty_gateway.doctor import (
    SKEW_FAIL_S,
    SKEW_WARN_S,
    Finding,
    Vendor,
    Verdict,
    judge_clocks,
    judge_journal,
    judge_vendor,
    look_at_journal,
    look_at_vendors,
)
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.store import Examination
from loyalty_gateway.settings import Settings

VENDORS = (
    (
        Vendor("a", True, True, latency_s=0.0124, clock_skew_s=1.0),
        Verdict.OK,
        "reachable in 12 ms, credentials accepted, its clock agrees",
    ),
    (Vendor("a", True, latency_s=0.0124), Verdict.OK, "reachable in 12 ms"),
    (
        Vendor("a", False, trouble="PROVIDER_UNREACHABLE"),
        Verdict.FAIL,
        "cannot be reached: PROVIDER_UNREACHABLE",
    ),
    (
        Vendor("a", True, False, trouble="PROVIDER_CREDENTIALS_REJECTED (CARD-5)"),
        Verdict.FAIL,
        "the vendor refuses our credentials: PROVIDER_CREDENTIALS_REJECTED (CARD-5)",
    ),
    (
        Vendor("a", True, True, trouble="PROVIDER_INTERNAL"),
        Verdict.WARN,
        "reachable, credentials accepted, but it answered with PROVIDER_INTERNAL",
    ),
    (
        Vendor("a", True, True, is_paused=True),
        Verdict.WARN,
        "reachable, credentials accepted, paused by an operator: it takes no bookings",
    ),
    (
        Vendor("a", True, True, clock_skew_s=-3_600.0),
        Verdict.OK,
        "reachable, credentials accepted, its clock is 3600 s behind",
    ),
)


@pytest.mark.parametrize(("vendor", "verdict", "text"), VENDORS, ids=[it[2] for it in VENDORS])
def test_a_connection_is_told_in_one_line(vendor: Vendor, verdict: Verdict, text: str) -> None:
    assert judge_vendor(vendor) == Finding("connection a", verdict, text)


CLOCKS: tuple[tuple[list[tuple[str, float]], Verdict, str], ...] = (
    ([], Verdict.OK, "no other clock"),
    ([("a", SKEW_WARN_S - 1), ("the journal's database", -1.0)], Verdict.OK, "agrees with a, the"),
    ([("a", SKEW_WARN_S), ("b", 0.0)], Verdict.WARN, "differs: a is 5 s ahead;"),
    ([("a", 6.0), ("b", -SKEW_FAIL_S)], Verdict.FAIL, "a is 6 s ahead, b is 300 s behind"),
)


@pytest.mark.parametrize(("skews", "verdict", "words"), CLOCKS, ids=[it[2] for it in CLOCKS])
def test_the_clock_is_judged_by_the_worst_of_all_others(
    skews: list[tuple[str, float]], verdict: Verdict, words: str
) -> None:
    finding = judge_clocks(skews)

    assert finding.verdict is verdict
    assert words in finding.text


JOURNALS = (
    (Examination(is_in_use=True), Verdict.OK, "in use by a running server"),
    (Examination(), Verdict.OK, "not made yet"),
    (Examination(schema.REVISION), Verdict.OK, f"at migration {schema.REVISION}"),
    (Examination("0000"), Verdict.WARN, "loyalty migrate"),
    (Examination(schema.REVISION, free_bytes=1024**2), Verdict.WARN, "only 1 MiB are free"),
    (Examination(schema.REVISION, free_bytes=1024**4), Verdict.OK, "reachable and durable"),
)


@pytest.mark.parametrize(("found", "verdict", "words"), JOURNALS, ids=[it[2] for it in JOURNALS])
def test_a_journal_is_told_in_one_line(found: Examination, verdict: Verdict, words: str) -> None:
    finding = judge_journal(found)

    assert finding.verdict is verdict
    assert words in finding.text


def settings(tmp_path: Path, **connection: object) -> Settings:
    return Settings.model_validate(
        {
            "journal": {"path": str(tmp_path / "journal")},
            "keys": {
                "sealing": [{"id": "k1", "value": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}],
                "outbound_salt": "salt-that-nobody-may-see",
            },
            "connections": {
                "shop": {
                    "provider": "cashassist",
                    "base_url": "http://127.0.0.1:9/v1",
                    "api_key": "sk_live_nobody_may_see_this",
                    **connection,
                }
            },
        }
    )


def test_a_journal_that_cannot_be_used_is_a_failure_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("something else, and quite long at that" * 100)
    finding, skew_s = look_at_journal(settings(tmp_path))

    assert finding.verdict is Verdict.FAIL
    assert "cannot be read" in finding.text
    assert skew_s is None


def test_a_vendor_that_is_away_is_told(tmp_path: Path) -> None:
    (vendor,) = look_at_vendors(settings(tmp_path, paused=True))

    assert vendor == Vendor("shop", False, trouble="PROVIDER_UNREACHABLE", is_paused=True)
