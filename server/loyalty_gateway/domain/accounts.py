"""How an account id may be shown; the plain id itself never leaves the request."""

_SHOWN_MAX = 4


def mask_account_id(account_id: str) -> str:
    """The last characters of an id behind bullets: at most four, never more than half of it."""
    shown = min(_SHOWN_MAX, len(account_id) // 2)
    return "•" * (len(account_id) - shown) + account_id[len(account_id) - shown :]
