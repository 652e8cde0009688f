"""A canary: an account id that is booked on in every way there is, and is found nowhere."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from loyalty_gateway.booking.calls import AccountKey, BookingKey, Decision
from loyalty_gateway.domain.errors import Fate
from loyalty_gateway.providers.port import Executed, ProviderError, Send
from tests.booking.house import KEYRING, QUICK, TENANT, in_s, open_house
from tests.booking.vendor import (
    Act,
    FakeVendor,
    books,
    breaks,
    contradicts,
    is_not_reached,
    loses_the_answer,
    refuses,
)

CANARY = "6299555544443333"


def talkative(act: Act) -> Act:
    """An adapter that forgets to mask what it shows of the call."""

    async def talk(vendor: FakeVendor, send: Send) -> Executed:
        words = f'{{"card": "{send.order.account_id}"}}'
        try:
            executed = await act(vendor, send)
        except ProviderError as error:
            error.request_text = error.answer_text = words
            raise
        return replace(executed, request_text=words, answer_text=words)

    return talk


def everything_in(folder: Path) -> bytes:
    """The journal's file with whatever stands beside it."""
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_a_plain_account_id_stands_in_no_column_log_or_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acts = [books, refuses(), loses_the_answer, is_not_reached, contradicts, breaks]
    vendor = FakeVendor(*[talkative(act) for act in acts], otherwise=talkative(books))
    shown: list[str] = []
    with caplog.at_level(logging.DEBUG):
        async with open_house(tmp_path / "journal", vendor, policy=QUICK) as house:
            for number, _ in enumerate(acts):
                request_id = f"sale-{number:04}"
                call = house.book(request_id, account=AccountKey("main", plain_id=CANARY))
                (ended,) = await asyncio.gather(call, return_exceptions=True)
                shown.append(f"{ended} {vars(ended) if isinstance(ended, Exception) else ended}")
                await house.book(request_id="other-" + request_id, validate_only=True)
                key = BookingKey(request_id=request_id)
                shown.append(str(await house.engine.explain(TENANT, key)))
            token = KEYRING.token(TENANT, "main", CANARY)
            await house.book("by-token", account=AccountKey("main", token=token))
            reviewed = await house.get("sale-0004")
            decision = Decision(Fate.EXECUTED, CANARY, f"on {CANARY}")
            await house.engine.resolve(TENANT, reviewed.booking_id, decision, "anna", in_s(5))
        written = everything_in(tmp_path)

    assert {effect.account_id for effect in vendor.effects} == {CANARY}
    assert len(vendor.effects) >= 4
    assert b"sale-0000" in written, "the journal was read at all"
    assert CANARY.encode() not in written
    assert CANARY not in caplog.text
    assert CANARY not in "".join(shown)
