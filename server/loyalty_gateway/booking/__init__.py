"""Decides about bookings; the only room that moves a booking's state."""
