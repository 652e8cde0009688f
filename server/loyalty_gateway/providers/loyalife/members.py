"""Members at Loyalife: profiles, links, passwords and codes; a password is never tried twice."""

from dataclasses import replace
from datetime import UTC, datetime

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    AccountKind,
    CardFacts,
    CardPage,
    Confirmed,
    CredentialsFacts,
    Destination,
    Issued,
    LinkedAccounts,
    Operation,
    Order,
    Person,
    Receipt,
)
from loyalty_gateway.providers.connection import clean
from loyalty_gateway.providers.loyalife import status
from loyalty_gateway.providers.loyalife.points import DONE_RULE
from loyalty_gateway.providers.loyalife.session import (
    PROVIDER,
    Asked,
    Session,
    as_preparation,
    as_question,
    not_sent,
)
from loyalty_gateway.providers.loyalife.settings import Settings
from loyalty_gateway.providers.loyalife.wire import members
from loyalty_gateway.providers.loyalife.wire.bookings import decode_done
from loyalty_gateway.providers.loyalife.wire.members import MissingField
from loyalty_gateway.providers.port import (
    Candidate,
    CodeCheck,
    CodeWish,
    Executed,
    Finding,
    Lookup,
    PasswordCheck,
    ProviderError,
    Question,
    Send,
)


class Members:
    """The verbs that concern a member and not its points."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._programme = settings.programme
        self._clock = settings.clock

    # --- reads --------------------------------------------------------------------------------

    async def get_member(self, lookup: Lookup) -> CardFacts:
        """The profile of a member.

        Raises:
            ProviderError: by the tables.
        """
        asked = self._profile(lookup.operation, lookup.account_id, lookup.fault)
        now = datetime.now(UTC)
        answered = await self._session.exchange(
            asked, lambda read: members.decode_member(read, lookup.account_id, now)
        )
        return answered.value

    async def search(self, lookup: Lookup) -> CardPage:
        """The member that an attribute names, or none; only what is unique finds anybody.

        A scan is taken for the member's number. The vendor knows no groups and no shops, so a
        search cannot be narrowed by them and is not.

        Raises:
            ProviderError: by the tables.
        """
        wanted = lookup.search
        assert wanted is not None, "a search says what it looks for"
        try:
            if wanted.scan_value:
                scanned = Lookup(lookup.operation, wanted.scan_value, fault=lookup.fault)
                return CardPage((await self.get_member(scanned),))
            name, value = wanted.attribute_name, wanted.attribute_value
            if wanted.phone or wanted.email:
                name = members.PHONE if wanted.phone else members.EMAIL
                value = wanted.phone or wanted.email
            return CardPage((await self._find(lookup.operation, name, value, lookup.fault),))
        except ProviderError as error:
            if error.status.reason is Reason.ACCOUNT_NOT_FOUND:
                return CardPage(())
            raise

    async def list_links(self, lookup: Lookup) -> LinkedAccounts:
        """What is linked to a member.

        Raises:
            ProviderError: by the tables.
        """
        asked = Asked(
            lookup.operation,
            members.LINKS,
            shown=f"POST {members.LINKS}",
            account_id=lookup.account_id,
            body=members.encode_links(self._programme, lookup.account_id),
            fault=lookup.fault,
        )
        return (await self._session.exchange(asked, members.decode_links)).value

    # --- bookings -----------------------------------------------------------------------------

    async def create(self, send: Send) -> Executed:
        """Enrols a member under the number that the caller chose.

        Raises:
            ProviderError: by the tables, or with NOT_EXECUTED for what the vendor would miss.
        """
        order = send.order
        if not order.account_id:
            raise self._refused(Reason.FIELD_REQUIRED_BY_PROVIDER, "account_id is needed here")
        person = order.person or Person()
        try:
            body = members.encode_profile(
                order.account_id, person, self._settings.new_member_status
            )
        except ValueError as error:
            raise self._refused(_reason_of(error), str(error)) from error
        made = CardFacts(
            order.account_id,
            AccountKind.MEMBER,
            status=members.STATUSES[int(self._settings.new_member_status)],
            holder=person,
        )
        executed = await self._done(send, members.CREATE, body, made)
        return await self._with_profile(executed, order, is_new=True)

    async def prepare_update(self, order: Order) -> tuple[tuple[str, str], ...]:
        """The vendor's own number of the member, which its updates are keyed by.

        Raises:
            ProviderError: by the tables, and for another member's profile; nothing was booked.
        """
        asked = self._profile(order.operation, order.account_id)
        now = datetime.now(UTC)
        try:
            answered = await self._session.exchange(
                asked, lambda read: members.decode_profile(read, order.account_id, now)
            )
        except ProviderError as error:
            raise as_preparation(error) from error
        number, _ = answered.value
        return ((members.MEMBER_NUMBER, number.value),)

    async def update(self, send: Send) -> Executed:
        """Sets what the mask names; the same update twice leaves the same profile.

        Raises:
            ProviderError: by the tables, or with NOT_EXECUTED for what cannot be set.
        """
        order = send.order
        number = order.find_prepared(members.MEMBER_NUMBER)
        assert number, "an update is prepared with the member's number"
        try:
            body = members.encode_changes(
                int(number), order.person or Person(), _mask(order.update_mask, order.person)
            )
        except ValueError as error:
            raise self._refused(_reason_of(error), str(error)) from error
        executed = await self._done(send, members.UPDATE, body, None)
        return await self._with_profile(executed, order, is_new=False)

    async def link(self, send: Send) -> Executed:
        """Links an account, a device or another number to a member.

        Raises:
            ProviderError: by the tables, or with NOT_EXECUTED for what it cannot link.
        """
        order = send.order
        assert order.external is not None, "the contract asks for what is to be linked"
        try:
            body = members.encode_link(self._programme, order.account_id, order.external)
        except ValueError as error:
            raise self._refused(Reason.REQUEST_INVALID, str(error)) from error
        return await self._done(send, members.ADD_LINK, body, None)

    async def ask_created(self, question: Question) -> Finding:
        """Whether the member is there, and is whom we asked to be enrolled.

        Raises:
            ProviderError: by the tables; contradicting, where another person has the number.
        """
        order = question.order
        asked = self._profile(order.operation, order.account_id)
        now = datetime.now(UTC)
        try:
            answered = await self._session.exchange(
                asked, lambda read: members.decode_profile(read, order.account_id, now)
            )
        except ProviderError as error:
            if error.status.reason is not Reason.ACCOUNT_NOT_FOUND:
                raise as_question(error) from error
            return Finding(
                http_status=error.http_status or 0,
                rule=error.rule,
                request_text=error.request_text,
                answer_text=error.answer_text,
            )
        number, card = answered.value
        if not members.is_same_person(card, order.person or Person()):
            raise self._session.refuse(
                status.CONTRADICTED,
                answered.request_text,
                "the member exists, and is somebody else than was to be enrolled",
                "a member of that number with another profile",
            )
        return Finding(
            (Candidate(Receipt((number,), card=card), is_certain=True),),
            http_status=answered.http_status,
            rule=f"{PROVIDER}: the member exists, with the profile that was sent",
            request_text=answered.request_text,
            answer_text=answered.answer_text,
        )

    # --- codes and passwords ------------------------------------------------------------------

    async def send_code(self, wish: CodeWish) -> Issued:
        """Has a code sent to a member, by e-mail address or by number.

        Raises:
            ProviderError: by the tables, or REQUEST_INVALID for a phone.
        """
        receiver, is_email = self._receiver(wish.destination)
        route = members.SEND_CODE if is_email else members.SEND_CODE_BY_RELATION
        source = (self._settings.source_address, self._settings.source_code)
        asked = Asked(
            Operation.CREATE_CHALLENGE,
            route,
            shown=f"POST {route} to {mask_account_id(receiver)}",
            account_id=receiver,
            body=members.encode_code_wish(self._programme, receiver, wish.purpose, source),
            fault=wish.fault,
        )
        await self._session.exchange(asked, decode_done)
        return Issued()

    async def check_code(self, check: CodeCheck) -> Confirmed:
        """Whether a code is right. The vendor gives no proof: its word is all there is.

        Raises:
            ProviderError: CODE_INVALID for a wrong or old code; else by the tables.
        """
        receiver, is_email = self._receiver(check.destination)
        route = members.VERIFY_CODE if is_email else members.VERIFY_CODE_BY_RELATION
        address = self._settings.source_address
        try:
            body = members.encode_code_check(
                self._programme, receiver, check.code, check.purpose, address
            )
        except ValueError as error:
            raise self._refused(Reason.CODE_INVALID, str(error)) from error
        asked = Asked(
            Operation.VERIFY_CHALLENGE,
            route,
            shown=f"POST {route} by {mask_account_id(receiver)}",
            account_id=receiver,
            body=body,
            fault=check.fault,
        )
        await self._session.exchange(asked, decode_done)
        if not is_email:
            return Confirmed((receiver,), AccountKind.MEMBER)
        try:
            found = await self._find(Operation.VERIFY_CHALLENGE, members.EMAIL, receiver)
        except ProviderError:
            # The code was right all the same, and it is used up now.
            return Confirmed()
        return Confirmed((found.account_id,), AccountKind.MEMBER)

    async def check_password(self, check: PasswordCheck) -> CredentialsFacts:
        """Whether a member's password is right; the vendor counts wrong ones, so it is sent once.

        HTTP 401 may be about the password or about our token. Which of the two is asked by a
        read with the same token: only where that was refused too is the password sent again,
        which the vendor has not looked at then.

        Raises:
            ProviderError: by the tables, or REQUEST_INVALID for a kind of hash it does not know.
        """
        if check.scheme.casefold() not in members.PASSWORD_SCHEMES:
            raise self._refused(
                Reason.REQUEST_INVALID, f"scheme is one of {', '.join(members.PASSWORD_SCHEMES)}"
            )
        token = await self._session.token()
        facts = await self._try_password(check, token, check.fault)
        if facts is not None:
            return facts
        profile = self._profile(Operation.VERIFY_CREDENTIALS, check.account_id)
        await self._session.exchange(profile, members.decode_member_number)
        renewed = await self._session.token()
        if renewed != token:
            facts = await self._try_password(check, renewed, "")
        return facts or CredentialsFacts(is_verified=False)

    # --- parts --------------------------------------------------------------------------------

    async def _try_password(
        self, check: PasswordCheck, token: str, fault: str
    ) -> CredentialsFacts | None:
        """What the vendor tells of a right password; None for HTTP 401."""
        asked = Asked(
            Operation.VERIFY_CREDENTIALS,
            members.CHECK_CREDENTIALS,
            shown=f"POST {members.CHECK_CREDENTIALS} of {mask_account_id(check.account_id)}",
            account_id=check.account_id,
            body=members.encode_credentials(self._programme, check.account_id, check.password_hash),
            fault=fault,
        )
        try:
            answered = await self._session.exchange_once(
                asked, token, lambda read: members.decode_credentials(read, self._clock)
            )
        except ProviderError as error:
            if error.http_status == 401:
                return None
            raise
        return answered.value

    async def _done(self, send: Send, route: str, body: bytes, card: CardFacts | None) -> Executed:
        order = send.order
        asked = Asked(
            order.operation,
            route,
            shown=f"POST {route} on {mask_account_id(order.account_id)}",
            account_id=order.account_id,
            query=() if route == members.ADD_LINK else self._programme.query,
            body=body,
            fault=send.fault,
        )
        answered = await self._session.exchange(asked, decode_done)
        return Executed(
            Receipt(card=card),
            http_status=answered.http_status,
            rule=DONE_RULE,
            request_text=answered.request_text,
            answer_text=answered.answer_text,
        )

    async def _with_profile(self, executed: Executed, order: Order, *, is_new: bool) -> Executed:
        """The same, with the profile as it stands now; it has happened even if that fails.

        The number of a new member is its booking's alone; one that is changed has had it before.
        """
        asked = self._profile(order.operation, order.account_id)
        now = datetime.now(UTC)
        try:
            answered = await self._session.exchange(
                asked, lambda read: members.decode_profile(read, order.account_id, now)
            )
        except ProviderError:
            return executed
        number, card = answered.value
        return replace(executed, receipt=Receipt((number,) if is_new else (), card=card))

    async def _find(
        self, operation: Operation, name: str, value: str, fault: str = ""
    ) -> CardFacts:
        asked = Asked(
            operation,
            members.BY_ATTRIBUTE,
            shown=f"GET {members.BY_ATTRIBUTE} by {clean(name, value)}",
            account_id=value,
            query=(
                *self._programme.query,
                (members.ATTRIBUTE_PARAMETER, name),
                (members.VALUE_PARAMETER, value),
            ),
            is_side_call=True,
            fault=fault,
        )
        now = datetime.now(UTC)
        answered = await self._session.exchange(
            asked, lambda read: members.decode_member(read, "", now)
        )
        return answered.value

    def _profile(self, operation: Operation, account_id: str, fault: str = "") -> Asked:
        return Asked(
            operation,
            members.BY_RELATION,
            shown=f"GET {members.BY_RELATION} of {mask_account_id(account_id)}",
            account_id=account_id,
            query=(*self._programme.query, (members.RELATION_PARAMETER, account_id)),
            is_side_call=True,
            fault=fault,
        )

    def _receiver(self, destination: Destination) -> tuple[str, bool]:
        """Whom a code is for, and whether that is an e-mail address."""
        if destination.phone:
            raise self._refused(
                Reason.REQUEST_INVALID, "codes go to an e-mail address or to an account here"
            )
        return destination.email or destination.account_id, bool(destination.email)

    def _refused(self, reason: Reason, message: str) -> ProviderError:
        return self._session.refuse(not_sent(reason), "", message, f"not sent: {reason.value}")


def _reason_of(error: ValueError) -> Reason:
    is_missing = isinstance(error, MissingField)
    return Reason.FIELD_REQUIRED_BY_PROVIDER if is_missing else Reason.REQUEST_INVALID


def _mask(mask: tuple[str, ...], person: Person | None) -> tuple[str, ...]:
    """What an update sets: what the mask names, or all that is there where it names nothing."""
    if mask or person is None:
        return mask
    return tuple(name for name in Person.__slots__ if getattr(person, name))
