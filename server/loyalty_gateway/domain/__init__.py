"""The words that every room shares; this room imports nothing of ours and touches no library."""
