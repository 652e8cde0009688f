"""What can be turned while a player runs, checked by its types; it must never act by itself.

A vendor that has more to turn derives its own frozen dataclass from `Settings`: a new field is a
new setting, and a field of ours with another default is what this vendor does of its own accord.
"""

import types
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from loyalty_gateway.sandbox.faults import FAULT_BY_NAME

SLOW_S_MAX = 600
Repeat = Literal["replays", "refuses", "books_again"]


def between(least: float, most: float | None = None) -> dict[str, Any]:
    """The metadata of a number that has limits."""
    return {"least": least, "most": most}


@dataclass(frozen=True, slots=True)
class Chaos:
    """Faults by chance that a seed replays, even when the requests come in another order.

    Of the attempts a share of `ratio` fails, each with one of `faults` or, without a list, with
    any fault that the player can play. What an attempt gets follows from the seed, the operation,
    the booking's key and the number of the attempt, and from nothing else.
    """

    seed: int
    ratio: float = field(metadata=between(0, 1))
    faults: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check(self)
        unknown = sorted(set(self.faults or ()) - set(FAULT_BY_NAME))
        if unknown:
            raise ValueError(f"unknown faults: {unknown}; known: {list(FAULT_BY_NAME)}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same at every vendor.

    `repeat` is what a key does the second time: its first answer is replayed, it is refused, or
    it books again. `key_lifetime_s` is how long a key is remembered; 0 plays a vendor that
    forgets it at once. `keeps_refused_keys` is whether a declined booking has used its key.
    `rate_limit_per_minute` None means no limit. `hang_up` is how a lost answer looks on the
    socket: an orderly close or a reset. `late_effect_s` is how long after the lost answer a late
    effect lands, and how long a pending booking stays so. `drip_s` lies between two dripped bytes.
    """

    slow_s: float = field(default=20.0, metadata=between(0, SLOW_S_MAX))
    rate_limit_per_minute: int | None = field(default=None, metadata=between(1))
    key_lifetime_s: int = field(default=24 * 3600, metadata=between(0))
    hang_up: Literal["fin", "reset"] = "fin"
    repeat: Repeat = "replays"
    keeps_refused_keys: bool = True
    late_effect_s: float = field(default=2.0, metadata=between(0, SLOW_S_MAX))
    drip_s: float = field(default=0.3, metadata=between(0, SLOW_S_MAX))
    chaos: Chaos | None = None

    def __post_init__(self) -> None:
        check(self)

    def changed(self, wish: object) -> Self:
        """The settings with the fields of a JSON object put in.

        Raises: ValueError naming the field that is unknown or has the wrong type.
        """
        if not isinstance(wish, dict):
            raise ValueError("the body is a JSON object")
        names = [setting.name for setting in fields(self)]
        unknown = sorted(set(wish) - set(names))
        if unknown:
            raise ValueError(f"unknown settings: {unknown}; known: {names}")
        hints = get_type_hints(type(self))
        return replace(self, **{name: _taken(hints[name], value) for name, value in wish.items()})


def check(settings: Any) -> None:
    """Hold every field to its type and its limits.

    Raises: ValueError naming the field and what it takes.
    """
    hints = get_type_hints(type(settings))
    for setting in fields(settings):
        value, hint = getattr(settings, setting.name), hints[setting.name]
        least, most = setting.metadata.get("least"), setting.metadata.get("most")
        is_right = _fits(hint, value)
        if is_right and value is not None:
            is_right = (least is None or value >= least) and (most is None or value <= most)
        if not is_right:
            raise ValueError(f"{setting.name} is {_described(hint, least, most)}")


def allowed(settings: type[Settings]) -> dict[str, str]:
    """What each setting takes, in words."""
    hints = get_type_hints(settings)
    return {
        setting.name: _described(
            hints[setting.name], setting.metadata.get("least"), setting.metadata.get("most")
        )
        for setting in fields(settings)
    }


def _fits(hint: Any, value: object) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(choice, value) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _taken(hint: Any, value: Any) -> Any:
    """A JSON value as the field wants it: an object as its dataclass, a list as a tuple."""
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for choice in choices:
        if isinstance(choice, type) and is_dataclass(choice) and isinstance(value, dict):
            known = get_type_hints(choice)
            unknown = sorted(set(value) - set(known))
            if unknown:
                raise ValueError(f"unknown settings: {unknown}; known: {sorted(known)}")
            inner = {name: _taken(known[name], item) for name, item in value.items()}
            try:
                return choice(**inner)
            except TypeError as error:
                raise ValueError(f"an object with {sorted(known)} is wanted") from error
        if get_origin(choice) is tuple and isinstance(value, list):
            return tuple(value)
    return value


def _described(hint: Any, least: float | None, most: float | None) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        parts = [choice for choice in get_args(hint) if choice is not types.NoneType]
        return f"null or {' or '.join(_described(part, least, most) for part in parts)}"
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    limits = "" if least is None else f" from {least:g} " + (f"to {most:g}" if most else "up")
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, "a list of texts" if get_origin(hint) is tuple else "an object") + limits
