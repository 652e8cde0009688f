"""Loyalife's shapes on the wire: envelope, codes, local times, lines; it must never decide."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.book import Card, Effect
from loyalty_gateway.sandbox.bookings import Declined
from loyalty_gateway.sandbox.faults import Answer

# The currency of what members buy; the ledger itself holds no money of theirs.
CURRENCY = "EUR"
SUCCESS = "000"
# Each code with the vendor's words and the HTTP status that it has where failures show in it.
CODES: dict[str, tuple[str, int]] = {
    "006": ("Insert failed", 500),
    "103": ("Member does not exist", 404),
    "107": ("Member status is not Active", 422),
    "201": ("Failed to award points", 500),
    "301": ("Insufficient Point Balance", 422),
    "302": ("Transaction already reversed", 409),
    "303": ("ExternalReference not found", 404),
    "304": ("RelationReference or MerchantName does not match", 422),
    "401": ("Unauthorized", 401),
    "429": ("Too many requests", 429),
    "997": ("Exception occurred", 500),
    "998": ("Invalid request", 400),
    "999": ("Bad request", 400),
    "E001": ("Member not found", 404),
    "E201": ("Duplicate record", 409),
}
# Refusals that have their own HTTP status in the document, whatever the rest does.
ALWAYS_BY_STATUS = frozenset({"401", "429", "997", "998", "999", "E201"})

EARN_OR_BONUS = 2
CREDIT, DEBIT = 1, 2


@dataclass(frozen=True, slots=True)
class Speech:
    """In which of its ways the vendor speaks: see LoyalifeSettings."""

    envelope: Literal["wrapped", "bare"]
    error_codes: Literal["text", "number"]
    refuses_by: Literal["flag", "status"]
    zone: ZoneInfo

    def success(self, content: Any, *, count: int | None = None) -> Answer:
        """A success with what it returns."""
        return self._answer(200, SUCCESS, "Success", content, count)

    def refusal(self, code: str, text: str = "") -> "Refusal":
        """No, with a code; inside HTTP 200 unless the document has a status of its own for it."""
        words, http_status = CODES.get(code, ("A code of next year", 422))
        is_by_status = self.refuses_by == "status" or code in ALWAYS_BY_STATUS
        status = http_status if is_by_status else 200
        return Refusal(self._answer(status, code, text or words, None, 0), code)

    def both(self, answer: Answer) -> Answer:
        """A success that has the code of a failure."""
        found: Any = exact.decode(answer.body)
        inner = found.get("results", found)
        inner["ErrorCode"] = self._code("997")
        return Answer(answer.status, exact.encode(found))

    def time(self, at_ms: int) -> str:
        """A moment as the deployment's own time, without a zone."""
        moment = datetime.fromtimestamp(at_ms // 1000, self.zone).replace(tzinfo=None)
        return f"{moment.isoformat()}.{at_ms % 1000:03d}"

    def seconds(self, text: str) -> float:
        """Unix seconds of such a time; the document's check has let it through."""
        return datetime.fromisoformat(text).replace(tzinfo=self.zone).timestamp()

    def _answer(self, status: int, code: str, text: str, content: Any, count: int | None) -> Answer:
        envelope: dict[str, Any] = {
            "IsSucessful": code == SUCCESS,
            "ErrorCode": self._code(code),
            "ExceptionMessage": text,
            "ReturnObject": content,
        }
        if count is not None:
            envelope["Count"] = count
        body = {"results": envelope} if self.envelope == "wrapped" else envelope
        return Answer(status, exact.encode(body))

    def _code(self, code: str) -> str | int:
        return int(code) if self.error_codes == "number" and code.isdecimal() else code


class Refusal(Declined):
    """The vendor says no."""

    def __init__(self, answer: Answer, code: str) -> None:
        super().__init__(answer)
        self.code = code


def encode_token(token: str, ends_at_s: int) -> Answer:
    """A token and when it ends; this answer alone names a zone, and has no envelope but one."""
    end = datetime.fromtimestamp(ends_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Answer(200, exact.encode({"results": {"token": token, "tokenExpiresOn": end}}))


def encode_profile(card: Card) -> dict[str, Any]:
    """A member's whole profile."""
    detail = card.detail
    shown = {
        "Id": detail["number"],
        "FullName": card.holder,
        "Email": detail.get("email_id"),
        "MobileNumber": detail.get("mobile_number"),
        "DOB": f"{detail['dob']}T00:00:00" if detail.get("dob") else None,
        "Gender": detail.get("gender"),
        "Address": detail.get("address"),
        "RelationReference": card.card_id,
        "Status": detail["status"],
        "IsAccountActivated": detail["status"] == 1,
        "TierName": detail.get("tier", "Silver"),
        "TotalPoints": card.points,
        "EnrollmentDate": detail.get("enrolled"),
        "IsAccrualAllowed": True,
        "CustomerSegment": "DEFAULT",
    }
    return {name: value for name, value in shown.items() if value is not None}


def encode_line(effect: Effect, speech: Speech) -> dict[str, Any]:
    """A line of the ledger; its points have no sign, TransactionType tells the direction."""
    detail, time = effect.detail, speech.time(effect.booked_at_ms)
    line = {
        "Id": 541_000 + effect.number,
        "Points": abs(effect.points),
        "Narration": detail.get("narration", effect.kind.replace("_", " ").title()),
        "TransactionDate": time,
        "ProcessingDate": time,
        "RelationReference": effect.card_id,
        "ExternalReference": guid_of(effect),
        "LoyaltyTxnType": detail.get("loyalty_type", EARN_OR_BONUS),
        "TransactionType": CREDIT if effect.points > 0 else DEBIT,
        "MerchantName": detail.get("merchant"),
        "IsActive": True,
    }
    return {name: value for name, value in line.items() if value is not None}


def guid_of(effect: Effect) -> str:
    """The ExternalReference of a booking; those of the past have one made of their number."""
    made = uuid.uuid5(uuid.NAMESPACE_OID, f"loyalife:{effect.number}")
    return str(effect.detail.get("guid") or str(made).upper())
