"""The journal's history of schemas, forward only."""
