"""Translates between the contract's messages and the domain; pure, and never a float."""
