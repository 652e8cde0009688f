"""Package loyalty.v1."""
