"""JSON with exact numbers, both ways; a binary fraction must never come near an amount."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn

MINOR_UNITS_PER_UNIT = 100


class MalformedJson(Exception):
    """The bytes are not the strict JSON that a vendor would read."""


@dataclass(frozen=True, slots=True)
class Minor:
    """An amount in minor units that is written as a JSON number with exactly two decimals."""

    value: int

    def __str__(self) -> str:
        sign = "-" if self.value < 0 else ""
        whole, rest = divmod(abs(self.value), MINOR_UNITS_PER_UNIT)
        return f"{sign}{whole}.{rest:02d}"


def decode(body: bytes) -> object:
    """Read JSON text; numbers with a fraction or an exponent become Decimal.

    Raises: MalformedJson for what is not UTF-8, not JSON, NaN or Infinity, or names a field
    twice: two readers could then see two different amounts in one body.
    """
    try:
        return json.loads(
            body.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object_without_duplicates,
        )
    except MalformedJson:
        raise
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise MalformedJson("the body is not JSON") from error


def minor_units(number: int | Decimal) -> int:
    """The amount in minor units.

    Raises: ValueError when it is written with more than two decimals. Trailing zeros count, as
    a sender that writes three decimals has lost track of its unit.
    """
    if isinstance(number, int):
        return number * MINOR_UNITS_PER_UNIT
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -2:
        raise ValueError("more than two decimals")
    return int(number.scaleb(2))


def encode(value: object) -> bytes:
    """Write JSON text without white space; the only number types are int and Minor."""
    return _text(value).encode("utf-8")


def _text(value: object) -> str:
    if isinstance(value, Minor):
        return str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        members = (
            f"{json.dumps(name, ensure_ascii=False)}:{_text(item)}" for name, item in value.items()
        )
        return "{" + ",".join(members) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_text(item) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no exact JSON form here")


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not a JSON number")


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedJson("a field is given twice")
    return found
