"""Loyalife's members: their profile, what is linked to it, their passwords and one-time codes."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from loyalty_gateway.domain.amounts import Points
from loyalty_gateway.domain.operations import (
    AccountKind,
    Balance,
    CardFacts,
    ChallengePurpose,
    CredentialsFacts,
    External,
    LinkedAccounts,
    Person,
    Reference,
)
from loyalty_gateway.providers.answers import UnreadableAnswer, read_text, read_whole_number
from loyalty_gateway.providers.loyalife.wire.bookings import Programme, encode
from loyalty_gateway.providers.loyalife.wire.envelope import (
    Envelope,
    find_flag,
    find_text,
    find_whole_number,
    read_entries,
    read_object,
)
from loyalty_gateway.providers.loyalife.wire.times import DeploymentTime, decode_day

_MEMBER: Final = "/lbms-ingress/member/api/Member"
CREATE: Final = f"{_MEMBER}/CreateProfileWithAttributes"
UPDATE: Final = f"{_MEMBER}/UpdateProfileWithAttributes"
BY_ATTRIBUTE: Final = f"{_MEMBER}/GetMemberDetailsByUniqueAttribute"
CHECK_CREDENTIALS: Final = f"{_MEMBER}/CheckMembershipCredentialsByRelationReference"
SEND_CODE: Final = f"{_MEMBER}/GenerateOTP"
VERIFY_CODE: Final = f"{_MEMBER}/VerifyOTP"
VERIFY_CODE_BY_RELATION: Final = f"{_MEMBER}/VerifyOTPByRelationReference"

# Assumed paths: the pages that describe these four do not show them.
BY_RELATION: Final = f"{_MEMBER}/GetMemberDetailsByRelationReference"
SEND_CODE_BY_RELATION: Final = f"{_MEMBER}/GenerateOTPByRelationReference"
ADD_LINK: Final = f"{_MEMBER}/AddSubRelation"
LINKS: Final = f"{_MEMBER}/GetSubRelations"

# Assumed names of query parameters; pintProgramId alone is printed.
RELATION_PARAMETER: Final = "pstrRelationReference"
ATTRIBUTE_PARAMETER: Final = "attributeName"
VALUE_PARAMETER: Final = "attributeValue"

MEMBER_NUMBER: Final = "member_number"
"""How the contract calls the vendor's own number of a member."""

EMAIL: Final = "email_id"
PHONE: Final = "mobile_number"
"""What the two are called as attributes of a member."""

STATUSES: Final[Mapping[int, str]] = {
    1: "ACTIVE",
    2: "SUSPENDED",
    3: "BLOCKED",  # Only the login is blocked; the contract has no finer word.
    4: "CLOSED",
    5: "INACTIVE",
    6: "BLOCKED",
}
"""The vendor's member statuses and the contract's word for each."""

LINK_KINDS: Final = ("ACCOUNT", "DEVICE", "EXTERNAL_ID")
"""Assumed with the two endpoints of sub-relations."""

CODE_TYPES: Final[Mapping[ChallengePurpose, str]] = {
    ChallengePurpose.LINK_CARD: "TwoFA",
    ChallengePurpose.SIGN_UP: "ACTIVATION",
    ChallengePurpose.LOG_IN: "LOGIN",
}
"""Which of the vendor's 24 kinds of code a purpose is: assumed, the pages only list them."""

PASSWORD_SCHEMES: Final = ("bcrypt", "md5")

LINKS_MAX: Final = 500
_CODE: Final = re.compile(r"[0-9]{1,9}")
_OWN_FIELDS: Final = frozenset({"relation_reference", "full_name", "dob", "status"})
_ATTRIBUTES: Final = {"Gender": "gender", "Address": "address", "CustomerSegment": "segment"}


class MissingField(ValueError):
    """The vendor cannot do without something that the caller left out; `field` says what."""

    def __init__(self, field: str) -> None:
        super().__init__(f"the provider needs {field}")
        self.field = field


# --- profiles -----------------------------------------------------------------------------------


def encode_profile(account_id: str, person: Person, status: str) -> bytes:
    """The body that enrols a member under the caller's own number.

    Raises:
        MissingField: name, e-mail or phone is missing.
        ValueError: an attribute has the name of one of the vendor's own fields.
    """
    further = dict(person.attributes)
    required = {
        "full_name": full_name(person),
        EMAIL: person.email or further.pop(EMAIL, ""),
        PHONE: person.phone or further.pop(PHONE, ""),
    }
    names = {"full_name": "a name", EMAIL: "an e-mail address", PHONE: "a phone number"}
    for field, value in required.items():
        if not value:
            raise MissingField(names[field])
    body: dict[str, Any] = {"relation_reference": account_id, **required}
    if person.birth_date is not None:
        body["dob"] = person.birth_date.isoformat()
    body["status"] = status
    return encode(body | _checked(further, body))


def encode_changes(member_number: int, person: Person, mask: tuple[str, ...]) -> bytes:
    """The body that sets what the mask names, and nothing else; the same one sets the same.

    Raises:
        MissingField: the mask names a part of a name whose other part is missing.
        ValueError: the mask is empty, or names something that cannot be set here.
    """
    changes: dict[str, Any] = {}
    for name in mask:
        match name:
            case "display_name":
                changes["full_name"] = full_name(person)
            case "given_name" | "family_name":
                # One field holds the whole name, so a part alone would drop the other.
                if not (person.given_name and person.family_name):
                    raise MissingField("both given_name and family_name")
                changes["full_name"] = f"{person.given_name} {person.family_name}"
            case "email":
                changes[EMAIL] = person.email
            case "phone":
                changes[PHONE] = person.phone
            case "birth_date":
                if person.birth_date is None:
                    raise ValueError("a birth date cannot be taken away")
                changes["dob"] = person.birth_date.isoformat()
            case "attributes":
                changes |= _checked(dict(person.attributes), {})
            case _:
                raise ValueError(f"{name} cannot be changed at this provider")
    if not changes:
        raise ValueError("nothing is to be changed")
    inner = encode(changes).decode("ascii")
    return f'{{"id":{member_number:d},"data":{inner}}}'.encode("ascii")


def full_name(person: Person) -> str:
    """The one name that this vendor has."""
    parts = (person.given_name, person.family_name)
    return person.display_name or " ".join(part for part in parts if part)


def decode_member_number(envelope: Envelope) -> int:
    """The vendor's own number of a member, which an update is keyed by."""
    return read_whole_number(read_object(envelope.content, "the profile"), "Id")


def decode_profile(
    envelope: Envelope, account_id: str, now: datetime
) -> tuple[Reference, CardFacts]:
    """The profile of a member, with the vendor's own number of it as a booking's reference."""
    number = Reference(MEMBER_NUMBER, str(decode_member_number(envelope)))
    return number, decode_member(envelope, account_id, now)


def decode_member(envelope: Envelope, account_id: str, now: datetime) -> CardFacts:
    """The profile of a member.

    `account_id` is empty where the member was searched for; then the answer must name it.

    Raises:
        UnreadableAnswer: a part is missing, or it is another member's profile.
    """
    profile = read_object(envelope.content, "the profile")
    read_whole_number(profile, "Id")
    reference = find_text(profile, "RelationReference")
    if account_id and reference not in ("", account_id):
        raise UnreadableAnswer("the answer is about another member")
    if not (account_id or reference):
        raise UnreadableAnswer("RelationReference is missing or empty")
    points = find_whole_number(profile, "TotalPoints")
    status = find_whole_number(profile, "Status")
    born = find_text(profile, "DOB")
    try:
        birth_date = decode_day(born) if born else None
    except ValueError as error:
        raise UnreadableAnswer("DOB is no day") from error
    return CardFacts(
        account_id=account_id or reference,
        kind=AccountKind.MEMBER,
        status=STATUSES.get(status, "") if status is not None else "",
        holder=Person(
            display_name=find_text(profile, "FullName"),
            email=find_text(profile, "Email"),
            phone=find_text(profile, "MobileNumber"),
            birth_date=birth_date,
        ),
        balances=(Balance(Points(points), now),) if points is not None else (),
        tier=find_text(profile, "TierName"),
        attributes=tuple(
            (ours, value)
            for theirs, ours in _ATTRIBUTES.items()
            if (value := find_text(profile, theirs))
        ),
    )


def is_same_person(found: CardFacts, wished: Person) -> bool:
    """Whether a profile is what we asked to be made: name, e-mail and phone, as far as shown.

    A profile that shows none of them cannot be told from another's, so it is not.
    """
    further = dict(wished.attributes)
    pairs = (
        (found.holder.display_name, full_name(wished)),
        (found.holder.email, wished.email or further.get(EMAIL, "")),
        (found.holder.phone, wished.phone or further.get(PHONE, "")),
    )
    seen = [(shown, asked) for shown, asked in pairs if shown]
    return bool(seen) and all(
        shown.strip().casefold() == asked.strip().casefold() for shown, asked in seen
    )


# --- links --------------------------------------------------------------------------------------


def encode_link(programme: Programme, account_id: str, external: External) -> bytes:
    """The body that links something to a member.

    Raises:
        ValueError: the vendor links nothing of that kind.
    """
    kind = re.sub(r"[- ]", "_", external.kind).upper()
    if kind not in LINK_KINDS:
        raise ValueError(f"this provider links {', '.join(map(str.lower, LINK_KINDS))}")
    return encode(
        {
            "RelationReference": account_id,
            "SubRelationReference": external.id,
            "SubRelationType": kind,
            "ProgramId": programme.program_id,
        }
    )


def encode_links(programme: Programme, account_id: str) -> bytes:
    """The body that asks what is linked to a member."""
    return encode({"RelationReference": account_id, "ProgramId": programme.program_id})


def decode_links(envelope: Envelope) -> LinkedAccounts:
    """What is linked to a member; what is linked no more is left out."""
    if envelope.content is None:
        return LinkedAccounts(())
    return LinkedAccounts(
        tuple(
            External(
                read_text(entry, "SubRelationType").lower(),
                read_text(entry, "SubRelationReference"),
            )
            for entry in read_entries(envelope.content, "the links", LINKS_MAX)
            if find_flag(entry, "IsActive") is not False
        )
    )


# --- passwords and codes ------------------------------------------------------------------------


def encode_credentials(programme: Programme, account_id: str, password_hash: str) -> bytes:
    """The body that asks whether a password is right; it holds the hash, so it is never shown."""
    return encode(
        {
            "UniquerefID": account_id,
            "ProgramId": programme.program_id,
            "RelationType": programme.relation_type,
            "Password": password_hash,
        }
    )


def decode_credentials(envelope: Envelope, clock: DeploymentTime) -> CredentialsFacts:
    """What the vendor tells about a login whose password was right."""
    facts = read_object(envelope.content, "the login")
    read_whole_number(facts, "Id")
    last_login = find_text(facts, "LastLoggedIn")
    try:
        last_login_time = clock.decode(last_login) if last_login else None
    except ValueError as error:
        raise UnreadableAnswer("LastLoggedIn is no time") from error
    return CredentialsFacts(
        is_verified=True,
        is_activated=find_flag(facts, "IsAccountActivated"),
        must_change_password=find_flag(facts, "ForceChangePassword"),
        last_login_time=last_login_time,
        failed_attempts=find_whole_number(facts, "LoginAttempt"),
    )


def encode_code_wish(
    programme: Programme, receiver: str, purpose: ChallengePurpose, source: tuple[str, int]
) -> bytes:
    """The body that has a code sent to a member, named by e-mail or by number."""
    return encode(
        {
            "UniquerefID": receiver,
            "SourceAddress": source[0],
            "SourceCode": source[1],
            "OtpType": CODE_TYPES[purpose],
            "ProgramId": programme.program_id,
            "RelationType": programme.relation_type,
        }
    )


def encode_code_check(
    programme: Programme, receiver: str, code: str, purpose: ChallengePurpose, address: str
) -> bytes:
    """The body that asks whether a code is right.

    The vendor takes codes as numbers, so leading zeros are lost on the wire, and on the wire
    alone: the code itself is text everywhere else.

    Raises:
        ValueError: the code is no number, so it cannot be right.
    """
    if not _CODE.fullmatch(code):
        raise ValueError("a code is a number")
    return encode(
        {
            "UniquerefID": receiver,
            "OTP": int(code),
            "DestinationAddress": address,
            "Destination": "Web",
            "OtpType": CODE_TYPES[purpose],
            "ProgramId": programme.program_id,
            "RelationType": programme.relation_type,
        }
    )


def _checked(attributes: dict[str, str], body: Mapping[str, Any]) -> dict[str, str]:
    for name in attributes:
        if name in _OWN_FIELDS or name in body:
            raise ValueError(f"the attribute {name[:40]} has a field of its own")
    return attributes
