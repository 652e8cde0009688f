"""Every booking that can be reads back from either database exactly as it was written."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, MINOR_MAX, Amount, Money, Points
from loyalty_gateway.domain.booking import (
    Attempt,
    AttemptKind,
    Booking,
    CreatedAccount,
    Intent,
    State,
)
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Proves, Reason
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    Balance,
    EntryMode,
    External,
    InDoubtPolicy,
    Operation,
    Order,
    Person,
    Purchase,
    ReceiptLine,
    RecoveryMode,
    Reference,
    Sale,
)
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.orders import decode_private, encode_private
from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.rows import (
    attempt_from_row,
    attempt_row,
    booking_from_row,
    booking_row,
    from_us,
    mutable_row,
    to_us,
)
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.store import Store
from tests.journal.rows import a_booking, succeeded
from tests.postgres import PostgresServer

_characters = st.characters(exclude_categories=["Cs"])
# PostgreSQL has no NUL in a column of its own; in a JSON text it is spelled out.
_without_nul = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(_characters, max_size=40)
plain = st.text(_without_nul, max_size=36)
names = st.text(_without_nul, min_size=1, max_size=36)
times = st.integers(0, 253_402_300_799_999_999).map(
    lambda microseconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
)
counts = st.integers(0, 10_000)
monies = st.builds(
    Money, st.sampled_from(sorted(CURRENCY_EXPONENTS)), st.integers(-MINOR_MAX, MINOR_MAX)
)
points = st.builds(Points, st.integers(-MINOR_MAX, MINOR_MAX), plain)
amounts: st.SearchStrategy[Amount] = st.one_of(monies, points)
sales = st.builds(Sale, **dict.fromkeys(Sale.__slots__, texts))
pairs = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
persons = st.builds(
    Person,
    **dict.fromkeys(("display_name", "given_name", "family_name", "phone", "email"), texts),
    birth_date=st.none() | st.dates(),
    attributes=pairs,
)
purchases = st.builds(
    Purchase,
    amount=monies,
    product_code=texts,
    sub_product_code=texts,
    time=st.none() | times,
    attributes=pairs,
)
orders = st.builds(
    Order,
    operation=st.sampled_from(sorted(BOOKING_OPERATIONS)),
    account_id=st.just(""),
    asked=st.none() | amounts,
    allow_partial=st.booleans(),
    may_take_part=st.booleans(),
    carries_tag=st.booleans(),
    money_value=st.none() | monies,
    redemption_kind=texts,
    sale=sales,
    in_doubt_policy=st.sampled_from(InDoubtPolicy),
    entry_mode=st.none() | st.sampled_from(EntryMode),
    activate=st.none() | st.booleans(),
    card_type=texts,
    purchase=st.none() | purchases,
    update_mask=st.lists(texts, max_size=3).map(tuple),
)
privates = st.builds(
    Order,
    operation=st.just(Operation.CREATE_WALLET),
    person=st.none() | persons,
    external=st.none() | st.builds(External, texts, texts),
    proof=texts,
    prepared=pairs,
)
created = st.none() | st.builds(CreatedAccount, texts, texts, st.binary(max_size=32))


@st.composite
def bookings(draw: st.DrawFn) -> Booking:
    """A booking in any state, with anything in it that the journal stores."""
    order = draw(orders)
    applied: Amount | None = None
    if draw(st.booleans()):
        value = draw(st.integers(0, MINOR_MAX))
        match order.asked:
            case Money(currency):
                applied = Money(currency, value)
            case Points(_, unit):
                applied = Points(value, unit)
            case None:
                applied = draw(amounts)
    state = draw(st.sampled_from(State))
    return Booking(
        tenant=draw(names),
        booking_id=draw(names),
        request_id=draw(names),
        state=state,
        create_time=draw(times),
        operation=order.operation,
        connection=draw(plain),
        provider=draw(plain),
        account_hash=draw(st.binary(max_size=32)),
        account_sealed=draw(st.none() | st.binary(max_size=64)),
        private_sealed=draw(st.none() | st.binary(max_size=64)),
        account_token=draw(plain),
        masked_id=draw(plain),
        fingerprint=draw(st.binary(max_size=33)),
        order=order,
        outbound_id=draw(names),
        target_hash=draw(st.binary(max_size=16)),
        recovery_mode=draw(st.sampled_from(RecoveryMode)),
        trace_parent=draw(plain),
        original_booking=draw(plain),
        intent=draw(st.sampled_from(Intent)),
        epoch=draw(st.integers(1, 2**62)),
        owner=draw(plain),
        lease_until=draw(st.none() | times),
        attempt_count=draw(counts),
        doubtful_attempts=draw(counts),
        attempt_open=draw(st.booleans()),
        recovery_tries=draw(counts),
        incident=draw(plain),
        reason=draw(st.none() | st.sampled_from(Reason)),
        provider_code=draw(plain),
        applied=applied,
        balances_after=tuple(
            draw(st.lists(st.builds(Balance, amounts, st.none() | times), max_size=3))
        ),
        references=tuple(draw(st.lists(st.builds(Reference, texts, texts), max_size=3))),
        receipt_lines=tuple(
            draw(st.lists(st.builds(ReceiptLine, texts, texts, st.none() | monies), max_size=3))
        ),
        answer_bytes=draw(
            st.binary(max_size=64) if state is State.SUCCEEDED else st.none() | st.binary()
        ),
        answer_sealed=draw(st.none() | st.binary(max_size=64)),
        created=draw(created),
        not_found_times=tuple(draw(st.lists(times, max_size=3))),
        is_matched=draw(st.booleans()),
        not_before=draw(st.none() | times.filter(lambda time: time.year > 1970)),
        status_bytes=draw(st.none() | st.binary(max_size=64)),
        first_sent_time=draw(st.none() | times),
        sent_time=draw(st.none() | times),
        doubt_time=draw(st.none() | times),
        settle_time=draw(st.none() | times),
        next_attempt_time=draw(st.none() | times),
    )


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def connection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Store, Connection]]:
    """A store and a connection of it whose transactions are the test's."""
    if request.param == "sqlite":
        store: Store = SqliteStore(tmp_path_factory.mktemp("rows") / "journal")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        dsn = server.create_database()
        store = PostgresStore(dsn)
    store.start(b"c" * 16)
    engine = store.engine
    if store.is_shared:
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        yield store, connection
    store.stop()
    if store.is_shared:
        server.drop_database(dsn)


def stored(connection: tuple[Store, Connection], booking: Booking) -> Booking:
    """Through the store's own statement, since each one carries rows in its own way."""
    store, line = connection
    try:
        store.insert(line, [booking_row(booking)], [])
        row = line.execute(select(schema.booking)).mappings().one()
        return booking_from_row(row)
    finally:
        line.rollback()


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(booking=bookings())
def test_a_booking_reads_back_exactly_as_it_was_written(
    connection: tuple[Store, Connection], booking: Booking
) -> None:
    assert stored(connection, booking) == booking


@given(order=privates)
def test_the_private_part_of_an_order_reads_back_exactly(order: Order) -> None:
    bare = Order(order.operation)

    assert replace(bare, **decode_private(encode_private(order))) == order


def test_an_order_without_anything_private_has_nothing_to_seal() -> None:
    assert encode_private(Order(Operation.DEBIT_BALANCE)) == ""


def test_a_tombstone_reads_back_exactly(connection: tuple[Store, Connection]) -> None:
    tombstone = Booking(
        tenant="default",
        booking_id="b-1",
        request_id="sale-0001",
        state=State.NOT_EXECUTED,
        create_time=datetime(2026, 11, 21, tzinfo=UTC),
        reason=Reason.CANCELLED_BEFORE_ARRIVAL,
    )
    found = stored(connection, tombstone)

    assert found == tombstone
    assert found.is_tombstone


@pytest.mark.parametrize("value", [MINOR_MAX, -MINOR_MAX, 1, 2**53 + 1])
def test_no_amount_passes_through_a_float(connection: tuple[Store, Connection], value: int) -> None:
    """2 ** 53 + 1 is the first whole number that a float cannot hold."""
    order = Order(next(iter(BOOKING_OPERATIONS)), "", Money("CHF", value))
    booking = a_booking(order=order, operation=order.operation, applied=Money("CHF", value))
    found = stored(connection, booking)

    assert (found.asked, found.applied) == (Money("CHF", value), Money("CHF", value))
    assert isinstance(found.applied, Money) and type(found.applied.minor) is int


@given(
    st.builds(
        Attempt,
        number=st.integers(1, 10_000),
        kind=st.sampled_from(AttemptKind),
        start_time=times,
        end_time=st.none() | times,
        fate=st.sampled_from(Fate),
        proves=st.sampled_from(Proves),
        reason=st.none() | st.sampled_from(Reason),
        http_status=st.none() | st.integers(100, 599),
        provider_code=plain,
        rule=plain,
        request_text=plain,
        answer_text=plain,
    )
)
def test_an_attempt_reads_back_exactly_as_it_was_written(attempt: Attempt) -> None:
    assert attempt_from_row(attempt_row("default", "b-1", attempt)) == attempt  # type: ignore[arg-type]


@given(times)
def test_times_are_kept_to_the_microsecond(time: datetime) -> None:
    assert from_us(to_us(time)) == time


def test_a_change_rewrites_every_column_that_may_change_and_no_other() -> None:
    booking = a_booking()

    assert set(mutable_row(booking)) == set(schema.MUTABLE)
    assert set(booking_row(booking)) == set(schema.booking.c.keys())


@pytest.mark.parametrize(
    "part",
    [
        {"account_id": "6299123412341234"},
        {"person": Person(display_name="Max Muster")},
        {"external": External("google", "max@example.com")},
        {"proof": "vendor's proof"},
        {"prepared": (("pass", "17"),)},
    ],
)
def test_nothing_personal_can_be_written_plain_by_mistake(part: dict[str, Any]) -> None:
    booking = a_booking()
    assert booking.order is not None
    careless = replace(booking, order=replace(booking.order, **part))
    with pytest.raises(AssertionError):
        booking_row(careless)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("answer_bytes", b"anzwer"),
        ("answer_sha256", b"0" * 32),
        ("answer_sha256", None),
    ],
)
def test_a_stored_answer_that_was_damaged_is_never_repeated(column: str, value: object) -> None:
    row = {**booking_row(succeeded(a_booking()).after), column: value}
    with pytest.raises(LoyaltyError) as caught:
        booking_from_row(row)  # type: ignore[arg-type]

    assert caught.value.reason is Reason.DATA_LOSS
    assert caught.value.fate is None


def test_a_stored_refusal_that_was_damaged_is_never_repeated() -> None:
    declined = replace(a_booking(), state=State.DECLINED, status_bytes=b"refused")
    row = {**booking_row(declined), "status_bytes": b"refuzed"}
    with pytest.raises(LoyaltyError) as caught:
        booking_from_row(row)  # type: ignore[arg-type]

    assert caught.value.reason is Reason.DATA_LOSS


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("state", "ELSEWHERE"),
        ("reason", "A_REASON_OF_A_NEWER_PROGRAM"),
        ("recovery_mode", "TELEPATHY"),
        ("operation", "Cards.Eat"),
        ("order_content", "{"),
        ("order_content", "{}"),
        ("order_content", '{"sale":{},"in_doubt_policy":"RESOLVE","money_value":["points","",1]}'),
        ("order_content", '{"sale": {"shoe_size": "44"}}'),
        ("result_content", "[]"),
        ("order_content", '{"sale":{},"in_doubt_policy":"RESOLVE","purchase":{"amount":null}}'),
        ("create_time", "yesterday"),
    ],
)
def test_a_row_that_cannot_be_understood_is_data_loss_and_names_its_booking(
    column: str, value: object
) -> None:
    booking = a_booking()
    row = {**booking_row(booking), column: value}
    with pytest.raises(LoyaltyError) as caught:
        booking_from_row(row)  # type: ignore[arg-type]

    assert caught.value.reason is Reason.DATA_LOSS
    assert caught.value.booking == booking.name
