"""Orders as JSON and back: the public part of a row, and the private part that is sealed."""

import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.operations import (
    EntryMode,
    External,
    InDoubtPolicy,
    Operation,
    Order,
    Person,
    Purchase,
    Sale,
)

_FLAGS = ("allow_partial", "may_take_part", "carries_tag")
_TEXTS = ("redemption_kind", "card_type")
_PERSON_TEXTS = ("display_name", "given_name", "family_name", "phone", "email")


def encode_amount(amount: Amount | None) -> list[Any] | None:
    """Kind, unit and value; None for no amount."""
    if amount is None:
        return None
    if isinstance(amount, Money):
        return ["money", amount.currency, amount.minor]
    return ["points", amount.unit, amount.value]


def decode_amount(encoded: list[Any] | None) -> Amount | None:
    """The inverse of encode_amount."""
    if encoded is None:
        return None
    kind, unit, value = encoded
    return Money(unit, value) if kind == "money" else Points(value, unit)


def _decode_money(encoded: list[Any] | None) -> Money | None:
    amount = decode_amount(encoded)
    if isinstance(amount, Points):
        raise ValueError("points where money is kept")
    return amount


def _pairs(encoded: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in encoded)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"))


# --- the public part ----------------------------------------------------------------------------


def encode_order(order: Order) -> str:
    """Everything but the operation, what was asked (columns of their own) and the private part.

    The original of an undo is not kept here: it is read from its own row for every attempt.
    """
    content: dict[str, Any] = {
        "sale": {
            name: getattr(order.sale, name) for name in Sale.__slots__ if getattr(order.sale, name)
        },
        "in_doubt_policy": order.in_doubt_policy,
    }
    for name in (*_FLAGS, *_TEXTS):
        if getattr(order, name):
            content[name] = getattr(order, name)
    if order.money_value is not None:
        content["money_value"] = encode_amount(order.money_value)
    if order.entry_mode is not None:
        content["entry_mode"] = order.entry_mode
    if order.activate is not None:
        content["activate"] = order.activate
    if order.purchase is not None:
        content["purchase"] = _encode_purchase(order.purchase)
    if order.update_mask:
        content["update_mask"] = list(order.update_mask)
    return _json(content)


def decode_order(operation: str, asked: Amount | None, text: str) -> Order:
    """The order as journalled, without its private part.

    Raises ValueError, LookupError or TypeError where the text is not an order's.
    """
    content = json.loads(text, parse_float=Decimal)
    purchase = content.get("purchase")
    entry_mode = content.get("entry_mode")
    return Order(
        operation=Operation(operation),
        asked=asked,
        **{name: content.get(name, False) for name in _FLAGS},
        **{name: content.get(name, "") for name in _TEXTS},
        money_value=_decode_money(content.get("money_value")),
        sale=Sale(**content["sale"]),
        in_doubt_policy=InDoubtPolicy(content["in_doubt_policy"]),
        entry_mode=EntryMode(entry_mode) if entry_mode else None,
        activate=content.get("activate"),
        purchase=_decode_purchase(purchase) if purchase else None,
        update_mask=tuple(content.get("update_mask", ())),
    )


def _encode_purchase(purchase: Purchase) -> dict[str, Any]:
    return {
        "amount": encode_amount(purchase.amount),
        "product_code": purchase.product_code,
        "sub_product_code": purchase.sub_product_code,
        # With its offset, so that the very same time comes back.
        "time": purchase.time.isoformat() if purchase.time else None,
        "attributes": [list(pair) for pair in purchase.attributes],
    }


def _decode_purchase(content: dict[str, Any]) -> Purchase:
    amount = _decode_money(content["amount"])
    if amount is None:
        raise ValueError("a purchase without an amount")
    return Purchase(
        amount=amount,
        product_code=content["product_code"],
        sub_product_code=content["sub_product_code"],
        time=datetime.fromisoformat(content["time"]) if content["time"] else None,
        attributes=_pairs(content["attributes"]),
    )


# --- the private part ---------------------------------------------------------------------------


def encode_private(order: Order) -> str:
    """Person, external account, proof and preparation, for sealing; empty where there are none."""
    content: dict[str, Any] = {}
    if order.person is not None:
        person = order.person
        content["person"] = {
            **{name: getattr(person, name) for name in _PERSON_TEXTS if getattr(person, name)},
            "birth_date": person.birth_date.isoformat() if person.birth_date else None,
            "attributes": [list(pair) for pair in person.attributes],
        }
    if order.external is not None:
        content["external"] = [order.external.kind, order.external.id]
    if order.proof:
        content["proof"] = order.proof
    if order.prepared:
        content["prepared"] = [list(pair) for pair in order.prepared]
    return _json(content) if content else ""


def decode_private(text: str) -> dict[str, Any]:
    """The fields of an order that encode_private has kept, for `dataclasses.replace`."""
    if not text:
        return {}
    content = json.loads(text, parse_float=Decimal)
    fields: dict[str, Any] = {}
    if "person" in content:
        person = content["person"]
        born = person.pop("birth_date")
        fields["person"] = Person(
            **{name: person.get(name, "") for name in _PERSON_TEXTS},
            birth_date=date.fromisoformat(born) if born else None,
            attributes=_pairs(person["attributes"]),
        )
    if "external" in content:
        fields["external"] = External(*content["external"])
    if "proof" in content:
        fields["proof"] = content["proof"]
    if "prepared" in content:
        fields["prepared"] = _pairs(content["prepared"])
    return fields
