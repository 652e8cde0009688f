"""Xoxoday Loyalife: members with points, codes and statements; nothing else lives here."""

from loyalty_gateway.providers.loyalife.adapter import LoyalifeAdapter, open_adapter

__all__ = ["LoyalifeAdapter", "open_adapter"]
