"""Sealed account ids, tokens and keyed hashes: what is the same, what differs, what fails."""

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty_gateway.journal.sealing import Keyring

SALT = b"p" * 32
KEYRING = Keyring([("k1", b"s" * 32)], SALT)
ROTATED = Keyring([("k2", b"t" * 32), ("k1", b"s" * 32)], SALT)
WITHOUT_K1 = Keyring([("k2", b"t" * 32)], SALT)
CARD = "6299123412341234"

account_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)


@given(account_ids)
def test_a_token_opens_to_the_id_it_was_made_of(account_id: str) -> None:
    token = KEYRING.token("default", "main", account_id)

    assert KEYRING.open_token("default", "main", token) == account_id


def test_one_account_has_one_token_per_tenant_and_connection() -> None:
    tokens = {
        KEYRING.token(tenant, connection, CARD)
        for tenant in ("default", "another")
        for connection in ("main", "second")
        for _ in range(3)
    }

    assert len(tokens) == 4
    assert all(CARD not in token for token in tokens)


@pytest.mark.parametrize(("tenant", "connection"), [("another", "main"), ("default", "second")])
def test_a_token_opens_for_its_own_tenant_and_connection_alone(
    tenant: str, connection: str
) -> None:
    token = KEYRING.token("default", "main", CARD)
    with pytest.raises(LookupError):
        KEYRING.open_token(tenant, connection, token)


def test_a_token_cannot_be_moved_between_names_that_read_the_same_in_a_row() -> None:
    """Tenant `a` with connection `bc` is not tenant `ab` with connection `c`."""
    assert KEYRING.account_hash("a", "bc", CARD) != KEYRING.account_hash("ab", "c", CARD)
    with pytest.raises(LookupError):
        KEYRING.open_token("ab", "c", KEYRING.token("a", "bc", CARD))


def test_every_changed_character_of_a_token_is_noticed() -> None:
    token = KEYRING.token("default", "main", CARD)
    # The last character of base64 has bits that stand for nothing.
    for place in range(len(token) - 1):
        changed = "A" if token[place] != "A" else "B"
        with pytest.raises(LookupError):
            KEYRING.open_token("default", "main", token[:place] + changed + token[place + 1 :])


@pytest.mark.parametrize(
    "text", ["", ".", "k1", "k1.", "k1.AAAA", "k9.AAAA", "k1.ä", "k1.====", "\0", "k1." + "A" * 999]
)
def test_what_is_no_token_is_a_lookup_error_and_nothing_else(text: str) -> None:
    with pytest.raises(LookupError):
        KEYRING.open_token("default", "main", text)


@given(st.text(max_size=80))
def test_no_text_breaks_the_opening_of_tokens(text: str) -> None:
    with pytest.raises(LookupError):
        KEYRING.open_token("default", "main", text)


def test_after_a_rotation_old_tokens_still_open_and_new_ones_are_of_the_new_key() -> None:
    old = KEYRING.token("default", "main", CARD)
    new = ROTATED.token("default", "main", CARD)

    assert ROTATED.open_token("default", "main", old) == CARD
    assert new.startswith("k2.") and old.startswith("k1.")
    with pytest.raises(LookupError):
        WITHOUT_K1.open_token("default", "main", old)


def test_a_rotation_changes_no_hash_that_a_booking_is_recognised_by() -> None:
    for method, arguments in (
        ("account_hash", ("default", "main", CARD)),
        ("outbound_id", ("default", "sale-0001")),
        ("target_hash", ("https://vendor.test",)),
        ("fingerprint", (["a", b"b"],)),
    ):
        assert getattr(KEYRING, method)(*arguments) == getattr(ROTATED, method)(*arguments)
    assert KEYRING.salt_check == ROTATED.salt_check


def test_another_salt_recognises_nothing() -> None:
    other = Keyring([("k1", b"s" * 32)], b"q" * 32)

    assert other.salt_check != KEYRING.salt_check
    assert other.outbound_id("default", "sale-0001") != KEYRING.outbound_id("default", "sale-0001")
    assert other.fingerprint(["a"]) != KEYRING.fingerprint(["a"])


def test_a_sealed_id_opens_in_its_own_place_alone() -> None:
    sealed = KEYRING.seal(CARD, "default/b-1")

    assert KEYRING.unseal(sealed, "default/b-1") == CARD
    assert ROTATED.unseal(sealed, "default/b-1") == CARD
    for keyring, context in ((KEYRING, "default/b-2"), (WITHOUT_K1, "default/b-1")):
        with pytest.raises(LookupError):
            keyring.unseal(sealed, context)


def test_the_same_id_is_never_sealed_to_the_same_bytes() -> None:
    assert len({KEYRING.seal(CARD, "default/b-1") for _ in range(50)}) == 50


def test_every_changed_byte_of_a_sealed_id_is_noticed() -> None:
    sealed = KEYRING.seal(CARD, "default/b-1")
    for place in range(len(sealed)):
        tampered = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(LookupError):
            KEYRING.unseal(tampered, "default/b-1")


@pytest.mark.parametrize("sealed", [b"", b".", b"k1", b"k1.", b"k1.short", b"\xff\xfe.abc"])
def test_what_was_never_sealed_is_a_lookup_error_and_nothing_else(sealed: bytes) -> None:
    with pytest.raises(LookupError):
        KEYRING.unseal(sealed, "default/b-1")


def test_a_page_token_goes_on_with_its_own_query_alone() -> None:
    token = KEYRING.page_token("default", "states=IN_DOUBT", "17,b-1")

    assert KEYRING.open_page_token("default", "states=IN_DOUBT", token) == "17,b-1"
    for tenant, query in (("default", "states="), ("another", "states=IN_DOUBT")):
        with pytest.raises(LookupError):
            KEYRING.open_page_token(tenant, query, token)


def test_an_account_token_is_no_page_token() -> None:
    token = KEYRING.token("default", "main", CARD)
    with pytest.raises(LookupError):
        KEYRING.open_page_token("default", "main", token)


EXPIRES = datetime(2026, 11, 26, 12, tzinfo=UTC)


@given(account_ids)
def test_a_proof_comes_back_with_its_connection_and_its_end(proof: str) -> None:
    opened = KEYRING.open_proof(
        "default", "main", KEYRING.seal_proof("default", "main", proof, EXPIRES)
    )

    assert (opened.connection, opened.plain, opened.expire_time) == ("main", proof, EXPIRES)


def test_a_proof_is_its_tenants_and_its_connections_alone() -> None:
    token = KEYRING.seal_proof("default", "main", "proof", EXPIRES)
    for tenant, connection in (("another", "main"), ("default", "second")):
        with pytest.raises(LookupError):
            KEYRING.open_proof(tenant, connection, token)


def test_a_token_for_one_purpose_does_not_serve_another() -> None:
    token = KEYRING.seal_token("default", "main", "challenge", "handle", EXPIRES)

    assert KEYRING.open_sealed_token("default", "challenge", token).plain == "handle"
    with pytest.raises(LookupError):
        KEYRING.open_proof("default", "main", token)
    with pytest.raises(LookupError):
        KEYRING.open_token("default", "main", token)
    with pytest.raises(LookupError):
        KEYRING.open_proof("default", "main", KEYRING.token("default", "main", CARD))


def test_no_two_sealed_tokens_are_alike_and_older_keys_still_open_them() -> None:
    tokens = {KEYRING.seal_proof("default", "main", "proof", EXPIRES) for _ in range(3)}

    assert len(tokens) == 3
    assert {ROTATED.open_proof("default", "main", it).plain for it in tokens} == {"proof"}
    for token in tokens:
        with pytest.raises(LookupError):
            WITHOUT_K1.open_proof("default", "main", token)


def test_an_outbound_id_is_a_uuid_that_tells_nothing_of_the_request_id() -> None:
    first = KEYRING.outbound_id("default", "sale-0001")

    assert str(uuid.UUID(first)) == first
    assert first == KEYRING.outbound_id("default", "sale-0001")
    assert first != KEYRING.outbound_id("another", "sale-0001")
    assert first != KEYRING.outbound_id("default", "sale-0002")


def test_two_lists_of_fields_that_read_the_same_in_a_row_differ() -> None:
    assert KEYRING.fingerprint(["ab", "c"]) != KEYRING.fingerprint(["a", "bc"])
    assert KEYRING.fingerprint(["a", ""]) != KEYRING.fingerprint(["a"])
    assert KEYRING.fingerprint(["a"])[0] == 1
