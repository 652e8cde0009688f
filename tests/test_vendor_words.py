"""A vendor's name and its spelling stay in its own folder; whoever breaks that breaks a room."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.rpc.catalog import SERVICES

ROOT: Final = Path(__file__).parents[1]
SEARCHED: Final = ("server", "proto", "helm")
TEXTS: Final = frozenset({".py", ".proto", ".yaml", ".yml", ".tpl", ".md", ".txt", ".json"})

FURTHER_NAMES: Final = ("CardAPI", "AuthAPI", "PayWizard", "HS-Soft", "CISS", "FACTOR4")
"""What vendors are called beside their keys in PROVIDERS."""

NAMED: Final[Mapping[str, str]] = {
    "server/loyalty_gateway/providers/__init__.py": "the line of each vendor",
    "server/loyalty_gateway/sandbox/__init__.py": "the name of each player",
    "server/loyalty_gateway/sandbox/players.py": "the line of each player",
    "server/loyalty_gateway/cli/sandbox_home.py": "the sandbox's connection to each vendor",
    "server/loyalty_gateway/cli/first_screen.py": "the call that the first screen shows",
    "server/loyalty_gateway/cli/__init__.py": "examples in help texts",
    "server/loyalty_gateway/cli/bookings.py": "examples in help texts",
    "server/loyalty_gateway/settings.py": "an example in a description",
    "helm/generate.py": "an example of a connection",
    "helm/loyalty-gateway/README.md": "an example of a connection",
    "helm/loyalty-gateway/values.yaml": "an example of a connection",
    "helm/loyalty-gateway/ci/example-values.yaml": "an example of a connection",
}
"""Files outside the vendors' folders that name a vendor, and why they may."""

SPELLED: Final[Mapping[tuple[str, str], str]] = {
    ("server/loyalty_gateway/cli/sandbox_home.py", "client_id"): "a setting of an adapter",
    ("server/loyalty_gateway/cli/sandbox_home.py", "client_secret"): "a setting of an adapter",
    ("server/loyalty_gateway/cli/sandbox_home.py", "openLoyaltyPay"): "the vendor's name",
    ("server/loyalty_gateway/sandbox/faults.py", "internal_error"): "a method of every player",
    ("server/loyalty_gateway/sandbox/faults.py", "rate_limited"): "a method of every player",
    ("server/loyalty_gateway/sandbox/player.py", "internal_error"): "a method of every player",
    ("server/loyalty_gateway/sandbox/player.py", "rate_limited"): "a method of every player",
    ("server/loyalty_gateway/rpc/catalog.py", "full_name"): "protobuf's own word",
    ("server/loyalty_gateway/rpc/dispatch.py", "full_name"): "protobuf's own word",
    ("server/loyalty_gateway/conformance/duties/table.py", "full_name"): "protobuf's own word",
    ("server/loyalty_gateway/booking/answers.py", "on_hold"): "our word for an account in doubt",
    ("server/loyalty_gateway/booking/opening.py", "on_hold"): "our word for an account in doubt",
}
"""Words of ours that a vendor happens to have as well."""

_COMPOUND: Final = re.compile(r"[a-z][A-Z]|[A-Z]{2,}.*[a-z0-9]|[_-]|\d")
"""What no English word has: only such a spelling is clearly a vendor's."""


def vendor_folder(path: str) -> str | None:
    """The vendor in whose folder a file stands."""
    found = re.match(r"server/loyalty_gateway/(?:providers|sandbox)/([a-z]+)/", path)
    return found[1] if found and found[1] in PROVIDERS else None


@cache
def files() -> Mapping[str, str]:
    """Every text that is searched, by its path."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in SEARCHED
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and path.suffix in TEXTS and "__pycache__" not in path.parts
    }


def lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a file; the contract's comments are left out, since examples stand there."""
    for number, line in enumerate(files()[path].splitlines(), start=1):
        if not (path.endswith(".proto") and line.lstrip().startswith("//")):
            yield number, line


@cache
def contract_words() -> frozenset[str]:
    """The contract's own names, some of which were chosen to be the vendors' as well."""
    words: set[str] = set()
    for service in SERVICES:
        words |= {method.name for method in service.methods}
        messages = [method.input_type for method in service.methods]
        messages += [method.output_type for method in service.methods]
        seen = set()
        while messages:
            message = messages.pop()
            if message.full_name not in seen:
                seen.add(message.full_name)
                words |= {field.name for field in message.fields}
                messages += [field.message_type for field in message.fields if field.message_type]
    return frozenset(words)


@cache
def spellings(vendor: str) -> frozenset[str]:
    """The names of fields, parameters and calls, the codes and the paths of a vendor's document."""
    text = files()[f"server/loyalty_gateway/sandbox/{vendor}/openapi.yaml"]
    document = yaml.load(text, yaml.CSafeLoader)
    words = {step for path in document["paths"] for step in path.split("/")}
    words |= set(_words(document))
    return frozenset(
        word for word in words - contract_words() if len(word) > 4 and _COMPOUND.search(word)
    )


def _words(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _words(item)
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "properties" and isinstance(value, dict):
                yield from map(str, value)
            elif name == "enum" and isinstance(value, list):
                yield from (word for word in value if isinstance(word, str))
            elif name in ("name", "operationId") and isinstance(value, str):
                yield value
            yield from _words(value)


def found_names(path: str) -> list[tuple[int, str]]:
    pattern = _any_of([*PROVIDERS, *FURTHER_NAMES], re.IGNORECASE)
    return [(number, hit[0]) for number, line in lines(path) if (hit := pattern.search(line))]


def _any_of(words: list[str], flags: int = 0) -> re.Pattern[str]:
    """Any of the words; a name counts in any letters and as a part of a word too."""
    longest_first = sorted(words, key=len, reverse=True)
    alternatives = "|".join(map(re.escape, longest_first))
    if flags & re.IGNORECASE:
        return re.compile(alternatives, flags)
    return re.compile(rf"(?<![\w-])(?:{alternatives})(?![\w-])", flags)


def test_no_vendor_is_named_outside_its_folder() -> None:
    strays = {path: found_names(path) for path in files() if vendor_folder(path) is None}
    assert {path for path, hits in strays.items() if hits} == set(NAMED), {
        path: hits for path, hits in strays.items() if hits and path not in NAMED
    }


@pytest.mark.parametrize("vendor", PROVIDERS)
def test_no_vendor_is_named_in_the_folder_of_another(vendor: str) -> None:
    others = _any_of([name for name in PROVIDERS if name != vendor], re.IGNORECASE)
    for path in files():
        if vendor_folder(path) == vendor:
            hits = [(number, line) for number, line in lines(path) if others.search(line)]
            assert not hits, f"{path} names another vendor: {hits}"


def test_no_spelling_of_a_vendor_stands_outside_its_folder() -> None:
    pattern = _any_of(sorted(set().union(*map(spellings, PROVIDERS))))
    strays = {
        (path, hit)
        for path in files()
        if vendor_folder(path) is None
        for _, line in lines(path)
        for hit in pattern.findall(line)
    }
    assert strays == set(SPELLED)


@pytest.mark.parametrize(
    ("vendor", "words"),
    [
        ("cashassist", "card_not_found Idempotency-Key".split()),
        ("cardsapi", "CARD-14 ticket_id payment_row".split()),
        ("loyalife", "IsSucessful ErrorCode".split()),
        ("openloyaltypay", "tranOrderNo giftVoid checkoutId".split()),
    ],
)
def test_the_search_knows_what_it_looks_for(vendor: str, words: list[str]) -> None:
    assert set(words) <= spellings(vendor)
    assert len(spellings(vendor)) > 20
