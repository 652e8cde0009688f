"""Blots out what must never be written down; it never fails and never lets a doubt pass."""

import re

REDACTED = "[redacted]"

_SECRET_NAMES = (
    r"api[-_ ]?key|client[-_]?secret|secret|password|passwd|passphrase|pass[-_]?code|otp|pin|cvv"
    r"|cvc|(?:access|refresh|id|proof|account|challenge|auth)?[-_]?token|authorization|sign"
    r"|signature|credentials?|private[-_]?key|track[-_]?\d?(?:data)?"
)

# One pattern, so that a text is walked once. The order matters: a named secret is recognised
# before the shapes, because its value may have any shape.
_SECRETS = re.compile(
    r"(?P<kept>(?<![A-Za-z0-9])(?:x-)?(?:" + _SECRET_NAMES + r")[\"']?\s*[:=]\s*"
    r"(?:bearer\s+|basic\s+)?)"
    r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;&}\])\"']+)"
    # A credential in an Authorization header, wherever it was quoted from.
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}"
    # A JSON web token: three parts of base64url of which the first begins with '{\"'.
    r"|\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,4}"
    # Keys that say what they are: sk_test_..., rk_live_..., and the gateway's own.
    r"|(?<![A-Za-z0-9])(?:[sr]k_[A-Za-z0-9_]{3,}|lgw_[A-Za-z0-9_]{3,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    # Card numbers: a run of digits, or groups as they are printed on a card. A longer run may
    # hold a card number, so it goes too.
    r"|\d{13,}"
    r"|(?<![\w-])\d{4}(?P<gap>[ -])\d{4}(?P=gap)\d{4}(?P=gap)\d{1,7}(?![\w-])"
    r"|(?<![\w-])3\d{3}(?P<gap2>[ -])\d{6}(?P=gap2)\d{4,5}(?![\w-])",
    re.IGNORECASE | re.DOTALL,
)


def _blot(match: re.Match[str]) -> str:
    return (match["kept"] or match["scheme"] or "") + REDACTED


def redact(text: str) -> str:
    """The text without card numbers (13 digits and more), tokens, keys and passwords.

    It is a second net: what must not be written is not handed to a log or a span to begin with.
    Blotting out too much is accepted, letting a secret pass is not.
    """
    return _SECRETS.sub(_blot, text)
