"""Loyalty Gateway: one gRPC contract for many loyalty vendors; every booking exactly once."""

__version__ = "0.1.0"
