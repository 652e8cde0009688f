"""Codes are checked once, and stand nowhere; and other proofs of who a person is."""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from loyalty_gateway.booking import recovery
from loyalty_gateway.booking.calls import (
    AccountKey,
    CredentialsCall,
    OwnershipCall,
)
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    AccountKind,
    ChallengePurpose,
    Confirmed,
    CredentialsFacts,
    Destination,
    Issued,
    Operation,
)
from loyalty_gateway.journal.journal import Challenge
from loyalty_gateway.providers.port import (
    CodeCheck,
    CodeWish,
    Offer,
    PasswordCheck,
    ReceiptCheck,
)
from tests.booking.codes import (
    CODE,
    EMAIL,
    PHONE,
    RIGHT,
    Checking,
    CodeVendor,
    a_code,
    breaks,
    create,
    fails,
    sends,
)
from tests.booking.house import (
    CARD,
    KEYRING,
    PATIENT,
    TENANT,
    failure,
    in_s,
    open_house,
    until,
)
from tests.booking.test_no_plain_ids import everything_in
from tests.booking.vendor import FakeVendor
from tests.postgres import Place

# --- a code is checked ------------------------------------------------------------------------


async def test_a_right_code_tells_the_accounts_and_gives_a_proof(place: Place) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        issued = await create(house)
        verified = await house.engine.verify_challenge(a_code(issued, fault="slow"))
        now = house.journal.now()

    (check,) = vendor.checks
    assert (check.purpose, check.destination) == (
        ChallengePurpose.LINK_CARD,
        Destination(phone=PHONE),
    )
    assert (check.handle, check.code, check.fault) == ("vr_handle-of-the-vendor", CODE, "slow")
    assert verified.is_verified
    assert [seen.masked_id for seen in verified.accounts] == ["•" * 12 + "1234", "•••73"]
    assert {seen.kind for seen in verified.accounts} == {AccountKind.CARD}
    assert [KEYRING.open_token(TENANT, "main", seen.token) for seen in verified.accounts] == [
        CARD,
        "10473",
    ]
    proof = KEYRING.open_proof(TENANT, "main", verified.proof_token)
    assert proof.plain == "sut_proof-of-the-vendor"
    assert verified.expire_time is not None
    assert verified.expire_time - now > timedelta(minutes=29)


async def test_without_a_proof_of_the_vendors_there_is_no_token(place: Place) -> None:
    async def confirms_alone(check: CodeCheck) -> Confirmed:
        return Confirmed((CARD,))

    async with open_house(place, CodeVendor(checking=confirms_alone)) as house:
        issued = await create(house)
        verified = await house.engine.verify_challenge(a_code(issued))

    assert verified.is_verified
    assert (verified.proof_token, verified.expire_time) == ("", None)


async def test_the_proof_ends_when_the_vendor_says_so(place: Place) -> None:
    end = datetime(2031, 1, 1, tzinfo=UTC)

    async def confirms_until(check: CodeCheck) -> Confirmed:
        return replace(RIGHT, expire_time=end)

    async with open_house(place, CodeVendor(checking=confirms_until)) as house:
        issued = await create(house)
        verified = await house.engine.verify_challenge(a_code(issued))

    assert verified.expire_time == end
    assert KEYRING.open_proof(TENANT, "main", verified.proof_token).expire_time == end


async def test_a_proof_is_of_no_use_on_another_connection(place: Place) -> None:
    async with open_house(place, CodeVendor()) as house:
        issued = await create(house)
        verified = await house.engine.verify_challenge(a_code(issued))

    with pytest.raises(LookupError):
        KEYRING.open_proof(TENANT, "elsewhere", verified.proof_token)
    with pytest.raises(LookupError):
        KEYRING.open_proof("another", "main", verified.proof_token)


@pytest.mark.parametrize("reason", [Reason.CODE_INVALID, Reason.CODE_EXPIRED])
async def test_a_wrong_code_is_the_callers_to_mend_and_is_asked_about_once(
    place: Place, reason: Reason
) -> None:
    vendor = CodeVendor(checking=fails(reason))
    async with open_house(place, vendor) as house:
        issued = await create(house)
        error = await failure(house.engine.verify_challenge(a_code(issued)))

    assert error.reason is reason
    assert [it.field for it in error.violations] == (
        ["code"] if reason is Reason.CODE_INVALID else []
    )
    assert error.provider_code == "their_code"
    assert "booked" not in error.message
    assert error.retry_after_s is None
    assert len(vendor.checks) == 1


LOST_CHECKS = {
    "no answer": fails(Reason.PROVIDER_INTERNAL),
    "an answer that nobody can read": fails(Reason.PROVIDER_ANSWER_UNREADABLE),
}


@pytest.mark.parametrize("checking", LOST_CHECKS.values(), ids=LOST_CHECKS)
async def test_a_lost_answer_to_a_code_is_told_and_not_retried(
    place: Place, checking: Checking
) -> None:
    vendor = CodeVendor(checking=checking)
    async with open_house(place, vendor) as house:
        issued = await create(house)
        error = await failure(house.engine.verify_challenge(a_code(issued)))

    assert error.reason is Reason.PROVIDER_PENDING
    assert error.is_retry_forbidden
    assert len(vendor.checks) == 1


async def test_a_check_that_takes_longer_than_the_caller_has_is_told_in_time(place: Place) -> None:
    async def never_answers(check: CodeCheck) -> Confirmed:
        await asyncio.Event().wait()
        raise AssertionError("nothing wakes it")

    async with open_house(place, CodeVendor(checking=never_answers)) as house:
        issued = await create(house)
        error = await failure(house.engine.verify_challenge(a_code(issued, deadline=in_s(0.1))))

    assert error.reason is Reason.PROVIDER_PENDING


async def test_a_vendor_that_was_not_reached_may_be_asked_again(place: Place) -> None:
    vendor = CodeVendor(checking=fails(Reason.PROVIDER_UNREACHABLE, Fate.NOT_EXECUTED))
    async with open_house(place, vendor) as house:
        issued = await create(house)
        error = await failure(house.engine.verify_challenge(a_code(issued)))

    assert error.reason is Reason.PROVIDER_UNREACHABLE
    assert error.retry_after_s is not None


async def test_an_expired_challenge_is_not_taken_to_the_vendor(place: Place) -> None:
    async def sent_long_ago(wish: CodeWish) -> Issued:
        return Issued("vr_1", datetime.now(UTC) - timedelta(minutes=2))

    vendor = CodeVendor(sent_long_ago)
    async with open_house(place, vendor) as house:
        issued = await create(house)
        error = await failure(house.engine.verify_challenge(a_code(issued)))

    assert error.reason is Reason.CODE_EXPIRED
    assert vendor.checks == []


async def test_a_challenge_token_is_of_no_use_to_another_tenant_or_made_up(place: Place) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        issued = await create(house)
        account = KEYRING.token(TENANT, "main", CARD)
        for change in ({"tenant": "another"}, {"challenge_token": account}):
            error = await failure(house.engine.verify_challenge(a_code(issued, **change)))
            assert error.reason is Reason.REQUEST_INVALID
            assert [violation.field for violation in error.violations] == ["challenge_token"]

    assert vendor.checks == []


async def test_a_challenge_token_of_a_connection_that_is_gone_is_refused(place: Place) -> None:
    vendor = CodeVendor()
    async with open_house(place, vendor) as house:
        issued = await create(house)
    async with open_house(place, connections={"renamed": vendor}) as house:
        error = await failure(house.engine.verify_challenge(a_code(issued)))

    assert error.reason is Reason.REQUEST_INVALID
    assert vendor.checks == []


# --- receipts and passwords -------------------------------------------------------------------


def an_ownership(**changes: Any) -> OwnershipCall:
    call = OwnershipCall(
        tenant=TENANT,
        account=AccountKey("main", plain_id=CARD),
        receipt_number="2026-000815",
        receipt_date=date(2026, 11, 20),
        receipt_amount=Money("CHF", 1840),
        deadline=in_s(10),
    )
    return replace(call, **changes)


class ReceiptVendor(FakeVendor):
    """Knows one receipt, or none."""

    def __init__(self, confirmed: Confirmed | None) -> None:
        super().__init__(further={Operation.VERIFY_CARD_OWNERSHIP: Offer(self._check_receipt)})
        self.confirmed = confirmed
        self.checks: list[ReceiptCheck] = []

    async def _check_receipt(self, check: ReceiptCheck) -> Confirmed | None:
        self.checks.append(check)
        return self.confirmed


async def test_a_receipt_of_the_card_is_verified_with_a_proof(place: Place) -> None:
    vendor = ReceiptVendor(Confirmed((CARD,), proof="vendor-proof"))
    async with open_house(place, vendor) as house:
        verified = await house.engine.verify_ownership(an_ownership())

    assert vendor.checks == [
        ReceiptCheck(CARD, "2026-000815", date(2026, 11, 20), Money("CHF", 1840))
    ]
    assert verified.is_verified
    assert KEYRING.open_proof(TENANT, "main", verified.proof_token).plain == "vendor-proof"


async def test_a_receipt_of_another_card_is_an_answer_and_no_error(place: Place) -> None:
    async with open_house(place, ReceiptVendor(None)) as house:
        verified = await house.engine.verify_ownership(an_ownership())

    assert not verified.is_verified
    assert (verified.accounts, verified.proof_token) == ((), "")


async def test_a_receipt_in_another_currency_is_refused_without_asking_the_vendor(
    place: Place,
) -> None:
    vendor = ReceiptVendor(None)
    async with open_house(place, vendor) as house:
        error = await failure(
            house.engine.verify_ownership(an_ownership(receipt_amount=Money("EUR", 1840)))
        )

    assert error.reason is Reason.CURRENCY_NOT_ACCEPTED
    assert vendor.checks == []


class PasswordVendor(FakeVendor):
    """Knows whether a password is right."""

    def __init__(self, facts: CredentialsFacts) -> None:
        super().__init__(further={Operation.VERIFY_CREDENTIALS: Offer(self._check_password)})
        self.facts = facts
        self.checks: list[PasswordCheck] = []

    async def _check_password(self, check: PasswordCheck) -> CredentialsFacts:
        self.checks.append(check)
        return self.facts


def a_password() -> CredentialsCall:
    return CredentialsCall(
        tenant=TENANT,
        account=AccountKey("main", plain_id="m_8124"),
        password_hash="$2b$canary-of-a-password",
        scheme="bcrypt",
        deadline=in_s(10),
    )


async def test_a_right_password_tells_the_facts(place: Place) -> None:
    facts = CredentialsFacts(True, is_activated=True, failed_attempts=2)
    vendor = PasswordVendor(facts)
    async with open_house(place, vendor) as house:
        assert await house.engine.verify_credentials(a_password()) == facts

    assert vendor.checks == [PasswordCheck("m_8124", "$2b$canary-of-a-password", "bcrypt")]


async def test_a_wrong_password_is_an_answer_and_tells_nothing_else(place: Place) -> None:
    vendor = PasswordVendor(CredentialsFacts(False, is_activated=True, failed_attempts=2))
    async with open_house(place, vendor) as house:
        facts = await house.engine.verify_credentials(a_password())

    assert facts == CredentialsFacts(False)


# --- what must stand nowhere ------------------------------------------------------------------


async def tells_it_all(check: Any) -> Any:
    raise RuntimeError(f"a bug that tells {vars_of(check)}")


def vars_of(check: Any) -> dict[str, Any]:
    return {name: getattr(check, name) for name in check.__slots__}


async def test_no_code_password_phone_or_handle_stands_in_the_journal_or_a_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = CodeVendor(sends, breaks, checking=tells_it_all)
    passwords = FakeVendor(further={Operation.VERIFY_CREDENTIALS: Offer(tells_it_all)})
    connections: dict[str, FakeVendor] = {"main": vendor, "passwords": passwords}
    told: list[str] = []
    with caplog.at_level(logging.DEBUG):
        async with open_house(
            tmp_path / "journal", connections=connections, policy=PATIENT
        ) as house:
            issued = await create(house)
            told.append(repr(issued))
            for call in (
                create(house, "link-0002", phone="", email=EMAIL),
                house.engine.verify_challenge(a_code(issued)),
                house.engine.verify_credentials(
                    replace(a_password(), account=AccountKey("passwords", plain_id="m_8124"))
                ),
            ):
                error = await failure(call)
                told.append(f"{error} {vars(error)}")
    written = everything_in(tmp_path)

    assert b"link-0001" in written, "the journal was read at all"
    assert "broke with RuntimeError" in caplog.text
    for secret in (CODE, PHONE, EMAIL, "canary-of-a-password", "handle-of-the-vendor"):
        assert secret.encode() not in written
        assert secret not in caplog.text
        assert secret not in "".join(told)


async def test_a_server_prunes_challenges_that_expired_long_ago_by_itself(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their request_ids never return, so nothing else would."""
    monkeypatch.setattr(recovery, "_PRUNE_EVERY_S", 0.0)
    monkeypatch.setattr(recovery, "_PRUNED_MAX", 2)
    names = [f"link-{number:04}" for number in range(5)]
    async with open_house(place) as house:
        long_ago = house.journal.now() - timedelta(hours=2)
        for name in names:
            old = Challenge(
                tenant=TENANT,
                request_id=name,
                fingerprint=b"fingerprint",
                connection="main",
                create_time=long_ago,
                expire_time=long_ago,
            )
            await house.journal.open_challenge(old)

        async def are_gone() -> bool:
            house.engine._recovery.wake()
            return not any([await house.journal.find_challenge(TENANT, it) for it in names])

        await until(are_gone)
