"""What may be known of a connection beyond the vendor's documents; names and meanings only."""

from collections.abc import Mapping
from typing import Final

from loyalty_gateway.domain.operations import AMOUNT_ECHO_UNIT
from loyalty_gateway.providers.port import PromiseFacts

ORDER_NUMBER_REPLAYS: Final = "order_number_replays"
ORDER_QUERY_ANSWERS: Final = "order_query_answers"
VOID_TAKES_ORDER_NUMBER: Final = "void_takes_order_number"

PROMISES: Final[Mapping[str, PromiseFacts]] = {
    ORDER_NUMBER_REPLAYS: PromiseFacts(
        "an order that is sent twice with one number is booked once and answered alike"
    ),
    ORDER_QUERY_ANSWERS: PromiseFacts(
        "the order query tells, by our own number, what became of gift and points orders"
    ),
    VOID_TAKES_ORDER_NUMBER: PromiseFacts(
        "a void takes our own number of the original in place of the vendor's, and says when "
        "there is no such original"
    ),
    AMOUNT_ECHO_UNIT: PromiseFacts(
        "the amount in an answer is what was booked, a part included, in the unit asked for"
    ),
}
