"""CashAssist's codes, receipts, sign-up and master data, as its document has them."""

import asyncio
from typing import Any

import pytest

from loyalty_gateway.sandbox import CashassistPlayer
from loyalty_gateway.sandbox.cashassist.holders import (
    CODE_LIFETIME_S,
    FIRST_NEW_CARD,
    SIGNUP_TOKEN_LIFETIME_S,
)
from tests.sandbox.vendor_client import Clock, Reply, VendorClient

MAX = "+41790000000"
NEWCOMER = {"phone": "+41790000099", "firstName": "Nora", "lastName": "Neu"}


def holder_of(player: CashassistPlayer, card_id: str) -> tuple[str, Any]:
    card = player.ledger.find_card(card_id)
    assert card is not None
    return card.holder, card.detail


async def request_code(vendor: VendorClient, phone: str = MAX) -> str:
    reply = await vendor.change("request-code", phone=phone)
    assert reply.status == 200
    request_id: str = reply.json["requestId"]
    return request_id


async def signed_up(vendor: VendorClient, **changes: str) -> str:
    """The token of a confirmed sign-up."""
    started = await vendor.change("signup", **{**NEWCOMER, **changes})
    request_id = started.json["requestId"]
    confirmed = await vendor.change("verify-signup", requestId=request_id, code="000000")
    assert confirmed.status == 200
    token: str = confirmed.json["signupToken"]
    return token


async def create(vendor: VendorClient, token: str, key: str, **more: str) -> Reply:
    headers = {"Idempotency-Key": key}
    return await vendor.change("create", headers, signupToken=token, **more)


def refusal(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.code


class TestCodes:
    async def test_the_right_code_shows_the_cards_of_the_number(self, vendor: VendorClient) -> None:
        request_id = await request_code(vendor)
        reply = await vendor.change("confirm-code", requestId=request_id, code="000000")
        assert [(card["id"], card["name"]) for card in reply.json["cards"]] == [
            ("10472", "Max Muster")
        ]

    async def test_a_number_can_have_several_cards_or_none(self, vendor: VendorClient) -> None:
        for phone, cards in (("+41790000002", ["10485", "10490"]), ("+41791112233", [])):
            request_id = await request_code(vendor, phone)
            reply = await vendor.change("confirm-code", requestId=request_id, code="000000")
            assert [card["id"] for card in reply.json["cards"]] == cards

    async def test_a_wrong_code_may_be_followed_by_the_right_one(
        self, vendor: VendorClient
    ) -> None:
        request_id = await request_code(vendor)
        wrong = await vendor.change("confirm-code", requestId=request_id, code="123456")
        assert refusal(wrong) == (422, "code_invalid")
        right = await vendor.change("confirm-code", requestId=request_id, code="000000")
        assert right.status == 200

    async def test_a_code_counts_once(self, vendor: VendorClient) -> None:
        request_id = await request_code(vendor)
        await vendor.change("confirm-code", requestId=request_id, code="000000")
        again = await vendor.change("confirm-code", requestId=request_id, code="000000")
        assert refusal(again) == (404, "verification_not_found")

    async def test_a_code_ends(self, vendor: VendorClient, clock: Clock) -> None:
        for wait_s, status in ((CODE_LIFETIME_S - 1, 200), (CODE_LIFETIME_S, 404)):
            request_id = await request_code(vendor)
            clock.now_s += wait_s
            reply = await vendor.change("confirm-code", requestId=request_id, code="000000")
            assert reply.status == status

    async def test_the_codes_end_is_said(self, vendor: VendorClient) -> None:
        reply = await vendor.change("request-code", phone=MAX)
        # The clock stands at 1790000000.
        assert reply.json["expiresAt"] == "2026-09-21T14:18:20Z"

    async def test_a_request_for_one_thing_does_not_confirm_another(
        self, vendor: VendorClient
    ) -> None:
        request_id = await request_code(vendor)
        reply = await vendor.change("verify-signup", requestId=request_id, code="000000")
        assert refusal(reply) == (404, "verification_not_found")


class TestReceipts:
    @pytest.fixture
    def receipt(self, player: CashassistPlayer) -> Any:
        """One that the player shows for the demo card."""
        return player.shown_cards()[0]["receipts"][0]

    @pytest.mark.parametrize("names", [(), ("total",), ("date",), ("total", "date")])
    async def test_a_receipt_of_the_card_verifies_it(
        self, vendor: VendorClient, receipt: Any, names: tuple[str, ...]
    ) -> None:
        whole, rest = divmod(receipt["total_minor"], 100)
        given = {"total": f', "receiptTotal": {whole}.{rest:02}', "date": ""}
        given["date"] = f', "receiptDate": "{receipt["date"]}"'
        more = "".join(given[name] for name in names)
        body = f'{{"id": "10472", "receiptNumber": "{receipt["number"]}"{more}}}'
        reply = await vendor.post("verify", body.encode())
        assert reply.status == 200
        assert reply.json["verified"] is True
        assert reply.json["card"]["id"] == "10472"

    @pytest.mark.parametrize(
        "wrong", [{"id": "10480"}, {"receiptNumber": "2026-0"}, {"receiptDate": "2026-02-01"}]
    )
    async def test_what_does_not_fit_the_receipt_is_a_mismatch(
        self, vendor: VendorClient, receipt: Any, wrong: dict[str, str]
    ) -> None:
        fields = {"id": "10472", "receiptNumber": receipt["number"], **wrong}
        assert refusal(await vendor.change("verify", **fields)) == (422, "receipt_mismatch")

    async def test_another_total_is_a_mismatch(self, vendor: VendorClient, receipt: Any) -> None:
        body = f'{{"id":"10472","receiptNumber":"{receipt["number"]}","receiptTotal":0.01}}'
        reply = await vendor.post("verify", body.encode())
        assert refusal(reply) == (422, "receipt_mismatch")

    async def test_an_unknown_card_has_no_receipts(self, vendor: VendorClient) -> None:
        reply = await vendor.change("verify", id="99999", receiptNumber="2026-000815")
        assert refusal(reply) == (404, "card_not_found")

    async def test_every_ordinary_card_shows_two_receipts(self, player: CashassistPlayer) -> None:
        for card in player.shown_cards():
            assert len(card["receipts"]) == 2


class TestSignup:
    async def test_a_confirmed_signup_creates_one_empty_card(self, vendor: VendorClient) -> None:
        token = await signed_up(vendor, email="nora@example.com")
        reply = await create(vendor, token, "create-key")
        card_id = str(FIRST_NEW_CARD)
        assert reply.status == 200
        assert reply.headers["Idempotent-Replayed"] == "false"
        assert b'"balance":0.00,"points":0' in reply.raw
        assert reply.json["card"]["name"] == "Nora Neu"
        assert reply.json["walletLinks"]["apple"] == f"https://wallet.example/a/{card_id}"
        assert (await vendor.refill("after-create", "5.00", card_id)).status == 200
        assert holder_of(vendor.player, card_id)[1] == {**NEWCOMER, "email": "nora@example.com"}

    async def test_a_name_of_its_own_stands_on_the_card(self, vendor: VendorClient) -> None:
        reply = await create(vendor, await signed_up(vendor), "create-key", name="Nonna")
        assert reply.json["card"]["name"] == "Nonna"

    async def test_the_same_key_replays_the_card(self, vendor: VendorClient) -> None:
        token = await signed_up(vendor)
        first = await create(vendor, token, "create-key")
        again = await create(vendor, token, "create-key")
        assert again.raw == first.raw
        assert again.headers["Idempotent-Replayed"] == "true"

    async def test_a_token_counts_once(self, vendor: VendorClient) -> None:
        token = await signed_up(vendor)
        assert (await create(vendor, token, "create-one")).status == 200
        assert refusal(await create(vendor, token, "create-two")) == (422, "code_invalid")

    async def test_of_two_tokens_for_one_number_one_makes_a_card(
        self, vendor: VendorClient
    ) -> None:
        tokens = [await signed_up(vendor), await signed_up(vendor)]
        replies = await asyncio.gather(
            *(create(vendor, token, f"race-{number:04}") for number, token in enumerate(tokens))
        )
        assert sorted(reply.status for reply in replies) == [200, 409]

    async def test_a_token_ends(self, vendor: VendorClient, clock: Clock) -> None:
        token = await signed_up(vendor)
        clock.now_s += SIGNUP_TOKEN_LIFETIME_S
        assert refusal(await create(vendor, token, "too-late")) == (422, "code_invalid")

    async def test_an_unknown_token_creates_nothing(self, vendor: VendorClient) -> None:
        assert refusal(await create(vendor, "sut_0", "no-token")) == (422, "code_invalid")

    async def test_a_number_with_a_card_cannot_sign_up(self, vendor: VendorClient) -> None:
        reply = await vendor.change("signup", **{**NEWCOMER, "phone": MAX})
        assert refusal(reply) == (409, "card_exists")

    async def test_a_wrong_or_late_code_gives_no_token(
        self, vendor: VendorClient, clock: Clock
    ) -> None:
        request_id = (await vendor.change("signup", **NEWCOMER)).json["requestId"]
        wrong = await vendor.change("verify-signup", requestId=request_id, code="1234")
        assert refusal(wrong) == (422, "code_invalid")
        clock.now_s += CODE_LIFETIME_S
        late = await vendor.change("verify-signup", requestId=request_id, code="000000")
        assert refusal(late) == (404, "verification_not_found")

    async def test_create_without_a_key_is_refused(self, vendor: VendorClient) -> None:
        reply = await vendor.change("create", signupToken=await signed_up(vendor))
        assert refusal(reply) == (400, "idempotency_key_missing")

    async def test_a_lost_creation_is_replayed(self, vendor: VendorClient) -> None:
        token = await signed_up(vendor)
        headers = {"Idempotency-Key": "lost-create", "X-Sandbox-Fault": "500-after"}
        assert (await vendor.change("create", headers, signupToken=token)).status == 500
        again = await create(vendor, token, "lost-create")
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json["card"]["id"] == str(FIRST_NEW_CARD)


class TestUpdate:
    async def test_what_is_given_is_changed_and_the_rest_stays(self, vendor: VendorClient) -> None:
        changes = {"email": "max@example.com", "birthday": "1980-02-29"}
        reply = await vendor.change("update", id="10472", **changes)
        assert (reply.status, reply.json["name"]) == (200, "Max Muster")
        assert holder_of(vendor.player, "10472") == (
            "Max Muster",
            {"firstName": "Max", "lastName": "Muster", "phone": MAX, **changes},
        )

    async def test_a_new_name_stands_on_the_card(self, vendor: VendorClient) -> None:
        await vendor.change("update", id="10472", lastName="Meister")
        assert (await vendor.read("info", id="10472")).json["name"] == "Max Meister"

    async def test_a_new_number_gets_the_codes(self, vendor: VendorClient) -> None:
        await vendor.change("update", id="10491", phone="+41791234567")
        request_id = await request_code(vendor, "+41791234567")
        reply = await vendor.change("confirm-code", requestId=request_id, code="000000")
        assert [card["id"] for card in reply.json["cards"]] == ["10491"]

    @pytest.mark.parametrize(
        ("card", "expected"),
        [("99999", (404, "card_not_found")), ("10490", (422, "card_blocked"))],
    )
    async def test_not_every_card_can_be_changed(
        self, vendor: VendorClient, card: str, expected: tuple[int, str]
    ) -> None:
        assert refusal(await vendor.change("update", id=card, firstName="X")) == expected

    async def test_a_card_with_a_fault_of_its_own_can_be_changed(
        self, vendor: VendorClient
    ) -> None:
        for _ in range(2):
            assert (await vendor.change("update", id="20001", firstName="X")).status == 200

    @pytest.mark.parametrize(("fault", "name"), [("500-before", "Max"), ("500-after", "Moritz")])
    async def test_a_fault_of_the_header_fires_before_or_after_the_change(
        self, vendor: VendorClient, fault: str, name: str
    ) -> None:
        headers = {"X-Sandbox-Fault": fault}
        reply = await vendor.change("update", headers, id="10472", firstName="Moritz")
        assert reply.status == 500
        assert holder_of(vendor.player, "10472")[0] == f"{name} Muster"


class TestStrictness:
    @pytest.mark.parametrize(
        ("name", "body", "where"),
        [
            ("request-code", b"{}", "body"),
            ("request-code", b'{"phone":"0790000000"}', "body.phone"),
            ("request-code", b'{"phone":"+41790000000","x":1}', "body"),
            ("confirm-code", b'{"requestId":"r","code":"12a4"}', "body.code"),
            ("confirm-code", b'{"requestId":"r","code":123456}', "body.code"),
            ("confirm-code", b'{"code":"000000"}', "body"),
            ("verify", b'{"id":"10472"}', "body"),
            ("verify", b'{"id":"1","receiptNumber":"2","receiptTotal":1.001}', "body.receiptTotal"),
            (
                "verify",
                b'{"id":"1","receiptNumber":"2","receiptDate":"14.1.26"}',
                "body.receiptDate",
            ),
            ("signup", b'{"phone":"+41790000099","firstName":"N"}', "body"),
            (
                "signup",
                b'{"phone":"+41790000099","firstName":"N","lastName":"N","email":"n"}',
                "body.email",
            ),
            ("verify-signup", b'{"requestId":"r"}', "body"),
            ("update", b'{"firstName":"N"}', "body"),
            ("update", b'{"id":"10472","birthday":"2026-02-30"}', "body.birthday"),
            ("update", b'{"id":"10472","name":"N"}', "body"),
        ],
    )
    async def test_a_body_outside_the_document_is_refused_and_reported(
        self, vendor: VendorClient, name: str, body: bytes, where: str
    ) -> None:
        reply = await vendor.post(name, body)
        assert refusal(reply) == (400, "invalid_request")
        assert where in {violation.where for violation in vendor.player.stage.violations}
        assert vendor.player.ledger.things() == []

    @pytest.mark.parametrize(
        ("name", "scope"),
        [
            ("request-code", "loyalty-cards:link"),
            ("confirm-code", "loyalty-cards:link"),
            ("verify", "loyalty-cards:link"),
            ("signup", "loyalty-cards:write"),
            ("verify-signup", "loyalty-cards:write"),
            ("create", "loyalty-cards:write"),
            ("update", "loyalty-cards:write"),
        ],
    )
    async def test_each_takes_the_scope_of_the_document(
        self, vendor: VendorClient, name: str, scope: str
    ) -> None:
        reply = await vendor.post(name, b"{}", api_key="sk_test_read")
        assert refusal(reply) == (403, "insufficient_scope")
        assert scope in reply.json["error"]["message"]
