"""Translates the service Wallets."""

from loyalty.v1 import types_pb2, wallets_pb2
from loyalty_gateway.booking.calls import (
    BookingCall,
    ChallengeCall,
    ChallengeIssued,
    CodeCall,
    CredentialsCall,
    ReadAnswer,
    ReadCall,
    Verified,
)
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import (
    CardFacts,
    ChallengePurpose,
    CredentialsFacts,
    External,
    LinkedAccounts,
    Operation,
)
from loyalty_gateway.rpc.codec.calls import (
    decode_booking,
    decode_mask,
    decode_new_account,
    decode_read,
    filled_fields,
)
from loyalty_gateway.rpc.codec.cards import seen_in
from loyalty_gateway.rpc.codec.types import (
    ACCOUNT_KINDS,
    Envelope,
    account_status,
    connection_id,
    decode_account,
    decode_profile,
    decode_request_id,
    fill_profile,
    fill_seen_account,
    fill_time,
)

PURPOSES: dict[wallets_pb2.ChallengePurpose.ValueType, ChallengePurpose] = {
    wallets_pb2.CHALLENGE_PURPOSE_LINK_CARD: ChallengePurpose.LINK_CARD,
    wallets_pb2.CHALLENGE_PURPOSE_SIGN_UP: ChallengePurpose.SIGN_UP,
    wallets_pb2.CHALLENGE_PURPOSE_LOG_IN: ChallengePurpose.LOG_IN,
}


# --- codes and proofs ---------------------------------------------------------------------------


def decode_create_challenge(
    message: wallets_pb2.CreateChallengeRequest, envelope: Envelope, problems: list[Violation]
) -> ChallengeCall:
    """Wallets.CreateChallenge."""
    connection = connection_id(message.connection)
    account = person = None
    if message.HasField("account"):
        account = decode_account(message.account, "account", problems)
        if account.connection != connection:
            problems.append(
                Violation("account.connection", "must be the connection of the challenge")
            )
    if message.HasField("profile"):
        person = decode_profile(message.profile, "profile", problems)
    return ChallengeCall(
        tenant=envelope.tenant,
        connection=connection,
        # The contract's own rule refuses a purpose that has no row.
        purpose=PURPOSES.get(message.purpose, ChallengePurpose.LOG_IN),
        request_id=decode_request_id(message.request_id, problems),
        deadline=envelope.deadline,
        phone=message.phone,
        email=message.email,
        account=account,
        person=person,
        fault=envelope.fault,
        filled_fields=filled_fields(message, problems),
    )


def encode_create_challenge(issued: ChallengeIssued) -> wallets_pb2.CreateChallengeResponse:
    """The challenge that a person has yet to answer."""
    response = wallets_pb2.CreateChallengeResponse(
        challenge_token=issued.challenge_token, masked_destination=issued.masked_destination
    )
    fill_time(response.expire_time, issued.expire_time)
    return response


def decode_verify_challenge(
    message: wallets_pb2.VerifyChallengeRequest, envelope: Envelope, problems: list[Violation]
) -> CodeCall:
    """Wallets.VerifyChallenge."""
    return CodeCall(
        tenant=envelope.tenant,
        challenge_token=message.challenge_token,
        code=message.code,
        deadline=envelope.deadline,
        fault=envelope.fault,
    )


def encode_verify_challenge(verified: Verified) -> wallets_pb2.VerifyChallengeResponse:
    """What the right code has opened."""
    response = wallets_pb2.VerifyChallengeResponse(proof_token=verified.proof_token)
    for account in verified.accounts:
        fill_seen_account(response.accounts.add(), account)
    fill_time(response.expire_time, verified.expire_time)
    return response


def decode_verify_credentials(
    message: wallets_pb2.VerifyCredentialsRequest, envelope: Envelope, problems: list[Violation]
) -> CredentialsCall:
    """Wallets.VerifyCredentials."""
    return CredentialsCall(
        tenant=envelope.tenant,
        account=decode_account(message.account, "account", problems),
        password_hash=message.password_hash,
        scheme=message.scheme,
        deadline=envelope.deadline,
        fault=envelope.fault,
    )


def encode_verify_credentials(facts: CredentialsFacts) -> wallets_pb2.VerifyCredentialsResponse:
    """Whether the password was right; of a wrong one nothing else is told."""
    response = wallets_pb2.VerifyCredentialsResponse(verified=facts.is_verified)
    if facts.is_verified:
        login = response.login
        login.SetInParent()
        if facts.is_activated is not None:
            login.activated = facts.is_activated
        if facts.failed_attempts is not None:
            login.failed_login_count = facts.failed_attempts
        if facts.must_change_password is not None:
            login.password_change_required = facts.must_change_password
        fill_time(login.last_login_time, facts.last_login_time)
    return response


# --- bookings -----------------------------------------------------------------------------------


def decode_create_wallet(
    message: wallets_pb2.CreateWalletRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Wallets.CreateWallet."""
    return decode_booking(
        Operation.CREATE_WALLET,
        message,
        envelope,
        problems,
        account=decode_new_account(message, problems),
        person=decode_profile(message.profile, "profile", problems),
        proof_token=message.proof_token,
    )


def decode_update_wallet(
    message: wallets_pb2.UpdateWalletRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Wallets.UpdateWallet."""
    filled = [field.name for field, _ in message.profile.ListFields()]
    return decode_booking(
        Operation.UPDATE_WALLET,
        message,
        envelope,
        problems,
        person=decode_profile(message.profile, "profile", problems),
        update_mask=decode_mask(list(message.update_mask.paths), filled, "profile", problems),
    )


def decode_link_account(
    message: wallets_pb2.LinkAccountRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Wallets.LinkAccount."""
    return decode_booking(
        Operation.LINK_ACCOUNT,
        message,
        envelope,
        problems,
        external=External(message.external.kind, message.external.id),
        proof_token=message.proof_token,
    )


# --- reads --------------------------------------------------------------------------------------


def decode_get_wallet(
    message: wallets_pb2.GetWalletRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Wallets.GetWallet."""
    return decode_read(Operation.GET_WALLET, message, envelope, problems)


def encode_get_wallet(answer: ReadAnswer) -> wallets_pb2.GetWalletResponse:
    """The account with its person."""
    found = answer.found
    assert isinstance(found, CardFacts), "GetWallet finds an account's facts"
    response = wallets_pb2.GetWalletResponse()
    fill_seen_account(response.wallet.account, seen_in(answer))
    fill_wallet(response.wallet, found)
    fill_wallet_person(response.wallet, found)
    return response


def fill_wallet(wallet: wallets_pb2.Wallet, facts: CardFacts) -> None:
    """Writes what is known of a wallet, without anything personal."""
    if facts.kind is not None:
        wallet.account.kind = ACCOUNT_KINDS[facts.kind]
    wallet.status = account_status(facts.status)


def fill_wallet_person(wallet: wallets_pb2.Wallet, facts: CardFacts) -> None:
    """Writes the personal part of a wallet: who it belongs to, and the links that open it."""
    profile = types_pb2.Profile()
    fill_profile(profile, facts)
    if profile.ByteSize():
        wallet.profile.CopyFrom(profile)
    links = dict(facts.wallet_links)
    if links:
        wallet.wallet_links.apple = links.get("apple", "")
        wallet.wallet_links.google = links.get("google", "")


def decode_list_linked_accounts(
    message: wallets_pb2.ListLinkedAccountsRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Wallets.ListLinkedAccounts."""
    return decode_read(
        Operation.LIST_LINKED_ACCOUNTS, message, envelope, problems, page=message.page
    )


def encode_list_linked_accounts(answer: ReadAnswer) -> wallets_pb2.ListLinkedAccountsResponse:
    """One page of what is linked."""
    found = answer.found
    assert isinstance(found, LinkedAccounts), "ListLinkedAccounts finds linked accounts"
    return wallets_pb2.ListLinkedAccountsResponse(
        linked_accounts=[
            wallets_pb2.LinkedAccount(kind=external.kind, id=external.id)
            for external in found.externals
        ],
        next_page_token=answer.next_page_token,
    )
