"""What every played vendor shares: the rule of a key, faults, open bookings, chaos, settings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loyalty_gateway.sandbox import Settings
from loyalty_gateway.sandbox.book import AlreadyReversed, Book, Effect
from loyalty_gateway.sandbox.faults import FAULT_BY_NAME, draw
from loyalty_gateway.sandbox.settings import Chaos
from tests.sandbox.toy_vendor import CARD, OPENED_WITH_MINOR, ToyPlayer, ToySettings, body
from tests.sandbox.vendor_client import Clock, until

Book_ = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
async def toy(tmp_path: Path, clock: Clock) -> AsyncIterator[ToyPlayer]:
    player = ToyPlayer(tmp_path, now=clock)
    await player.start()
    yield player
    assert player.ledger.audit() == []
    await player.stop()


@pytest.fixture
async def book(toy: ToyPlayer) -> AsyncIterator[Book_]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:

        async def call(data: bytes, fault: str | None = None) -> tuple[int, Any]:
            headers = {"X-Sandbox-Fault": fault} if fault else {}
            async with session.post(f"{toy.origin}/debit", data=data, headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)

        yield call


async def lose(book: Book_, data: bytes, fault: str) -> None:
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await book(data, fault)


def booked(player: ToyPlayer) -> list[Effect]:
    return player.ledger.effects(with_seed=False)


class TestTheRuleOfAKey:
    async def test_a_vendor_names_its_own_rule(self, toy: ToyPlayer, book: Book_) -> None:
        for _ in range(2):
            assert (await book(body(ticket="again")))[0] == 200
        assert len(booked(toy)) == 2

    async def test_replays_gives_the_first_answer_again(self, toy: ToyPlayer, book: Book_) -> None:
        toy.stage.settings = ToySettings(repeat="replays")
        first = await book(body(ticket="replay"))
        assert await book(body(ticket="replay")) == first
        assert len(booked(toy)) == 1

    async def test_refuses_refuses_the_repeat_and_the_other_body(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        toy.stage.settings = ToySettings(repeat="refuses")
        assert (await book(body(ticket="once")))[0] == 200
        for repeat in (body(ticket="once"), body("2.00", ticket="once")):
            assert await book(repeat) == (409, {"code": "TOY-9"})
        assert len(booked(toy)) == 1

    @pytest.mark.parametrize(("keeps", "status"), [(True, 409), (False, 200)])
    async def test_whether_a_declined_booking_has_used_its_key_can_be_turned(
        self, toy: ToyPlayer, book: Book_, keeps: bool, status: int
    ) -> None:
        toy.stage.settings = ToySettings(repeat="refuses", keeps_refused_keys=keeps)
        assert (await book(body("1000.00", ticket="declined")))[0] == 422
        assert booked(toy) == []
        assert (await book(body("1.00", ticket="declined")))[0] == status

    async def test_without_a_key_every_request_books_and_has_a_key_of_its_own_in_the_log(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        toy.stage.settings = ToySettings(repeat="replays")
        for _ in range(2):
            assert (await book(body()))[0] == 200
        keys = [row.idempotency_key for row in toy.stage.exchanges]
        assert len(set(keys)) == 2
        assert sorted(keys, key=str) == sorted((e.idempotency_key for e in booked(toy)), key=str)

    async def test_without_a_key_a_fault_fires_on_every_request(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        for _ in range(2):
            assert (await book(body(), "500-before"))[0] == 500
        assert booked(toy) == []

    async def test_repeats_at_once_all_book_where_keys_count_for_nothing(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        replies = await asyncio.gather(*(book(body(ticket="crowd")) for _ in range(10)))
        assert [status for status, _ in replies] == [200] * 10
        assert len(booked(toy)) == 10

    async def test_a_decline_takes_back_what_the_booking_had_written(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        status, answer = await book(body("1000.00", ticket="all"))
        assert (status, answer) == (422, {"code": "TOY-3"})
        assert booked(toy) == []
        assert toy.ledger.things() == []


class TestLaterAndNever:
    async def test_a_late_effect_lands_after_its_lost_answer(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        toy.stage.settings = ToySettings(repeat="refuses", late_effect_s=1.0)
        await lose(book, body(ticket="late"), "late-effect")
        assert booked(toy) == []
        # It is on its way, and a vendor that knows keys says so.
        assert (await book(body(ticket="late")))[0] == 409
        await until(lambda: len(booked(toy)) == 1)
        assert (await book(body(ticket="late")))[0] == 409
        assert len(booked(toy)) == 1

    async def test_where_keys_count_for_nothing_the_late_effect_comes_on_top(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        toy.stage.settings = ToySettings(late_effect_s=0.1)
        await lose(book, body(ticket="late-again"), "late-effect")
        assert (await book(body(ticket="late-again"), "late-effect"))[0] == 200
        await until(lambda: len(booked(toy)) == 2)

    async def test_a_player_that_stops_first_lets_the_late_effect_be(self, tmp_path: Path) -> None:
        player = ToyPlayer(tmp_path / "stops", settings=ToySettings(late_effect_s=600))
        await player.start()
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.post(
                    f"{player.origin}/debit",
                    data=body(),
                    headers={"X-Sandbox-Fault": "late-effect"},
                )
        await player.stop()
        again = ToyPlayer(tmp_path / "stops")
        await again.start()
        assert booked(again) == []
        await again.stop()

    async def test_a_reset_forgets_what_was_to_happen_later(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        toy.stage.settings = ToySettings(repeat="refuses", late_effect_s=600)
        await lose(book, body(ticket="late"), "late-effect")
        await toy.reset()
        assert not toy.stage.running
        assert (await book(body(ticket="late")))[0] == 200
        assert len(booked(toy)) == 1

    async def test_an_open_booking_is_repeated_by_the_rule_of_its_key(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        open_answer = (200, {"state": "pending"})
        toy.stage.settings = ToySettings(repeat="replays", late_effect_s=600)
        assert await book(body(ticket="open"), "pending-then-success") == open_answer
        assert await book(body(ticket="open")) == open_answer
        toy.stage.settings = ToySettings(repeat="refuses", late_effect_s=600)
        assert (await book(body(ticket="open")))[0] == 409

    @pytest.mark.parametrize(
        ("fault", "state", "effects"),
        [("pending-then-success", "done", 1), ("pending-then-failure", "failed", 0)],
    )
    async def test_an_open_booking_ends_as_its_fault_says(
        self, toy: ToyPlayer, book: Book_, fault: str, state: str, effects: int
    ) -> None:
        toy.stage.settings = ToySettings(late_effect_s=1.0)
        assert await book(body(ticket="open"), fault) == (200, {"state": "pending"})
        assert toy.ledger.find_thing("order", "open") == {"state": "pending"}
        assert booked(toy) == []
        await until(lambda: toy.ledger.find_thing("order", "open") == {"state": state})
        assert len(booked(toy)) == effects

    @pytest.mark.parametrize(
        "fault", ["contradictory-after", "wrong-echo-after", "unauthorized-once"]
    )
    async def test_a_fault_that_the_vendor_has_no_words_for_is_unknown(
        self, toy: ToyPlayer, book: Book_, fault: str
    ) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{toy.origin}/debit", data=body(), headers={"X-Sandbox-Fault": fault}
            ) as answer,
        ):
            assert answer.status == 400
            assert f"does not know '{fault}'" in await answer.text()
            controls = await session.get(f"{toy.control_url}/faults")
            named = {row["name"] for row in (await controls.json())["faults"]}
        assert fault not in named
        assert named >= {"pending-then-success", "late-effect", "lost-before"}
        assert booked(toy) == []

    async def test_a_first_request_can_be_refused_as_if_it_were_a_repeat(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        assert await book(body(ticket="first"), "refused-first") == (409, {"code": "TOY-9"})
        assert booked(toy) == []
        assert (await book(body(ticket="first"), "refused-first"))[0] == 200

    async def test_a_booking_without_a_key_cannot_be_refused_as_a_repeat(
        self, toy: ToyPlayer, book: Book_
    ) -> None:
        with pytest.raises(ValueError, match="Expecting value"):
            await book(body(), "refused-first")
        assert toy.stage.exchanges[-1].status == 400


class TestChaos:
    async def _fired(self, toy: ToyPlayer, book: Book_, tickets: list[str]) -> dict[str, str]:
        async def one(ticket: str) -> None:
            try:
                await book(body("0.01", ticket=ticket))
            except (aiohttp.ClientError, ValueError):
                return

        await asyncio.gather(*(one(ticket) for ticket in tickets))
        return {str(row.idempotency_key): row.fault for row in toy.stage.exchanges if row.fault}

    async def test_a_seed_replays_whatever_the_order(self, toy: ToyPlayer, book: Book_) -> None:
        tickets = [f"chaos-{number}" for number in range(60)]
        faults = ("lost-before", "lost-after", "500-after", "503-after", "bad-utf8-after")
        toy.stage.settings = ToySettings(chaos=Chaos(7, 0.3, faults))
        first = await self._fired(toy, book, tickets)
        await toy.reset()
        toy.stage.settings = ToySettings(chaos=Chaos(7, 0.3, faults))
        assert await self._fired(toy, book, tickets[::-1]) == first
        assert 8 <= len(first) <= 30
        assert set(first.values()) == set(faults)
        await toy.reset()
        toy.stage.settings = ToySettings(chaos=Chaos(8, 0.3, faults))
        assert await self._fired(toy, book, tickets) != first

    @pytest.mark.parametrize("fault", [None, "lost-before"])
    async def test_only_a_first_attempt_is_refused_as_a_repeat_by_chance(
        self, toy: ToyPlayer, book: Book_, fault: str | None
    ) -> None:
        """A later one would hear that the one before was booked, which it was not."""
        toy.stage.settings = ToySettings(chaos=Chaos(7, 1.0, ("refused-first",)))
        if fault:
            await lose(book, body(ticket="first"), fault)
        else:
            assert await book(body(ticket="first")) == (409, {"code": "TOY-9"})
        assert booked(toy) == []
        assert (await book(body(ticket="first")))[0] == 200

    def test_a_ratio_of_nothing_and_of_all(self) -> None:
        names = tuple(FAULT_BY_NAME)
        attempts = [("debit", "key", number) for number in range(100)]
        assert {draw(1, 0.0, names, *attempt) for attempt in attempts} == {None}
        assert None not in {draw(1, 1.0, names, *attempt) for attempt in attempts}
        assert {draw(1, 1.0, (), *attempt) for attempt in attempts} == {None}


class TestSettings:
    async def test_a_vendor_has_settings_of_its_own(self, toy: ToyPlayer) -> None:
        async with aiohttp.ClientSession() as session:

            async def change(wish: object) -> tuple[int, Any]:
                url = f"{toy.control_url}/settings"
                async with session.post(url, json=wish) as answer:
                    return answer.status, await answer.json()

            status, shown = await change({"token_lifetime_s": 5, "repeat": "refuses"})
            assert (status, shown["token_lifetime_s"], shown["repeat"]) == (200, 5, "refuses")
            status, shown = await change({"chaos": {"seed": 1, "ratio": 0.5}})
            assert shown["chaos"] == {"seed": 1, "ratio": 0.5, "faults": None}
            for wish, words in (
                ({"token_lifetime_s": 0}, "token_lifetime_s is a whole number from 1 up"),
                ({"token_lifetime_s": True}, "token_lifetime_s is a whole number from 1 up"),
                ({"repeat": "maybe"}, "repeat is replays or refuses or books_again"),
                ({"keeps_refused_keys": 1}, "keeps_refused_keys is true or false"),
                ({"chaos": {"seed": 1}}, "an object with"),
                ({"chaos": {"seed": 1, "ratio": 2}}, "ratio is a number from 0 to 1"),
                ({"chaos": {"seed": 1, "ratio": 1, "faults": ["no"]}}, "unknown faults"),
                ({"chaos": {"seeds": 1}}, "unknown settings"),
                ({"chaos": 5}, "chaos is null or an object"),
                ({"query_answers": True}, "unknown settings"),
            ):
                status, shown = await change(wish)
                assert status == 400
                assert words in shown["error"]
            assert (await (await session.get(f"{toy.control_url}/settings")).json())[
                "token_lifetime_s"
            ] == 5

    def test_another_vendors_settings_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="toy takes ToySettings"):
            ToyPlayer(tmp_path, settings=Settings())


class TestBooks:
    async def test_cards_effects_and_things_carry_what_only_the_vendor_knows(
        self, toy: ToyPlayer
    ) -> None:
        def work(book: Book) -> Effect:
            card = book.create_card("7002", "New", detail={"status": "Inactive"})
            book.update_card("7002", detail={"tier": "gold"}, is_blocked=True)
            effect = book.post(
                card,
                "earn",
                amount_minor=500,
                points=20,
                booked_at_ms=1_790_000_000_123,
                detail={"guid": "AB-1", "shop": "x"},
            )
            book.put_thing("otp", "7002", {"code": 123})
            book.put_thing("otp", "7002", {"code": 456})
            return book.update_effect(effect.number, {"shop": "y"})

        effect = await toy.ledger.run(work)
        card = toy.ledger.find_card("7002")
        assert card is not None
        assert card.detail == {"status": "Inactive", "tier": "gold"}
        assert (card.is_blocked, card.balance_minor, card.points) == (True, 500, 20)
        assert toy.ledger.cards(detail={"tier": "gold"}) == [card]
        assert effect.detail == {"guid": "AB-1", "shop": "y"}
        assert toy.ledger.effects(detail={"guid": "AB-1"}) == [effect]
        assert toy.ledger.effects(detail={"guid": "AB-2"}) == []
        assert toy.ledger.effects(card_id=CARD)[0].detail == {"desk": 3}
        assert toy.ledger.things("otp") == [("otp", "7002", {"code": 456})]
        assert await toy.ledger.run(lambda book: book.drop_thing("otp", "7002"))
        assert toy.ledger.find_thing("otp", "7002") is None

    async def test_an_interval_is_exact_to_the_millisecond(self, toy: ToyPlayer) -> None:
        def work(book: Book) -> None:
            card = book.find_card(CARD)
            assert card is not None
            for at_ms in (1_790_000_000_000, 1_790_000_000_001, 1_790_000_000_999):
                book.post(card, "debit", amount_minor=-1, points=0, booked_at_ms=at_ms)

        await toy.ledger.run(work)
        found = toy.ledger.effects(from_s=1_790_000_000.001, to_s=1_790_000_000.999)
        assert [effect.booked_at_ms for effect in found] == [1_790_000_000_001]

    async def test_an_effect_is_undone_once_unless_the_vendor_undoes_twice(
        self, toy: ToyPlayer
    ) -> None:
        def post(book: Book, amount_minor: int, **more: Any) -> Effect:
            card = book.find_card(CARD)
            assert card is not None
            return book.post(card, "x", amount_minor=amount_minor, points=0, booked_at_ms=0, **more)

        first = await toy.ledger.run(lambda book: post(book, -100))
        undo = await toy.ledger.run(lambda book: post(book, 100, reverses=first.number))
        assert toy.ledger.effects(reverses=first.number) == [undo]
        with pytest.raises(AlreadyReversed):
            await toy.ledger.run(lambda book: post(book, 100, reverses=first.number))
        await toy.ledger.run(
            lambda book: post(book, 100, reverses=first.number, may_reverse_again=True)
        )
        card = toy.ledger.find_card(CARD)
        assert card is not None
        assert card.balance_minor == OPENED_WITH_MINOR + 100

    async def test_the_control_surface_shows_details_and_things(self, toy: ToyPlayer) -> None:
        await toy.ledger.run(lambda book: book.put_thing("otp", "7001", {"code": 123}))
        await toy.ledger.run(lambda book: book.put_thing("order", "o-1", {"state": "done"}))
        async with aiohttp.ClientSession() as session:

            async def show(page: str) -> Any:
                async with session.get(f"{toy.control_url}/{page}") as answer:
                    return await answer.json()

            ledger = await show("ledger?history=true")
            assert ledger["currency"] == "EUR"
            assert ledger["cards"][0]["detail"] == {"status": "Active"}
            [effect] = ledger["effects"]
            assert (effect["detail"], effect["reverses"]) == ({"desk": 3}, None)
            assert effect["time"] == "2026-01-05T08:00:00.000+00:00"
            assert await show("things?kind=otp") == {
                "things": [{"kind": "otp", "key": "7001", "value": {"code": 123}}]
            }
            assert len((await show("things"))["things"]) == 2
        await toy.reset()
        assert toy.ledger.things() == []
