"""The vendor openLoyaltyPay: its cards, its OpenAPI document, and the player that speaks it."""
