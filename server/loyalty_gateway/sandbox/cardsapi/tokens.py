"""AuthAPI's tokens: given for credentials, and read again by CardAPI; it keeps none of them."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.cardsapi.wire import Refusal

CARD_SCOPE = "card"

# Partner -> its access token and the scopes that it may ask for.
CLIENTS: Mapping[str, tuple[str, frozenset[str]]] = {
    "demo-partner": ("at_test_demo", frozenset({CARD_SCOPE})),
    "demo-terminal": ("at_test_terminal", frozenset({"terminal"})),
}

# A sandbox has nothing to protect: anybody may make its tokens.
_SIGNING_KEY = b"the sandbox of CardAPI"
_HEADER = exact.encode({"alg": "HS256", "typ": "JWT"})


def check_credentials(authorization: str | None) -> str:
    """The partner whose credentials these are.

    Raises: Refusal with AUTH-1, AUTH-2, AUTH-3 or AUTH-9.
    """
    if authorization is None:
        raise Refusal("AUTH-2")
    scheme, _, encoded = authorization.partition(" ")
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        text = ""
    client_id, has_colon, access_token = text.partition(":")
    if scheme.lower() != "basic" or not has_colon:
        raise Refusal("AUTH-3")
    if access_token.count(".") == 2:
        # One of the tokens that are given out here, where the partner's own is wanted.
        raise Refusal("AUTH-9")
    known, _ = CLIENTS.get(client_id, ("", frozenset()))
    if not known or access_token != known:
        raise Refusal("AUTH-1")
    return client_id


def make_token(client_id: str, scopes: list[str], ends_at_ms: int) -> dict[str, Any]:
    """What AuthAPI answers to good credentials.

    Raises: Refusal with AUTH-7 for a scope that the partner may not have.
    """
    _, allowed = CLIENTS[client_id]
    if not allowed.issuperset(scopes):
        raise Refusal("AUTH-7")
    claims = {
        "sub": client_id,
        "scopes": scopes,
        "exp_ms": ends_at_ms,
        "jti": secrets.token_hex(8),
    }
    signed = f"{_encode(_HEADER)}.{_encode(exact.encode(claims))}"
    moment = datetime.fromtimestamp(ends_at_ms / 1000, UTC)
    return {
        "token": f"{signed}.{_signature(signed)}",
        "expires_at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def check_token(authorization: str | None, now_ms: int) -> None:
    """Let a token pass that opens this service.

    Raises: Refusal with CARD-5, CARD-6, CARD-7, CARD-8 or CARD-9.
    """
    if authorization is None:
        raise Refusal("CARD-5")
    scheme, _, token = authorization.partition(" ")
    signed, _, signature = token.rpartition(".")
    claims = _claims(signed)
    if scheme.lower() != "bearer" or claims is None:
        raise Refusal("CARD-8")
    if not hmac.compare_digest(signature.encode(), _signature(signed).encode()):
        raise Refusal("CARD-6")
    if claims["exp_ms"] <= now_ms:
        raise Refusal("CARD-7")
    if CARD_SCOPE not in claims["scopes"]:
        raise Refusal("CARD-9")


def _claims(signed: str) -> dict[str, Any] | None:
    """What a token says of itself, or None where it is none."""
    header, _, payload = signed.partition(".")
    try:
        is_ours = _decode(header) == _HEADER
        claims: Any = exact.decode(_decode(payload))
    except (ValueError, exact.MalformedJson):
        return None
    is_whole = isinstance(claims, dict) and {"scopes", "exp_ms"} <= set(claims)
    return claims if is_ours and is_whole else None


def _signature(signed: str) -> str:
    return _encode(hmac.digest(_SIGNING_KEY, signed.encode(), hashlib.sha256))


def _encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode("ascii").rstrip("=")


def _decode(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
