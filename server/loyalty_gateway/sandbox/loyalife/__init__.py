"""Loyalife as it is played: its members, its document, its words and its books."""
