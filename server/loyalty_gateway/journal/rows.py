"""Turns bookings into rows and back; pure, exact, and without a single float."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, RowMapping, String

from loyalty_gateway.domain.amounts import Amount, Points
from loyalty_gateway.domain.booking import (
    Attempt,
    AttemptKind,
    Booking,
    CreatedAccount,
    HistoryEntry,
    Intent,
    State,
)
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Proves, Reason
from loyalty_gateway.domain.operations import (
    Balance,
    Order,
    ReceiptLine,
    RecoveryMode,
    Reference,
)
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.orders import (
    decode_amount,
    decode_order,
    encode_amount,
    encode_order,
)


def _length(column: Column[Any]) -> int | None:
    assert isinstance(column.type, String)
    return column.type.length


PROVIDER_CODE_MAX = _length(schema.booking.c.provider_code)
RULE_MAX = _length(schema.attempt.c.rule)
ACTOR_MAX = _length(schema.history.c.actor)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(time: datetime | None) -> int | None:
    """Microseconds since 1970, exactly."""
    return None if time is None else (time - _EPOCH) // _MICROSECOND


def from_us(value: int | None) -> datetime | None:
    """The inverse of to_us."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def _time(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def storable(text: str, length_max: int | None = None) -> str:
    """A text from outside as every database holds it: no NUL, and not longer than its column.

    A vendor's odd text must not keep the end of a booking from being written.
    """
    return text.replace("\0", "\ufffd")[:length_max]


def _encode_result(booking: Booking) -> str:
    created = booking.created
    # Elsewhere what was applied is of the kind that was asked for, and has a column.
    applied = booking.applied if booking.asked is None else None
    content = {
        "references": [[ref.kind, ref.value] for ref in booking.references],
        "balances": [
            [encode_amount(balance.amount), to_us(balance.as_of)]
            for balance in booking.balances_after
        ],
        "receipt": [
            [line.label, line.text, encode_amount(line.amount)] for line in booking.receipt_lines
        ],
        "applied": encode_amount(applied),
        "created": created and [created.token, created.masked_id, created.account_hash.hex()],
        "not_found": [to_us(time) for time in booking.not_found_times],
        "matched": booking.is_matched,
        "not_before": to_us(booking.not_before),
    }
    content = {name: value for name, value in content.items() if value}
    return json.dumps(content, separators=(",", ":")) if content else ""


def _decode_result(text: str) -> dict[str, Any]:
    if not text:
        return {}
    content = json.loads(text, parse_float=Decimal)
    if not isinstance(content, dict):
        raise ValueError("a result is an object")
    created: CreatedAccount | None = None
    if "created" in content:
        token, masked_id, account_hash = content["created"]
        created = CreatedAccount(token, masked_id, bytes.fromhex(account_hash))
    return {
        "references": tuple(
            Reference(kind, value) for kind, value in content.get("references", ())
        ),
        "balances_after": tuple(
            Balance(amount, from_us(as_of))
            for encoded, as_of in content.get("balances", ())
            if (amount := decode_amount(encoded)) is not None
        ),
        "receipt_lines": tuple(
            ReceiptLine(label, line_text, decode_amount(amount))  # type: ignore[arg-type]
            for label, line_text, amount in content.get("receipt", ())
        ),
        "applied": decode_amount(content.get("applied")),
        "created": created,
        "not_found_times": tuple(_time(value) for value in content.get("not_found", ())),
        "is_matched": content.get("matched", False),
        "not_before": from_us(content.get("not_before")),
    }


def mutable_row(booking: Booking) -> dict[str, Any]:
    """The columns that a change rewrites."""
    applied = booking.applied if booking.asked is not None else None
    answer = booking.answer_bytes
    told = answer if answer is not None else booking.status_bytes
    return {
        "state": booking.state.value,
        "intent": booking.intent.value,
        "target_hash": booking.target_hash,
        "recovery_mode": booking.recovery_mode.value,
        "epoch": booking.epoch,
        "owner": booking.owner,
        "lease_until": to_us(booking.lease_until),
        "attempt_count": booking.attempt_count,
        "doubtful_attempts": booking.doubtful_attempts,
        "attempt_open": booking.attempt_open,
        "recovery_tries": booking.recovery_tries,
        "reason": booking.reason.value if booking.reason else "",
        "provider_code": storable(booking.provider_code, PROVIDER_CODE_MAX),
        "incident": booking.incident,
        "applied_value": None
        if applied is None
        else (applied.value if isinstance(applied, Points) else applied.minor),
        "result_content": _encode_result(booking),
        "answer_bytes": answer,
        "answer_sealed": booking.answer_sealed,
        "answer_sha256": None if told is None else hashlib.sha256(told).digest(),
        "status_bytes": booking.status_bytes,
        "first_sent_time": to_us(booking.first_sent_time),
        "sent_time": to_us(booking.sent_time),
        "doubt_time": to_us(booking.doubt_time),
        "settle_time": to_us(booking.settle_time),
        "next_attempt_time": to_us(booking.next_attempt_time),
    }


def changed_row(booking: Booking) -> dict[str, Any]:
    """What an UPDATE needs: which row, and the columns that a change rewrites."""
    return {
        "tenant": booking.tenant,
        "booking_id": booking.booking_id,
        **mutable_row(booking),
    }


def is_row_of(found: Booking, written: Booking) -> bool:
    """Whether the row that was found is, in all that a change rewrites, the one to be written."""
    return changed_row(found) == changed_row(written)


def booking_row(booking: Booking) -> dict[str, Any]:
    """A whole row for an INSERT."""
    order = booking.order
    asked = encode_amount(order.asked) if order else None
    kind, unit, value = asked or ["", "", None]
    assert order is None or not (
        order.account_id or order.person or order.external or order.proof or order.prepared
    ), "what is personal is stored sealed, or not at all"
    return {
        "tenant": booking.tenant,
        "booking_id": booking.booking_id,
        "request_id": booking.request_id,
        "fingerprint": booking.fingerprint,
        "operation": booking.operation.value if booking.operation else "",
        "connection": booking.connection,
        "provider": booking.provider,
        "account_hash": booking.account_hash,
        "account_sealed": booking.account_sealed,
        "private_sealed": booking.private_sealed,
        "account_token": booking.account_token,
        "masked_id": booking.masked_id,
        "asked_kind": kind,
        "asked_unit": unit,
        "asked_value": value,
        "order_content": encode_order(order) if order else "",
        "outbound_id": booking.outbound_id or None,
        "trace_parent": booking.trace_parent,
        "original_booking": booking.original_booking,
        "create_time": to_us(booking.create_time),
        **mutable_row(booking),
    }


def booking_from_row(row: RowMapping, *, checks_answer: bool = True) -> Booking:
    """A booking as stored. `checks_answer` is for whoever may repeat the stored answer.

    Raises:
        LoyaltyError: DATA_LOSS where the row cannot be understood, or the stored answer (the
            refusal's status likewise) does not match its checksum.
    """
    if checks_answer and not _is_answer_intact(row):
        raise _data_loss(row, "The stored answer of this booking does not match its checksum")
    try:
        return _decode_booking(row)
    except (LookupError, TypeError, ValueError) as error:
        raise _data_loss(row, "The stored row of this booking cannot be understood") from error


def _is_answer_intact(row: RowMapping) -> bool:
    answer, status, checksum = row["answer_bytes"], row["status_bytes"], row["answer_sha256"]
    told = answer if answer is not None else status
    return told is None or hashlib.sha256(told).digest() == checksum


def _data_loss(row: RowMapping, what: str) -> LoyaltyError:
    return LoyaltyError(
        Reason.DATA_LOSS,
        f"{what}; an operator must compare the journal with the vendor's statement.",
        booking=f"bookings/{row['booking_id']}",
        request_id=row["request_id"],
    )


def _decode_booking(row: RowMapping) -> Booking:
    asked: Amount | None = None
    if row["asked_value"] is not None:
        asked = decode_amount([row["asked_kind"], row["asked_unit"], row["asked_value"]])
    order: Order | None = None
    if row["operation"]:
        order = decode_order(row["operation"], asked, row["order_content"])
    result = _decode_result(row["result_content"])
    if row["applied_value"] is not None:
        result["applied"] = decode_amount(
            [row["asked_kind"], row["asked_unit"], row["applied_value"]]
        )
    return Booking(
        tenant=row["tenant"],
        booking_id=row["booking_id"],
        request_id=row["request_id"],
        state=State(row["state"]),
        create_time=_time(row["create_time"]),
        operation=order.operation if order else None,
        connection=row["connection"],
        provider=row["provider"],
        account_hash=row["account_hash"],
        account_sealed=row["account_sealed"],
        private_sealed=row["private_sealed"],
        account_token=row["account_token"],
        masked_id=row["masked_id"],
        fingerprint=row["fingerprint"],
        order=order,
        outbound_id=row["outbound_id"] or "",
        target_hash=row["target_hash"],
        recovery_mode=RecoveryMode(row["recovery_mode"]),
        trace_parent=row["trace_parent"],
        original_booking=row["original_booking"],
        intent=Intent(row["intent"]),
        epoch=row["epoch"],
        owner=row["owner"],
        lease_until=from_us(row["lease_until"]),
        attempt_count=row["attempt_count"],
        doubtful_attempts=row["doubtful_attempts"],
        attempt_open=bool(row["attempt_open"]),
        recovery_tries=row["recovery_tries"],
        reason=Reason(row["reason"]) if row["reason"] else None,
        provider_code=row["provider_code"],
        incident=row["incident"],
        answer_bytes=row["answer_bytes"],
        answer_sealed=row["answer_sealed"],
        status_bytes=row["status_bytes"],
        first_sent_time=from_us(row["first_sent_time"]),
        sent_time=from_us(row["sent_time"]),
        doubt_time=from_us(row["doubt_time"]),
        settle_time=from_us(row["settle_time"]),
        next_attempt_time=from_us(row["next_attempt_time"]),
        **result,
    )


def attempt_row(tenant: str, booking_id: str, attempt: Attempt) -> dict[str, Any]:
    """A whole row of the attempt table."""
    return {
        "tenant": tenant,
        "booking_id": booking_id,
        "number": attempt.number,
        "kind": attempt.kind.value,
        "start_time": to_us(attempt.start_time),
        "end_time": to_us(attempt.end_time),
        "fate": attempt.fate.value,
        "proves": attempt.proves.value,
        "reason": attempt.reason.value if attempt.reason else "",
        "http_status": attempt.http_status,
        "provider_code": storable(attempt.provider_code, PROVIDER_CODE_MAX),
        "rule": storable(attempt.rule, RULE_MAX),
        "request_text": storable(attempt.request_text),
        "answer_text": storable(attempt.answer_text),
    }


def attempt_from_row(row: RowMapping) -> Attempt:
    """The inverse of attempt_row."""
    return Attempt(
        number=row["number"],
        kind=AttemptKind(row["kind"]),
        start_time=_time(row["start_time"]),
        end_time=from_us(row["end_time"]),
        fate=Fate(row["fate"]),
        proves=Proves(row["proves"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        http_status=row["http_status"],
        provider_code=row["provider_code"],
        rule=row["rule"],
        request_text=row["request_text"],
        answer_text=row["answer_text"],
    )


def history_from_row(row: RowMapping) -> HistoryEntry:
    """One move of a booking, as stored."""
    return HistoryEntry(
        sequence=row["sequence"],
        from_state=State(row["from_state"]) if row["from_state"] else None,
        to_state=State(row["to_state"]),
        actor=row["actor"],
        time=_time(row["time"]),
        note=row["note"],
    )
