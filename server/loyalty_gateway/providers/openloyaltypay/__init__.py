"""PayWizard openLoyaltyPay: gift cards with money and points; nothing else lives here."""

from loyalty_gateway.providers.openloyaltypay.adapter import OpenLoyaltyPayAdapter, open_adapter

__all__ = ["OpenLoyaltyPayAdapter", "open_adapter"]
