"""CISS CardAPI: cashback cards found at a point of sale; nothing else lives here."""

from loyalty_gateway.providers.cardsapi.adapter import CardsapiAdapter, open_adapter

__all__ = ["CardsapiAdapter", "open_adapter"]
