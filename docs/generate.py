"""Writes the pages that are made from the code, or checks that they are fresh; decides nothing.

`python docs/generate.py write` writes them, `python docs/generate.py check` exits 1 and names
those that are stale. `make docs` and `make check` run it.
"""

import ast
import inspect
import itertools
import json
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from loyalty_gateway.config import SHORTCUTS
from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.providers.cardsapi.adapter import Settings as CardsapiSettings
from loyalty_gateway.providers.cashassist.adapter import Settings as CashassistSettings
from loyalty_gateway.providers.connection import ConnectionSettings
from loyalty_gateway.providers.loyalife.settings import Settings as LoyalifeSettings
from loyalty_gateway.providers.openloyaltypay.adapter import Settings as OpenLoyaltyPaySettings
from loyalty_gateway.settings import Connection, Promise, Provider, SealingKey, Settings

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
# Run as a script, this file has its own folder on the path and not the one above it.
sys.path.insert(0, str(ROOT))

from docs.errors_page import DESCRIPTORS, errors_page  # noqa: E402
from docs.guarantees_page import guarantees_page  # noqa: E402
from docs.providers_page import providers_page  # noqa: E402
from docs.sandbox_page import sandbox_page  # noqa: E402

INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from the settings in the code; edit the descriptions there. -->

`loyalty serve --config FILE` reads one TOML file; [config.example.toml](config.example.toml) is a
complete one. Variables named `LOYALTY_*` go over the file. A setting that is unknown, out of range
or unsafe stops the start, and the message names it; all problems are listed at once. Secrets are
read from files or variables and are never printed: `loyalty config` shows what is in effect.

- A variable is `LOYALTY_`, then the setting's path in capitals with two underscores between the
  steps: `server.tenant` is `LOYALTY_SERVER__TENANT`. A connection's hyphens become underscores.
- Lists and tables in a variable are JSON: `LOYALTY_RECOVERY__SCHEDULE_S='[1, 5, 15]'`.
- Short names: {shortcuts}.
- Times are in seconds (`_s`), sizes in bytes (`_bytes_`).

Production also demands: a sealing key, an outbound salt, at least one connection, loopback
addresses unless `server.auth` says otherwise, and no `LOYALTY_FAILPOINTS`. Make the two secrets
with `openssl rand -base64 32`, one for each, and keep them: without the sealing key the sealed
account ids cannot be opened, and another salt would make a resend look like a new booking.
"""

COMMON = "In the table of a connection, beside the settings above."

VENDORS_SETTINGS = {
    "cashassist": CashassistSettings,
    "cardsapi": CardsapiSettings,
    "loyalife": LoyalifeSettings,
    "openloyaltypay": OpenLoyaltyPaySettings,
}
assert set(VENDORS_SETTINGS) == set(PROVIDERS), "every vendor's settings have their table"

EXAMPLE_INTRODUCTION = """\
# A complete configuration of `loyalty serve`, with every default. Made by `make docs`.
# What is commented out is at its default (##: has none); what is not, you have to decide.
# The meaning and the limits of each setting: configuration.md.
"""

EXAMPLE_DECIDED = {
    "keys.sealing": '[{ id = "k1", file = "/run/secrets/sealing" }]',
    "keys.outbound_salt_file": '"/run/secrets/outbound-salt"',
}
"""What the example sets although it has no default, because production demands it."""

EXAMPLE_LEFT_OUT = {
    "journal.dsn_file": '"/run/secrets/journal-dsn"',
}
"""What the example shows as it may be, commented out, although it has no default."""

EXAMPLE_CONNECTION = """\
[connections.cashassist]
provider = "cashassist"
display_name = "CashAssist, main shop"
# paused = false
# The vendor's own settings:
base_url = "https://api.cashassist.example"
api_key_file = "/run/secrets/cashassist-api-key"
currency = "CHF"

# What you have seen to hold, and when. Booking after a lost answer rests on it.
# [connections.cashassist.promises.resend_is_safe]
# value = true
# proven_on = "2026-01-31"
# evidence = "same key and body sent twice to the vendor's test system: one transaction"

[connections.cardsapi]
provider = "cardsapi"
display_name = "CISS CardAPI, main shop"
# paused = false
# The vendor's own settings. Cards are looked for in a group, or with store_id and
# point_of_sale_id among what a point of sale takes; one of the two has to be set.
base_url = "https://cardapi.example"
auth_url = "https://authapi.example"
client_id_file = "/run/secrets/cardsapi-client-id"
access_token_file = "/run/secrets/cardsapi-access-token"
currency = "EUR"
group_id = 1

# Nothing is published about a ticket that comes twice: until this is seen to hold, a debit whose
# answer was lost waits for a person.
# [connections.cardsapi.promises.ticket_id_dedupes]
# value = true
# proven_on = "2026-01-31"
# evidence = "same ticket sent twice to the vendor's test system: the card was debited once"

[connections.loyalife]
provider = "loyalife"
display_name = "Loyalife, points programme"
# paused = false
# The vendor's own settings. The vendor writes times without a zone, so ask for the deployment's.
base_url = "https://loyalife-api.example"
client_id = "programme-client-id"
client_secret_file = "/run/secrets/loyalife-client-secret"
program_id = 19
currency = "EUR"
time_zone = "Asia/Kolkata"
# Where points are redeemed, and for what, when a sale does not say.
merchant_name = "Main shop"
redemption_kind = "gift-card"
# redemption_kinds = { lounge = 41 }
# What the programme's own codes mean, over the documented and the assumed ones.
# codes = { "1301" = "insufficient_points" }
# proof_member = "a-test-member"
# proof_product = "RETAIL001"

# A redemption has no key of ours: until one of two things is known, a lost answer waits for a
# person. `loyalty prove` shows the first; that nobody else books can only be declared.
# [connections.loyalife.promises.merchant_name_may_carry_tag]
# value = true
# proven_on = "2026-01-31"
# evidence = "a redemption was found in the statement by its tag, and reversed"

[connections.openloyaltypay]
provider = "openloyaltypay"
display_name = "PayWizard openLoyaltyPay, gift cards"
# paused = false
# The vendor's own settings. The token is the merchant's of type eCommerce, handed out at
# onboarding; loyalty_channel is the channel behind the platform.
base_url = "https://portal.paywizard.example"
client_id = "825429536610058240"
client_secret_file = "/run/secrets/openloyaltypay-client-secret"
jwt_token_file = "/run/secrets/openloyaltypay-jwt-token"
loyalty_channel = "FACTOR4"
currency = "USD"

# Nothing is published about an order number that comes twice, nor whether the vendor's order query
# covers gift cards: until one of the two is seen to hold, a lost answer waits for a person.
# [connections.openloyaltypay.promises.order_query_answers]
# value = true
# proven_on = "2026-01-31"
# evidence = "paid, then asked by our own number: the query named the same checkoutId"
"""


def configuration_page() -> str:
    """The reference of every setting, in Markdown."""
    shortcuts = ", ".join(f"`{name}` ({'.'.join(path)})" for name, path in SHORTCUTS.items())
    parts = [INTRODUCTION.format(shortcuts=shortcuts)]
    top = [row for row in _rows(Settings) if not row.is_table]
    parts.append(_table("Top level", "Before the first table.", "", top))
    for name, field in Settings.model_fields.items():
        model = field.annotation
        if name == "connections" or not _is_model(model):
            continue
        parts.append(_table(f"[{name}]", model.__doc__, f"{name}.", _rows(model)))
    parts.append(_table("keys.sealing", SealingKey.__doc__, "", _rows(SealingKey)))
    parts.append(_table("[connections.NAME]", Connection.__doc__, "", _rows(Connection)))
    parts.append(_table("[connections.NAME.promises.PROMISE]", Promise.__doc__, "", _rows(Promise)))
    # What [provider] sets for all of them no connection may set.
    provider = set(Provider.model_fields)
    shared = [row for row in _rows(ConnectionSettings) if row.name not in provider]
    parts.append(_table("Every vendor's own settings", COMMON, "", shared))
    common = set(ConnectionSettings.model_fields)
    for vendor, model in VENDORS_SETTINGS.items():
        own = [row for row in _rows(model) if row.name not in common]
        parts.append(_table(f"With provider = {vendor}", inspect.getdoc(model), "", own))
    return "\n".join(parts)


def example_file() -> str:
    """A complete TOML file: every setting with its default, and what must be decided."""
    lines = [EXAMPLE_INTRODUCTION]
    for name, field in Settings.model_fields.items():
        model = field.annotation
        if name == "connections":
            continue
        if not _is_model(model):
            lines += [f"# {name} = {_toml(field.default)}", ""]
            continue
        lines.append(f"[{name}]")
        for setting, inner in model.model_fields.items():
            decided = EXAMPLE_DECIDED.get(f"{name}.{setting}")
            default = inner.get_default(call_default_factory=True, validated_data={})
            if decided is not None:
                lines.append(f"{setting} = {decided}")
            elif f"{name}.{setting}" in EXAMPLE_LEFT_OUT:
                lines.append(f"## {setting} = {EXAMPLE_LEFT_OUT[f'{name}.{setting}']}")
            elif default is not None:
                lines.append(f"# {setting} = {_toml(default)}")
        lines.append("")
    lines.append(EXAMPLE_CONNECTION)
    return "\n".join(lines)


PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration_page,
    "config.example.toml": example_file,
    "sandbox.md": sandbox_page,
    "errors.md": lambda: errors_page((ROOT / DESCRIPTORS).read_bytes()),
    "providers.md": providers_page,
    "guarantees.md": guarantees_page,
}


class _Row:
    """One setting as the table shows it."""

    def __init__(self, name: str, field: FieldInfo, notes: Mapping[str, str]) -> None:
        self.name = name
        self.is_table = name == "connections" or _is_model(field.annotation)
        self.kind = _kind(field.annotation)
        self.limits = _limits(field)
        self.description = field.description or notes.get(name, "")
        default = field.get_default(call_default_factory=True, validated_data={})
        if default is PydanticUndefined:
            self.default = "needed"
        elif self.is_table:
            self.default = "see below"
        elif default in (None, (), {}):
            self.default = "none"
        else:
            self.default = f"`{_toml(default)}`"


def _rows(model: type[BaseModel]) -> list[_Row]:
    fields = model.model_fields.items()
    notes = _notes(model)
    rows = [_Row(name, field, notes) for name, field in fields if not field.exclude]
    silent = [row.name for row in rows if not row.description and not row.is_table]
    assert not silent, f"settings of {model.__qualname__} without a meaning: {silent}"
    return rows


def _notes(model: type[BaseModel]) -> dict[str, str]:
    """The docstring behind each setting of the model and of what it extends."""
    found: dict[str, str] = {}
    for part in reversed([it for it in model.__mro__ if issubclass(it, BaseModel)][:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0].body  # type: ignore[attr-defined]
        for setting, note in itertools.pairwise(body):
            match setting, note:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str() as text)
                ):
                    found[name] = " ".join(text.split())
    return found


def _table(title: str, text: str | None, prefix: str, rows: list[_Row]) -> str:
    lines = [f"## {title}", "", text or "", ""]
    lines += ["| setting | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for row in rows:
        allowed = ", ".join(part for part in (row.kind, row.limits) if part)
        cells = [f"`{prefix}{row.name}`", row.default, allowed, row.description]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _kind(annotation: Any) -> str:
    """The type in an operator's words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        members = [of for of in get_args(annotation) if of is not type(None)]
        return " or ".join(_kind(of) for of in members)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin is tuple:
        return f"list of {_kind(get_args(annotation)[0])}s"
    if origin is dict:
        return "table"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    words |= {Path: "path", SecretStr: "secret text"}
    if _is_model(annotation):
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{it.value}`" for it in annotation)
    return words.get(annotation, str(annotation.__name__))


def _limits(field: FieldInfo) -> str:
    signs = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "max_length": "at most {}"}
    found = [
        signs[name].format(f"{limit:g}" if isinstance(limit, float) else limit)
        for constraint in field.metadata
        for name in signs
        if (limit := getattr(constraint, name, None)) is not None
    ]
    patterns = [pattern for it in field.metadata if (pattern := getattr(it, "pattern", None))]
    return ", ".join([*found, *(f"`{pattern}`" for pattern in patterns)])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Path):
        return json.dumps(f"./{value}" if not value.is_absolute() else str(value))
    return json.dumps(value, ensure_ascii=False)


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _stale() -> Iterator[str]:
    for name, page in PAGES.items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != page():
            yield name


def main(arguments: list[str]) -> int:
    if arguments == ["write"]:
        for name in _stale():
            (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
            print(f"docs/{name} written")
        return 0
    if arguments == ["check"]:
        stale = list(_stale())
        for name in stale:
            print(f"docs/{name} is stale; run: make docs", file=sys.stderr)
        return 1 if stale else 0
    print("usage: generate.py write|check", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
