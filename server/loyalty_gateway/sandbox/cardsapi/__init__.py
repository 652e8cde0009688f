"""The vendor CardAPI with its AuthAPI: its passes, its OpenAPI document, and their player."""
