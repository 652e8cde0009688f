"""The contract of the Loyalty Gateway."""
