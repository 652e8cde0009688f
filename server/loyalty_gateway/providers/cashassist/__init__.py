"""HS-Soft CashAssist: customer cards with a money balance and points; nothing else lives here."""

from loyalty_gateway.providers.cashassist.adapter import CashassistAdapter, open_adapter

__all__ = ["CashassistAdapter", "open_adapter"]
