"""Loyalife's verbs as the port wants them; it never retries, stores or decides on a booking."""

from collections.abc import Mapping
from typing import Any, Final

from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import Operation, RecoveryMode, Support
from loyalty_gateway.providers.connection import (
    Connection,
    check_connection,
    open_connection,
    read_secret,
    read_settings,
)
from loyalty_gateway.providers.loyalife import proofs
from loyalty_gateway.providers.loyalife.members import Members
from loyalty_gateway.providers.loyalife.points import PointBookings, undoes_redemption
from loyalty_gateway.providers.loyalife.proofs import (
    IDEMPOTENCY_KEY_DEDUPES,
    MERCHANT_NAME_MAY_CARRY_TAG,
    NO_OTHER_CHANNEL_BOOKS,
    REVERSAL_RUNS_ONCE,
)
from loyalty_gateway.providers.loyalife.session import PROVIDER, Session
from loyalty_gateway.providers.loyalife.settings import Settings, needed_for_redemption
from loyalty_gateway.providers.loyalife.statements import Statements
from loyalty_gateway.providers.loyalife.status import status_table
from loyalty_gateway.providers.port import Check, Offer, PromiseFacts, Way

CHECKED_MEMBER: Final = "0"
"""A member that nobody is; asking for it shows whether the credentials are accepted."""

_RESEND: Final = (Way(RecoveryMode.SAFE_RESEND),)


class LoyalifeAdapter:
    """One connection to a programme at Loyalife."""

    provider = PROVIDER
    display_name = "Xoxoday Loyalife"
    # How long a key is remembered is not documented: twice the six hours that a doubt is worked on.
    key_lifetime_s = 43_200.0
    settle_s = 0.0
    points_unit = ""
    promises: Mapping[str, PromiseFacts] = {
        IDEMPOTENCY_KEY_DEDUPES: PromiseFacts(
            "a purchase that is handed in twice under one key earns once"
        ),
        MERCHANT_NAME_MAY_CARRY_TAG: PromiseFacts(
            "the statement shows a merchant's name with our tag, whole"
        ),
        NO_OTHER_CHANNEL_BOOKS: PromiseFacts(
            "nobody but this gateway redeems points of this programme", is_provable=False
        ),
        REVERSAL_RUNS_ONCE: PromiseFacts(
            "a second reversal of one redemption is refused as a duplicate"
        ),
    }
    unsupported_notes: Mapping[Operation, str] = {
        Operation.VERIFY_CARD_OWNERSHIP: "the vendor knows no receipts; it proves by a code",
        Operation.LIST_TRANSACTION_ITEMS: "the vendor keeps no lines of a sale",
        Operation.TOP_UP_BALANCE: "a member has points and no money",
        Operation.DEBIT_BALANCE: "a member has points and no money",
    }

    def __init__(self, connection: Connection, settings: Settings, client_secret: str) -> None:
        self.currency = settings.currency
        self.target = settings.target
        self._settings = settings
        self._session = Session(
            connection, status_table(settings.codes), settings.client_id, client_secret
        )
        self.points = PointBookings(self._session, settings)
        self.members = Members(self._session, settings)
        self.statements = Statements(self._session, settings, self.points)
        self.operations: Mapping[Operation, Offer] = {
            **self._member_offers(),
            **self._point_offers(),
        }

    async def prove(self, promise: str) -> str:
        """Shows on the proof member that a promise holds.

        Raises:
            ProviderError: the vendor could not be asked.
            NotShown: there is no proof member, or nothing of the kind can be shown.
            LookupError: the promise does not hold.
        """
        return await proofs.prove(self.points, self._settings, promise)

    async def check(self) -> Check:
        """Reads the points of the proof member, or of one that cannot exist.

        Never raises ProviderError: it is what the check tells.
        """
        member = self._settings.proof_member or CHECKED_MEMBER
        return await check_connection(
            lambda: self.points.find_points(member, Operation.GET_BALANCE),
            self._session.connection,
            proving=(Reason.ACCOUNT_NOT_FOUND, Reason.ACCOUNT_NOT_ACTIVE),
        )

    async def close(self) -> None:
        """Ends every connection to the vendor."""
        await self._session.connection.close()

    def _member_offers(self) -> dict[Operation, Offer]:
        member = self.members
        # It sets a state, so it may be sent again; but a later one must not be overtaken by it.
        update = Offer(
            member.update, ways=_RESEND, is_held_in_doubt=True, prepare=member.prepare_update
        )
        return {
            Operation.SEARCH_CARDS: Offer(
                member.search, note="finds by an attribute that the programme marks as unique"
            ),
            Operation.GET_CARD: Offer(member.get_member),
            Operation.GET_WALLET: Offer(member.get_member),
            Operation.CREATE_CARD: self._create(("account_id", "card.holder", "card.attributes")),
            Operation.CREATE_WALLET: self._create(("account_id", "profile.email", "profile.phone")),
            Operation.UPDATE_CARD: update,
            Operation.UPDATE_WALLET: update,
            Operation.LINK_ACCOUNT: Offer(
                member.link, ways=_RESEND, note="links an account, a device or an external id"
            ),
            Operation.LIST_LINKED_ACCOUNTS: Offer(member.list_links),
            Operation.CREATE_CHALLENGE: Offer(
                member.send_code, note="to an e-mail address or an account; not to a phone"
            ),
            Operation.VERIFY_CHALLENGE: Offer(member.check_code, needs_handle=False),
            Operation.VERIFY_CREDENTIALS: Offer(member.check_password),
        }

    def _create(self, needed_fields: tuple[str, ...]) -> Offer:
        return Offer(
            self.members.create,
            ways=(Way(RecoveryMode.STATUS_QUERY),),
            ask=self.members.ask_created,
            needed_fields=needed_fields,
            note="the caller chooses the member's number, name, e-mail address and phone are "
            "needed, and a new member cannot redeem before the programme has activated it",
        )

    def _point_offers(self) -> dict[Operation, Offer]:
        points, statements = self.points, self.statements
        return {
            Operation.GET_BALANCE: Offer(points.get_balance),
            Operation.REDEEM_POINTS: Offer(
                points.redeem,
                ways=(
                    Way(
                        RecoveryMode.STATEMENT_MATCH,
                        any_of=(MERCHANT_NAME_MAY_CARRY_TAG, NO_OTHER_CHANNEL_BOOKS),
                    ),
                ),
                ask=points.ask_redemption,
                prepare=points.prepare_redemption,
                undo=Operation.REVERSE_POINTS,
                tag_promise=MERCHANT_NAME_MAY_CARRY_TAG,
                is_held_in_doubt=True,
                needed_fields=needed_for_redemption(self._settings),
                note=f"redemption_kind is one of {', '.join(self._settings.kinds)}",
            ),
            Operation.EARN_POINTS: Offer(
                points.earn,
                ways=(Way(RecoveryMode.SAFE_RESEND, IDEMPOTENCY_KEY_DEDUPES),),
                prepare=points.prepare_day,
                undo=Operation.REVERSE_POINTS,
                needed_fields=("purchase",),
                note="points are made by the provider's rules, may be none, and are not answered",
            ),
            Operation.REVERSE_POINTS: Offer(
                points.reverse,
                ways=(
                    Way(RecoveryMode.SAFE_RESEND, REVERSAL_RUNS_ONCE, only_for=undoes_redemption),
                    Way(
                        RecoveryMode.SAFE_RESEND,
                        IDEMPOTENCY_KEY_DEDUPES,
                        only_for=lambda order: not undoes_redemption(order),
                    ),
                ),
                prepare=points.prepare_day,
                note="a redemption, whole and once; an earning by a purchase that takes back and "
                "may be sent again where the key of a purchase counts",
            ),
            Operation.LIST_TRANSACTIONS: Offer(statements.list_transactions),
            Operation.GET_POINTS_STATEMENT: Offer(
                statements.get_statement,
                Support.EMULATED,
                note="the closing balance is told for an interval that reaches to now",
            ),
            Operation.LIST_EXPIRING_POINTS: Offer(statements.list_expiring),
        }


def open_adapter(connection: str, settings: Mapping[str, Any], profile: str) -> LoyalifeAdapter:
    """The adapter for one section of the configuration.

    Raises:
        AdapterSettingsError: naming each setting that cannot be used.
    """
    checked = read_settings(Settings, settings, profile=profile)
    secret = read_secret("client_secret", checked.client_secret, checked.client_secret_file)
    way = open_connection(connection, checked, is_sandbox=profile == "sandbox")
    return LoyalifeAdapter(way, checked, secret)
