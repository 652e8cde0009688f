"""Card numbers, names, keys and codes, sent through every rpc and fault, stay where they belong."""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from loyalty.v1 import (
    balance_pb2,
    bookings_pb2,
    cards_pb2,
    gift_pb2,
    points_pb2,
    providers_pb2,
    types_pb2,
    wallets_pb2,
)
from loyalty_gateway.sandbox.book import CardSeed, PastEffect
from loyalty_gateway.sandbox.faults import FAULTS
from tests.e2e.caller import (
    BOOKINGS,
    METHODS,
    Reply,
    chf,
    debit,
    learn,
    redeem,
    top_up,
)
from tests.e2e.canaries import (
    CARD_NUMBER,
    CARD_WORD,
    CODE,
    HOLDER,
    TYPED_FORMS,
    VENDOR_KEY,
    journal_places,
    search,
)
from tests.e2e.collector import Collector
from tests.e2e.conftest import UNPROVEN, open_house
from tests.e2e.house import House
from tests.e2e.wanted import BookingRequest

SETTINGS = {
    "RECOVERY__SCHEDULE_S": "[0.5, 1, 2]",
    "RECOVERY__THEN_EVERY_S": "2",
    "PROVIDER__ATTEMPT_TOTAL_S": "2.0",
    "PROVIDER__CONNECT_S": "1.0",
    # Whatever a library would like to say is heard.
    "TELEMETRY__LOG_LEVEL": "debug",
    "TELEMETRY__LOG_FORMAT": "json",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}
Act = Coroutine[Any, Any, Any]

IN_FLIGHT_MAX = 24
BOOKINGS_MIN = 2 * len(FAULTS) * len(BOOKINGS)


@dataclass(slots=True)
class Scene:
    """All that was said, written, logged, traced and counted while the canaries sang."""

    replies: list[tuple[str, Reply]] = field(default_factory=list, repr=False)
    written: dict[str, bytes] = field(default_factory=dict, repr=False)
    """What stays behind: journal, logs, spans and metrics, by place."""

    @property
    def errors(self) -> dict[str, bytes]:
        return {
            f"error of {name}": repr((reply.message, reply.trailers)).encode() + reply.status_bytes
            for name, reply in self.replies
            if not reply.is_ok
        }

    @property
    def answers(self) -> dict[str, bytes]:
        return {
            f"answer of {name}": repr(reply.trailers).encode() + reply.body
            for name, reply in self.replies
            if reply.is_ok
        }

    def told(self, *kinds: str) -> dict[str, bytes]:
        """What stays behind in places of these kinds."""
        return {name: it for name, it in self.written.items() if name.startswith(kinds)}


@dataclass(slots=True)
class Actor:
    """Calls, and keeps every reply for the search."""

    house: House
    scene: Scene

    async def call(
        self,
        request: Message,
        *,
        timeout_s: float = 10.0,
        fault: str = "",
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Reply:
        caller = self.house.caller
        reply = await caller.call(request, timeout_s=timeout_s, fault=fault, metadata=metadata)
        self.scene.replies.append((f"{request.DESCRIPTOR.name}, fault {fault or '-'}", reply))
        return reply

    async def book(self, request: BookingRequest, fault: str = "") -> None:
        """A booking through a fault: heard in doubt, explained, cancelled, heard to its end."""
        await self.call(request, timeout_s=1.5, fault=fault)
        await self.look(request.request_id)
        await self.call(bookings_pb2.CancelBookingRequest(request_id=request.request_id))
        last = await learn(self.house.caller, request, limit_s=60.0)
        self.scene.replies.append((f"the last {request.DESCRIPTOR.name}", last))
        await self.look(request.request_id)

    async def look(self, request_id: str) -> None:
        await self.call(bookings_pb2.GetBookingRequest(request_id=request_id))
        await self.call(bookings_pb2.ExplainBookingRequest(request_id=request_id))

    async def read(self, account: types_pb2.AccountRef, fault: str = "") -> None:
        interval = types_pb2.Interval(
            start_time=Timestamp(seconds=1_780_000_000), end_time=Timestamp(seconds=1_800_000_000)
        )
        page = types_pb2.Page(page_size=1)
        for request in (
            balance_pb2.GetBalanceRequest(account=account),
            cards_pb2.GetCardRequest(account=account),
            cards_pb2.ListTransactionsRequest(account=account, page=page),
            points_pb2.GetPointsStatementRequest(account=account, interval=interval),
            bookings_pb2.ListBookingsRequest(account=account, page=page),
        ):
            await self.call(request, fault=fault)


async def in_turns(*acts: Act) -> None:
    """All of them, a bounded number at a time."""
    slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def one(act: Act) -> None:
        async with slots:
            await act

    await asyncio.gather(*(one(act) for act in acts))


def canary_card(card_id: str) -> CardSeed:
    seconds = 1_785_000_000
    past = (PastEffect("refill", 50_000, 0, seconds), PastEffect("correction", 0, 9_000, seconds))
    return CardSeed(card_id, HOLDER, 50_000, 9_000, past)


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """Everything is done once, then looked at by each test for its own secret."""
    folder = tmp_path_factory.mktemp("e2e") / "house"
    collector = await Collector().start()
    scene = Scene()
    async with open_house(
        folder,
        settings={**SETTINGS, "TELEMETRY__OTLP_ENDPOINT": collector.endpoint},
        player_options=["--slow-s", "3"],
        more_config=UNPROVEN,
        more_cards=[canary_card(CARD_NUMBER), canary_card(CARD_WORD)],
    ) as house:
        actor = Actor(house, scene)
        await book_through_every_fault(actor)
        await ask_a_person(actor)
        await type_into_every_field(actor)
        scene.written["metrics"] = (await house.metrics()).encode()
        scene.written |= in_journal(house)
        house.terminate_server()
        assert await house.server.end() == 0
        # Once more after the end, when nothing waits in a buffer any longer.
        for place, content in in_journal(house).items():
            scene.written[place] = scene.written.get(place, b"") + content
        scene.written["log"] = house.server.words().encode()
        scene.written["spans"] = b"\n".join(collector.raw)
        yield scene
    await collector.stop()


def in_journal(house: House) -> dict[str, bytes]:
    places = journal_places(house.home.journal)
    return {f"journal {place}": content for place, content in places.items()}


async def book_through_every_fault(actor: Actor) -> None:
    """Both canary cards, every operation, every fault, and every way of being refused."""
    cards = (CARD_NUMBER, CARD_WORD)
    acts: list[Act] = []
    for card in cards:
        account = types_pb2.AccountRef(connection="cashassist", id=card)
        for fault in ("", *(fault.name for fault in FAULTS)):
            acts += [actor.book(make(11, card), fault) for make in BOOKINGS.values()]
            acts.append(actor.read(account, fault))
        down = types_pb2.AccountRef(connection="cashassist-down", id=card)
        acts += [
            actor.read(down),
            actor.call(top_up(12, card, connection="cashassist-down")),
            actor.call(top_up(12, card, connection="no-such-connection")),
            # Refused by the vendor: too much, and a card that it does not know.
            actor.call(debit(9_000_000, card)),
            actor.call(top_up(12, card + "0")),
            actor.read(types_pb2.AccountRef(connection="cashassist", id=card + "0")),
            by_token(actor, card),
        ]
    await in_turns(*acts)


async def by_token(actor: Actor, card: str) -> None:
    """The same account by its token, and by a token that is the card's own id."""
    plain = types_pb2.AccountRef(connection="cashassist", id=card)
    found = await actor.call(balance_pb2.GetBalanceRequest(account=plain))
    account = types_pb2.AccountRef(connection="cashassist", token=found.response.account.token)
    await actor.read(account)
    request = redeem(3)
    request.account.CopyFrom(account)
    await actor.call(request)
    preview = debit(13, card)
    preview.options.validate_only = True
    await actor.call(preview)
    preview.amount.CopyFrom(chf(13))
    preview.amount.currency_code = "EUR"
    await actor.call(preview)
    wrong = types_pb2.AccountRef(connection="cashassist", token=card)
    await actor.read(wrong)
    disguised = base64.urlsafe_b64encode(card.encode()).decode()
    await actor.read(types_pb2.AccountRef(connection="cashassist", token=disguised))


async def ask_a_person(actor: Actor) -> None:
    """A doubt that only a person ends, who writes more into the evidence than is wise."""
    for number, card in enumerate((CARD_NUMBER, CARD_WORD)):
        request = debit(14, card, connection="cashassist-unproven")
        metadata = [("x-request-id", TYPED_FORMS[0])]
        reply = await actor.call(request, fault="lost-after", metadata=metadata)
        assert reply.reason == "BOOKING_NEEDS_REVIEW", str(reply)
        name = reply.info.metadata["booking"]
        await actor.look(request.request_id)
        await actor.call(
            bookings_pb2.ResolveBookingRequest(name=name, ask_now=bookings_pb2.AskNow())
        )
        decision = bookings_pb2.Decision(
            outcome=types_pb2.OUTCOME_EXECUTED,
            evidence=f"otp={CODE} {TYPED_FORMS[number]}",
            reason=f"the till shows password: {CODE}, x-api-key: {VENDOR_KEY}",
        )
        await actor.call(bookings_pb2.ResolveBookingRequest(name=name, decision=decision))
        await actor.look(request.request_id)


async def type_into_every_field(actor: Actor) -> None:
    """A card number where none belongs: in each field of text of each rpc, and in metadata."""
    name = (await actor.call(top_up(15))).booking.name
    acts: list[Act] = []
    for make in makers_of_requests(name):
        for path in text_fields(make().DESCRIPTOR):
            for form in TYPED_FORMS:
                typed = make()
                write(typed, path, form)
                acts.append(actor.call(typed))
    for form in TYPED_FORMS:
        acts.append(actor.call(top_up(16), metadata=[("x-request-id", form)]))
        acts.append(actor.call(top_up(16), fault=form))
    await in_turns(*acts)


def makers_of_requests(booking_name: str) -> list[Callable[[], Message]]:
    """An acceptable request of every rpc of the contract, made anew at each call."""
    account = types_pb2.AccountRef(connection="cashassist", id="10480")
    interval = types_pb2.Interval(
        start_time=Timestamp(seconds=1_780_000_000), end_time=Timestamp(seconds=1_800_000_000)
    )
    decision = bookings_pb2.Decision(
        outcome=types_pb2.OUTCOME_EXECUTED, evidence="statement", reason="seen on it"
    )
    makers: list[Callable[[], Message]] = [
        lambda: top_up(15),
        lambda: debit(15),
        lambda: redeem(15),
        lambda: balance_pb2.GetBalanceRequest(account=account),
        lambda: cards_pb2.GetCardRequest(account=account),
        lambda: cards_pb2.ListTransactionsRequest(account=account, page=types_pb2.Page()),
        lambda: points_pb2.GetPointsStatementRequest(account=account, interval=interval),
        *makers_of_newer_requests(account, booking_name),
        lambda: bookings_pb2.GetBookingRequest(name=booking_name),
        lambda: bookings_pb2.ListBookingsRequest(),
        lambda: bookings_pb2.CancelBookingRequest(name=booking_name),
        lambda: bookings_pb2.ExplainBookingRequest(name=booking_name),
        lambda: bookings_pb2.ResolveBookingRequest(name=booking_name, decision=decision),
        lambda: providers_pb2.ListConnectionsRequest(),
        lambda: providers_pb2.GetCapabilitiesRequest(connection="cashassist"),
        lambda: providers_pb2.CheckConnectionRequest(connection="cashassist"),
        lambda: providers_pb2.ProveConnectionRequest(connection="cashassist"),
    ]
    assert {make().DESCRIPTOR.full_name for make in makers} == set(METHODS), "every rpc is called"
    return makers


def makers_of_newer_requests(
    account: types_pb2.AccountRef, booking_name: str
) -> list[Callable[[], Message]]:
    """Of cards, wallets, points and gift cards: each booking under a request_id of its own."""
    here: dict[str, Any] = {"connection": "cashassist"}
    on: dict[str, Any] = {"account": account}
    original = types_pb2.Original(booking=booking_name)
    receipt = cards_pb2.PurchaseReceipt(number="2026-000815", amount=chf(18))
    external = wallets_pb2.LinkedAccount(kind="device", id="d-1")
    login = wallets_pb2.CHALLENGE_PURPOSE_LOG_IN

    def mine() -> dict[str, Any]:
        return {"request_id": str(uuid.uuid4())}

    return [
        lambda: cards_pb2.SearchCardsRequest(**here, scan=cards_pb2.Scan(value="10480")),
        lambda: cards_pb2.SearchCardsRequest(
            **here, attribute=cards_pb2.Attribute(name="number", value="10480"), group_id="4"
        ),
        lambda: cards_pb2.CreateCardRequest(**here, **mine()),
        lambda: cards_pb2.UpdateCardRequest(**on, **mine(), card=cards_pb2.Card(type="GOLD")),
        lambda: cards_pb2.VerifyCardOwnershipRequest(**on, receipt=receipt),
        lambda: cards_pb2.ListTransactionItemsRequest(**on, transaction_reference="tx_1"),
        lambda: wallets_pb2.CreateChallengeRequest(
            **here, **mine(), phone="+41790000000", purpose=login
        ),
        lambda: wallets_pb2.VerifyChallengeRequest(challenge_token="t", code="000000"),
        lambda: wallets_pb2.CreateWalletRequest(**here, **mine()),
        lambda: wallets_pb2.GetWalletRequest(**on),
        lambda: wallets_pb2.UpdateWalletRequest(
            **on, **mine(), profile=types_pb2.Profile(given_name="Max")
        ),
        lambda: wallets_pb2.LinkAccountRequest(**on, **mine(), external=external),
        lambda: wallets_pb2.ListLinkedAccountsRequest(**on),
        lambda: wallets_pb2.VerifyCredentialsRequest(**on, password_hash="h", scheme="bcrypt"),
        lambda: points_pb2.EarnPointsRequest(
            **on, **mine(), purchase=points_pb2.Purchase(amount=chf(18), product_code="FUEL")
        ),
        lambda: points_pb2.ReversePointsRequest(original=original, **mine()),
        lambda: points_pb2.ListExpiringPointsRequest(**on, year=2027),
        lambda: gift_pb2.ActivateGiftCardRequest(**on, **mine()),
        lambda: gift_pb2.GetGiftCardRequest(**on),
        lambda: gift_pb2.TopUpGiftCardRequest(**on, **mine(), amount=chf(18)),
        lambda: gift_pb2.PayWithGiftCardRequest(**on, **mine(), amount=chf(18)),
        lambda: gift_pb2.VoidGiftTransactionRequest(original=original, **mine()),
        lambda: gift_pb2.AddGiftTipRequest(**on, original=original, **mine(), amount=chf(1)),
    ]


def text_fields(descriptor: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of text of a message and of the messages in it."""
    for its in descriptor.fields:
        path = (*above, its.name)
        if its.type == FieldDescriptor.TYPE_STRING or is_map(its):
            yield path
        elif its.message_type is not None and not its.is_repeated:
            yield from text_fields(its.message_type, path)


def is_map(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def write(message: Message, path: tuple[str, ...], text: str) -> None:
    for name in path[:-1]:
        message = getattr(message, name)
    field = message.DESCRIPTOR.fields_by_name[path[-1]]
    if is_map(field):
        getattr(message, path[-1]).update({"note": text, text: "note"})
    elif field.is_repeated:
        getattr(message, path[-1]).append(text)
    else:
        setattr(message, path[-1], text)


# --- what may be seen where ---------------------------------------------------------------


async def test_the_canaries_were_everywhere_they_could_be(scene: Scene) -> None:
    assert len(scene.replies) > 800
    assert len(scene.errors) > 50
    assert {name.partition(",")[0] for name, _ in scene.replies} >= {
        full_name.rpartition(".")[2] for full_name in METHODS
    }
    assert scene.written["log"].count(b"\n") > 2
    assert scene.written["spans"].count(b"booking.recovery") >= BOOKINGS_MIN // 2
    assert b"loyalty_rpc_duration_seconds" in scene.written["metrics"]
    assert len(scene.told("journal booking.")) >= 30, "every column of the table"
    assert scene.written["journal booking.booking_id"].count(b"\n") >= BOOKINGS_MIN
    assert {"journal attempt.answer_text", "journal history.note"} <= set(scene.written)
    # Where it may be seen it is seen, so the search would find it elsewhere too.
    assert any(search(HOLDER, scene.answers))
    masked = "•" * (len(CARD_NUMBER) - 4) + CARD_NUMBER[-4:]
    assert search(masked, scene.told("journal booking.masked_id"))


@pytest.mark.parametrize("secret", [CARD_NUMBER, CARD_WORD])
async def test_the_id_of_an_account_is_nowhere_in_any_form(scene: Scene, secret: str) -> None:
    assert_nowhere(secret, scene.written | scene.errors | scene.answers)


async def test_the_name_of_a_holder_is_in_the_answer_to_get_card_alone(scene: Scene) -> None:
    others = {name: it for name, it in scene.answers.items() if "GetCardRequest" not in name}
    assert_nowhere(HOLDER, scene.written | scene.errors | others)


async def test_the_key_for_the_vendor_is_nowhere(scene: Scene) -> None:
    assert_nowhere(VENDOR_KEY, scene.written | scene.errors | scene.answers)


async def test_a_code_that_an_operator_writes_down_is_nowhere(scene: Scene) -> None:
    assert_nowhere(CODE, scene.written | scene.errors | scene.answers)


@pytest.mark.parametrize("form", TYPED_FORMS)
async def test_a_card_number_typed_into_a_field_is_never_logged_traced_or_counted(
    scene: Scene, form: str
) -> None:
    assert_nowhere(form, scene.told("log", "spans", "metrics"))


@pytest.mark.parametrize("form", TYPED_FORMS)
async def test_a_card_number_typed_into_a_field_comes_back_in_no_error(
    scene: Scene, form: str
) -> None:
    assert_nowhere(form, scene.errors)


@pytest.mark.parametrize("form", TYPED_FORMS)
async def test_a_card_number_typed_into_a_field_is_in_no_column(scene: Scene, form: str) -> None:
    assert_nowhere(form, scene.told("journal"))


def assert_nowhere(secret: str, places: Mapping[str, bytes]) -> None:
    """Fails with one line for each place in which the secret is to be seen."""
    first = {hit.place: hit for hit in reversed(search(secret, places))}
    lines = [f"{hit.place}, {hit.form}: {hit.near!r}" for hit in first.values()]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("written", ["as is", "upper", "hex", "base64", "inside base64", "UTF-16"])
def test_the_search_finds_a_planted_secret(written: str) -> None:
    plain = CARD_WORD.encode()
    planted = {
        "as is": plain.lower(),
        "upper": plain.upper(),
        "hex": plain.hex().encode(),
        "base64": base64.b64encode(plain),
        "inside base64": base64.urlsafe_b64encode(b'{"id":"' + plain + b'"}'),
        "UTF-16": CARD_WORD.encode("utf-16-le"),
    }[written]

    assert search(CARD_WORD, {"a place": b"before " + planted + b" after"})
    assert search(CARD_WORD, {"a place": b"nothing"}) == []
