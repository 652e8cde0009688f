"""The suite catches what it is there for: defects planted in an adapter that is right otherwise."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from loyalty_gateway.conformance.stage import Scene
from loyalty_gateway.conformance.suite import cases_of, try_case
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.port import (
    Adapter,
    Book,
    Executed,
    ProviderError,
    Send,
    StatusRow,
)
from tests.conformance.test_cashassist import SUBJECT

Spoil = Callable[[Book], Book]


def resends_under_a_new_id(book: Book) -> Book:
    """A resend that the vendor cannot know for one."""

    async def call(send: Send) -> Executed:
        is_first = send.attempt_number == 1
        return await book(send if is_first else replace(send, outbound_id=str(uuid.uuid4())))

    return call


def takes_unknown_for_declined(book: Book) -> Book:
    """What nobody knows becomes "the vendor said no"."""

    async def call(send: Send) -> Executed:
        try:
            return await book(send)
        except ProviderError as error:
            if error.status.fate is Fate.UNKNOWN:
                error.status = StatusRow(
                    Reason.PROVIDER_DECLINED, Fate.NOT_EXECUTED, is_refusal=True
                )
            raise

    return call


def counts_in_floats(book: Book) -> Book:
    """0.29 times a hundred is 28 to a computer that counts in binary fractions."""

    async def call(send: Send) -> Executed:
        asked = send.order.asked
        assert isinstance(asked, Money)
        minor = int(asked.minor / 100 * 100)
        return await book(
            replace(send, order=replace(send.order, asked=Money(asked.currency, minor)))
        )

    return call


def echoes_the_vendor(book: Book) -> Book:
    """The vendor's own words, unread, in a text for people."""

    async def call(send: Send) -> Executed:
        done = await book(send)
        return replace(done, answer_text=f"{send.order.account_id}: {done.answer_text}")

    return call


@dataclass(frozen=True, slots=True)
class Plant:
    """A defect and the duties that it breaks."""

    spoil: Spoil
    broken: frozenset[str]


PLANTS = (
    Plant(resends_under_a_new_id, frozenset({"same-request", "recovery"})),
    Plant(
        takes_unknown_for_declined,
        frozenset(
            "listed-codes unlisted-code contradiction lost-answer late-answer unreadable-answer"
            " failing-vendor no-redirect recovery".split()
        ),
    ),
    Plant(counts_in_floats, frozenset({"exact-amount"})),
    Plant(echoes_the_vendor, frozenset({"nothing-secret"})),
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.spoil.__name__)
def test_a_planted_defect_breaks_exactly_the_duties_that_are_about_it(plant: Plant) -> None:
    def open_spoilt(connection: str, settings: Mapping[str, Any], profile: str) -> Adapter:
        adapter = SUBJECT.open(connection, settings, profile)
        offer = adapter.operations[Operation.DEBIT_BALANCE]
        call = plant.spoil(cast(Callable[[Send], Awaitable[Executed]], offer.call))
        adapter.operations = {
            **adapter.operations,
            Operation.DEBIT_BALANCE: replace(offer, call=call),
        }
        return adapter

    subject = replace(SUBJECT, open=open_spoilt)
    scene = Scene(subject)
    scene.start()
    broken = set()
    try:
        for case in cases_of(subject):
            if case.operation is Operation.DEBIT_BALANCE:
                try:
                    try_case(scene, case)
                except AssertionError:
                    broken.add(case.duty.name)
    finally:
        scene.stop()
    assert broken == plant.broken
