"""The vendor's request signature, version 3; it must see the very bytes that are sent.

The guide says: the raw body, then the client's id and secret, under HMAC-SHA256. That the key is
the client's secret itself shows in the vendor's sample application, and so does the lower case.
"""

import hashlib
import hmac


def sign(body: bytes, client_id: str, client_secret: str) -> str:
    """The signature of one request: 64 lower-case hexadecimal digits.

    `body` is what goes over the wire, byte for byte: a blank more or another order of the fields
    is another signature.
    """
    text = body + f"&clientId={client_id}&clientSecret={client_secret}".encode()
    return hmac.new(client_secret.encode(), text, hashlib.sha256).hexdigest()
