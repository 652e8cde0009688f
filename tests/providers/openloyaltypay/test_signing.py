"""The signature is the vendor's, over the very bytes that are sent."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty_gateway.providers.openloyaltypay.signing import sign

BODY = (
    b'{"clientId":"client12345","merchantId":"10800000003","posId":"D31231234567890",'
    b'"terminalId":"12345678","terminalSn":"WP123987987897"}'
)
CLIENT_ID = "client12345"
SECRET = "9fb645400aabaa33ee0e423405d8c676"
SIGNATURE = "78b9b617d2e60c54bba722cb5dcaf6be6999f3a7552bfce274280be0009049c5"


def test_the_guides_own_body_has_the_known_signature() -> None:
    assert sign(BODY, CLIENT_ID, SECRET) == SIGNATURE


@pytest.mark.parametrize(
    "other",
    [
        (BODY + b" ", CLIENT_ID, SECRET),
        (BODY.replace(b":", b": ", 1), CLIENT_ID, SECRET),
        (BODY.replace(b"3", b"4", 1), CLIENT_ID, SECRET),
        (BODY, CLIENT_ID.upper(), SECRET),
        (BODY, CLIENT_ID, SECRET[::-1]),
        (b"", CLIENT_ID, SECRET),
    ],
)
def test_one_byte_more_or_another_secret_is_another_signature(
    other: tuple[bytes, str, str],
) -> None:
    assert sign(*other) != SIGNATURE


@given(st.binary(max_size=200), st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_any_bytes_are_signed_as_they_are(body: bytes, client_id: str, secret: str) -> None:
    message = body + b"&clientId=" + client_id.encode() + b"&clientSecret=" + secret.encode()
    expected = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    signature = sign(body, client_id, secret)
    assert signature == expected
    assert len(signature) == 64
    assert signature == signature.lower()
