"""What can be turned at openLoyaltyPay while it plays: what its documents leave open."""

from dataclasses import dataclass, field
from typing import Literal

from loyalty_gateway.sandbox.settings import Repeat, Settings, between

Kind = Literal[
    "giftTransaction",
    "giftIssuance",
    "giftTip",
    "giftVoid",
    "loyaltyIssuance",
    "loyaltyRedemption",
]
"""The kinds of order that carry a number."""


@dataclass(frozen=True, slots=True)
class OpenLoyaltyPaySettings(Settings):
    """The undocumented behaviour, each part with what it does unless told otherwise.

    A repeated order number is refused; one that was only refused before may be used again.
    `echo_amount` is how an answer names its amount. `query_answers` is whether the order query
    covers gift and points orders: where not, it finds none. `void_takes_order_number` is whether
    a void understands the caller's own number beside the vendor's. `settles_after_s` is how long
    an order can be voided; None is for ever. `query_misses`, `repeat_misses` and `void_misses`
    each name a kind of order that the query does not find, whose number is no key, and that a void
    does not find by the caller's own number. `codes_are_statuses` is whether 400, 401, 403, 429
    and 500 come as HTTP status too, or in the code alone.
    """

    repeat: Repeat = "refuses"
    keeps_refused_keys: bool = False
    echo_amount: Literal["right", "wrong_unit"] = "right"
    query_answers: bool = True
    void_takes_order_number: bool = False
    query_misses: Kind | None = None
    repeat_misses: Kind | None = None
    void_misses: Kind | None = None
    settles_after_s: int | None = field(default=24 * 3600, metadata=between(0))
    codes_are_statuses: bool = True
