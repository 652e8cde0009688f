"""Every vendor that the gateway speaks to, one line each."""

from collections.abc import Mapping
from typing import Final

from loyalty_gateway.providers import cardsapi, cashassist, loyalife, openloyaltypay
from loyalty_gateway.providers.port import Factory

PROVIDERS: Final[Mapping[str, Factory]] = {
    "cardsapi": cardsapi.open_adapter,
    "cashassist": cashassist.open_adapter,
    "loyalife": loyalife.open_adapter,
    "openloyaltypay": openloyaltypay.open_adapter,
}
"""What opens an adapter, by the `provider` of a connection's settings."""
