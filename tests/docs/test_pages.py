"""The pages that are made from the code tell of everything that there is."""

import re
from pathlib import Path

import pytest

from docs.errors_page import ADVICE
from docs.providers_page import ENGINE_PROMISES, MODES
from docs.vendors import VENDORS
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import Operation, RecoveryMode
from loyalty_gateway.providers import PROVIDERS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def errors() -> str:
    return (DOCS / "errors.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def providers() -> str:
    return (DOCS / "providers.md").read_text(encoding="utf-8")


def test_every_reason_has_its_code_its_advice_and_an_example(errors: str) -> None:
    for reason in Reason:
        section = re.search(rf"^### {reason}\n(.*?)(?=^##)", errors, re.MULTILINE | re.DOTALL)
        assert section is not None, reason
        assert ADVICE[reason] in section[1]
        assert f'"reason": "{reason}"' in section[1]
        assert '"domain": "loyalty-gateway"' in section[1]


def test_every_vendor_that_can_be_connected_to_is_told_of(errors: str, providers: str) -> None:
    assert set(VENDORS) == set(PROVIDERS)
    for provider, vendor in VENDORS.items():
        title = f"{vendor.adapter.display_name} (`{provider}`)"
        assert f"\n### {title}\n" in errors
        assert f"\n## {title}\n" in providers


def test_every_operation_and_every_mode_is_told_of(providers: str) -> None:
    for operation in Operation:
        assert f"\n| {operation} | " in providers
    assert set(MODES) == set(RecoveryMode)


def test_every_promise_is_told_with_its_meaning(providers: str) -> None:
    for vendor in VENDORS.values():
        for name, facts in vendor.adapter.promises.items():
            assert f"- `{name}`: {facts.meaning} (" in providers
    for name, meaning in ENGINE_PROMISES.items():
        assert f"- `{name}`: {meaning}." in providers


def test_what_is_assumed_and_what_is_excluded_is_told(providers: str) -> None:
    for vendor in VENDORS.values():
        assert vendor.assumptions
        for sentence in vendor.assumptions.values():
            assert f": {sentence}.\n" in providers
        for reason in vendor.subject.exclusions.values():
            assert f": {reason}.\n" in providers


def test_what_the_gateway_does_not_do_is_told(providers: str) -> None:
    for subject in ("reward catalogues", "attributes", "merging of members", "transfers between"):
        assert subject in providers
