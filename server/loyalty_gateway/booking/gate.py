"""What a call must pass before a vendor is asked; nothing here asks the vendor or the journal."""

from loyalty_gateway.booking.calls import AccountKey
from loyalty_gateway.booking.connections import Link
from loyalty_gateway.domain.errors import LoyaltyError, Reason, Violation
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import Offer


def refuse_paused(link: Link) -> None:
    """Raises LoyaltyError CONNECTION_PAUSED."""
    if link.is_paused:
        raise LoyaltyError(
            Reason.CONNECTION_PAUSED,
            "An operator has paused this connection.",
            connection=link.connection,
            provider=link.adapter.provider,
        )


def refuse_gaps(link: Link, offer: Offer, filled_fields: frozenset[str]) -> None:
    """Raises LoyaltyError FIELD_REQUIRED_BY_PROVIDER, naming each field that is missing."""
    missing = [name for name in offer.needed_fields if name not in filled_fields]
    if missing:
        raise LoyaltyError(
            Reason.FIELD_REQUIRED_BY_PROVIDER,
            f"This vendor needs {', '.join(missing)}.",
            violations=tuple(
                Violation(name, "is required by this connection's vendor") for name in missing
            ),
            connection=link.connection,
            provider=link.adapter.provider,
        )


def open_account(keyring: Keyring, tenant: str, account: AccountKey) -> str:
    """The plain id of the account that a caller named by id or token.

    Raises LoyaltyError REQUEST_INVALID for a token that is not this connection's.
    """
    if account.plain_id:
        return account.plain_id
    try:
        return keyring.open_token(tenant, account.connection, account.token)
    except LookupError as error:
        raise LoyaltyError(
            Reason.REQUEST_INVALID,
            "account.token is not a token of this connection.",
            field="account.token",
            violations=(Violation("account.token", "is not a token of this connection"),),
        ) from error
