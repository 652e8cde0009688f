"""Seals account ids and derives every keyed hash; a plain id never leaves this module unasked.

Two secrets: sealing keys may rotate (the first of the list seals, all open); the outbound salt
is the deployment's for ever, since fingerprints and outbound ids come from it.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12
_PROOF = "proof"


@dataclass(frozen=True, slots=True)
class OpenToken:
    """What a sealed token holds; whether its time is over is for the reader to judge."""

    connection: str
    plain: str = field(repr=False)
    expire_time: datetime


def _derive(secret: bytes, purpose: str, length_bytes: int) -> bytes:
    info = b"loyalty-gateway/v1/" + purpose.encode()
    return HKDF(hashes.SHA256(), length_bytes, salt=None, info=info).derive(secret)


def _joined(*parts: str | bytes) -> bytes:
    """Parts with their lengths before them, so that no two lists of parts read the same."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


class Keyring:
    """Every secret of the journal, by what it is for."""

    def __init__(self, sealing_keys: Sequence[tuple[str, bytes]], outbound_salt: bytes) -> None:
        assert sealing_keys, "config demands a sealing key"
        self._sealing = dict(sealing_keys)
        self._active = sealing_keys[0][0]
        self._hash_key = _derive(outbound_salt, "account-hash", 32)
        self._fingerprint_key = _derive(outbound_salt, "fingerprint", 32)
        self._outbound_key = _derive(outbound_salt, "outbound-id", 32)
        self._check = _derive(outbound_salt, "check", 16)
        self._siv = lru_cache(maxsize=1024)(self._make_siv)
        self._gcm = lru_cache(maxsize=64)(self._make_gcm)

    @property
    def salt_check(self) -> bytes:
        """Tells two salts apart without telling either."""
        return self._check

    def _make_siv(self, key_id: str, tenant: str) -> AESSIV:
        return AESSIV(_derive(self._sealing[key_id], f"token/{tenant}", 64))

    def _make_gcm(self, key_id: str) -> AESGCM:
        return AESGCM(_derive(self._sealing[key_id], "seal", 32))

    def seal(self, plain: str, context: str) -> bytes:
        """Encrypts for storage; `context` must be the same when it is opened."""
        return self.seal_bytes(plain.encode(), context)

    def seal_bytes(self, plain: bytes, context: str) -> bytes:
        """As seal, for what is no text."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._gcm(self._active).encrypt(nonce, plain, context.encode())
        return self._active.encode() + b"." + nonce + sealed

    def unseal(self, sealed: bytes, context: str) -> str:
        """Raises LookupError where the key is gone or the bytes are not ours."""
        return self.unseal_bytes(sealed, context).decode()

    def unseal_bytes(self, sealed: bytes, context: str) -> bytes:
        """As unseal, for what is no text."""
        key_id, _, rest = sealed.partition(b".")
        try:
            gcm = self._gcm(key_id.decode())
            return gcm.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], context.encode())
        except (KeyError, InvalidTag, UnicodeDecodeError, ValueError) as error:
            raise LookupError("sealed with a key that this deployment does not have") from error

    def _siv_text(self, tenant: str, plain: str, context: bytes) -> str:
        sealed = self._siv(self._active, tenant).encrypt(plain.encode(), [context])
        return f"{self._active}.{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def _open_siv_text(self, tenant: str, text: str, context: bytes) -> str:
        key_id, _, rest = text.partition(".")
        try:
            padded = rest + "=" * (-len(rest) % 4)
            sealed = base64.b64decode(padded, altchars=b"-_", validate=True)
            if key_id not in self._sealing:
                raise LookupError("not a token of ours")
            return self._siv(key_id, tenant).decrypt(sealed, [context]).decode()
        except (binascii.Error, InvalidTag, UnicodeError, ValueError) as error:
            raise LookupError("not a token of ours") from error

    def token(self, tenant: str, connection: str, account_id: str) -> str:
        """The token of an account: the same account has the same token under one key."""
        return self._siv_text(tenant, account_id, _joined("account", tenant, connection))

    def open_token(self, tenant: str, connection: str, token: str) -> str:
        """The account id in a token. Raises LookupError for a token that is not ours."""
        return self._open_siv_text(tenant, token, _joined("account", tenant, connection))

    def page_token(self, tenant: str, query: str, cursor: str) -> str:
        """A cursor that only the same query of the same tenant can go on from."""
        return self._siv_text(tenant, cursor, _joined("page", tenant, query))

    def open_page_token(self, tenant: str, query: str, token: str) -> str:
        """Raises LookupError for a token of another query, another tenant or nobody's."""
        return self._open_siv_text(tenant, token, _joined("page", tenant, query))

    def seal_token(
        self, tenant: str, connection: str, purpose: str, plain: str, expire_time: datetime
    ) -> str:
        """An opaque text that only we can open, for this tenant and purpose, until it expires.

        It names its connection, so that whoever brings it need not. No two tokens are alike.
        """
        nonce = base64.urlsafe_b64encode(os.urandom(_NONCE_BYTES)).decode()
        content = json.dumps([nonce, connection, int(expire_time.timestamp()), plain])
        return self._siv_text(tenant, content, _joined("token", tenant, purpose))

    def open_sealed_token(self, tenant: str, purpose: str, token: str) -> OpenToken:
        """What a token holds, expired or not.

        Raises LookupError for a token that is not ours, another tenant's, or was made for
        something else.
        """
        content = self._open_siv_text(tenant, token, _joined("token", tenant, purpose))
        _, connection, expires_s, plain = json.loads(content, parse_float=Decimal)
        return OpenToken(connection, plain, datetime.fromtimestamp(expires_s, UTC))

    def seal_proof(self, tenant: str, connection: str, proof: str, expire_time: datetime) -> str:
        """A vendor's proof as the caller may carry it: bound to tenant and connection."""
        return self.seal_token(tenant, connection, _PROOF, proof, expire_time)

    def open_proof(self, tenant: str, connection: str, token: str) -> OpenToken:
        """The vendor's proof in a proof_token, expired or not.

        Raises LookupError as open_sealed_token does, and for another connection's token.
        """
        opened = self.open_sealed_token(tenant, _PROOF, token)
        if opened.connection != connection:
            raise LookupError("a token of another connection")
        return opened

    def account_hash(self, tenant: str, connection: str, account_id: str) -> bytes:
        """What stands for an account in indexes; not reversible without the salt."""
        message = _joined(tenant, connection, account_id)
        return hmac.digest(self._hash_key, message, hashlib.sha256)

    def fingerprint(self, parts: Sequence[str | bytes]) -> bytes:
        """Version 1 of the keyed hash over a booking's business fields."""
        return b"\x01" + hmac.digest(self._fingerprint_key, _joined(*parts), hashlib.sha256)

    def outbound_id(self, tenant: str, request_id: str) -> str:
        """Our id on the vendor's wire, a UUID; the same for ever for one request_id."""
        digest = hmac.digest(self._outbound_key, _joined(tenant, request_id), hashlib.sha256)
        return str(uuid.UUID(bytes=digest[:16], version=5))

    def target_hash(self, target: str) -> bytes:
        """What an outbound id belongs to, without telling it."""
        return hmac.digest(self._hash_key, _joined("target", target), hashlib.sha256)[:16]
