"""openLoyaltyPay's shapes: what is sent is exact and the same every time, what comes is believed
only when it proves something."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty_gateway.domain.amounts import MINOR_MAX, Amount, Money, Points
from loyalty_gateway.domain.operations import (
    AccountKind,
    Balance,
    EntryMode,
    Operation,
    Order,
    Original,
    Person,
    Receipt,
    Reference,
)
from loyalty_gateway.providers.answers import Document, UnreadableAnswer, read_document
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.openloyaltypay import customers, wire
from loyalty_gateway.sandbox.openloyaltypay.player import document as vendor_document

CARD = "10472"
NUMBER = "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"
CHECKOUT = "933392815902294016"
CLIENT = wire.Client("825429536610058240", "FACTOR4")
AT = "2025-07-24 13:06:10"
AT_TIME = datetime(2025, 7, 24, 13, 6, 10, tzinfo=UTC)
ASKED = Money("USD", 1050)
DONE = {
    "mid": "202507081058",
    "paywizardId": "10020000080",
    "checkoutId": CHECKOUT,
    "transIndexCode": "100200000807293844967",
    "amount": "10.50",
    "result": 0,
}
CARD_DATA = {
    "accountId": CARD,
    "balances": [
        {"valueCode": "USD", "amount": 1534.1, "difference": 0},
        {"valueCode": "Points", "amount": 53, "difference": 0},
    ],
}
STATE = {
    "checkoutId": CHECKOUT,
    "transIndexCode": NUMBER,
    "state": 2,
    "amount": "10.50",
    "tranTime": AT,
}
MISSING = object()
PAID = Original(
    Order(Operation.PAY_WITH_GIFT_CARD, CARD, ASKED), "paid-1", (Reference("checkout_id", "c-1"),)
)


def envelope(data: Any = None, code: Any = 200, **more: Any) -> dict[str, Any]:
    return {"code": code, "msg": "success", "timestamp": AT, "data": data, **more}


def answer(document: Any, status: int = 200) -> Document:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_document(HttpAnswer(status, {"content-type": "application/json"}, body))


def changed(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in {**document, **changes}.items() if v is not MISSING}


def order(
    operation: Operation = Operation.PAY_WITH_GIFT_CARD,
    asked: Amount | None = ASKED,
    **more: Any,
) -> Order:
    return Order(operation, CARD, asked, **more)


def decode(data: Any, asked: Order | None = None) -> Receipt:
    return wire.decode_booking(answer(envelope(data)), asked or order())


class TestRequests:
    @given(st.integers(1, MINOR_MAX))
    def test_an_amount_has_two_decimals_and_is_exact(self, minor: int) -> None:
        text = wire.encode_amount(Money("USD", minor))
        assert Decimal(text).scaleb(2) == minor
        assert len(text.partition(".")[2]) == 2

    @pytest.mark.parametrize(
        ("amount", "text"),
        [
            (Money("USD", 1), "0.01"),
            (Money("USD", 10), "0.10"),
            (Money("USD", 1050), "10.50"),
            (Money("JPY", 1050), "1050"),
        ],
    )
    def test_small_amounts_keep_their_zeros(self, amount: Money, text: str) -> None:
        assert wire.encode_amount(amount) == text

    @pytest.mark.parametrize("minor", [0, -1])
    def test_nothing_and_less_is_never_written(self, minor: int) -> None:
        with pytest.raises(AssertionError):
            wire.encode_amount(Money("USD", minor))

    @pytest.mark.parametrize(
        ("asked", "body"),
        [
            (
                order(),
                b'{"clientId":"825429536610058240","tranOrderNo":"n-1","loyaltyChannel":"FACTOR4",'
                b'"accountId":"10472","entryType":"K","amount":"10.50","tranCurrency":"USD"}',
            ),
            (
                order(allow_partial=True, may_take_part=True, entry_mode=EntryMode.BARCODE),
                b'{"clientId":"825429536610058240","tranOrderNo":"n-1","loyaltyChannel":"FACTOR4",'
                b'"accountId":"10472","entryType":"B","amount":"10.50","tranCurrency":"USD",'
                b'"nsfAllowed":true}',
            ),
            (
                order(Operation.TOP_UP_GIFT_CARD, activate=True),
                b'{"clientId":"825429536610058240","tranOrderNo":"n-1","loyaltyChannel":"FACTOR4",'
                b'"accountId":"10472","entryType":"K","activating":"Y","amount":"10.50",'
                b'"tranCurrency":"USD"}',
            ),
            (
                order(Operation.ACTIVATE_GIFT_CARD, None),
                b'{"clientId":"825429536610058240","loyaltyChannel":"FACTOR4","accountId":"10472",'
                b'"entryType":"K","activating":"Y"}',
            ),
            (
                order(Operation.VOID_GIFT_TRANSACTION, None, original=PAID),
                b'{"clientId":"825429536610058240","tranOrderNo":"n-1","oriOrderNo":"c-1"}',
            ),
            (
                order(Operation.ADD_GIFT_TIP, original=PAID),
                b'{"clientId":"825429536610058240","tranOrderNo":"n-1","oriOrderNo":"c-1",'
                b'"accountId":"10472","entryType":"K","amount":"10.50","tranCurrency":"USD"}',
            ),
            (
                order(Operation.EARN_POINTS, Points(7)),
                b'{"clientId":"825429536610058240","tranOrderNo":"n-1","loyaltyChannel":"FACTOR4",'
                b'"accountId":"10472","entryType":"K","amount":"7"}',
            ),
            (
                order(Operation.REDEEM_POINTS, Points(200)),
                b'{"clientId":"825429536610058240","tranOrderNo":"n-1","loyaltyChannel":"FACTOR4",'
                b'"accountId":"10472","entryType":"K","amount":"200"}',
            ),
        ],
    )
    def test_bodies_are_written_to_the_letter_and_fit_the_document(
        self, asked: Order, body: bytes
    ) -> None:
        assert wire.encode_booking(asked, "n-1", CLIENT) == body
        operation = vendor_document().operations["POST", wire.ROUTES[asked.operation]]
        assert operation.check_body("application/json", body)[1] == []

    def test_a_part_is_allowed_only_where_its_answer_can_be_trusted(self) -> None:
        body = wire.encode_booking(order(allow_partial=True), "n-1", CLIENT)
        assert b"nsfAllowed" not in body

    @pytest.mark.parametrize(
        ("activate", "activation", "top_up"),
        [(True, "Y", "Y"), (False, "N", "N"), (None, "Y", "N")],
    )
    def test_activation_is_on_unless_told_and_a_top_up_activates_only_when_told(
        self, activate: bool | None, activation: str, top_up: str
    ) -> None:
        bodies = [
            json.loads(wire.encode_booking(order(operation, asked, activate=activate), "n", CLIENT))
            for operation, asked in (
                (Operation.ACTIVATE_GIFT_CARD, None),
                (Operation.TOP_UP_GIFT_CARD, ASKED),
            )
        ]
        assert [body["activating"] for body in bodies] == [activation, top_up]

    def test_every_way_in_has_a_letter(self) -> None:
        letters = {
            mode: json.loads(wire.encode_inquiry(CARD, mode, CLIENT))["entryType"]
            for mode in (*EntryMode, None)
        }
        assert letters == {
            EntryMode.BARCODE: "B",
            EntryMode.KEYED: "K",
            EntryMode.MAGNETIC: "M",
            EntryMode.PROXIMITY: "P",
            EntryMode.ONLINE: "K",
            None: "K",
        }

    def test_a_void_whose_original_lost_its_answer_names_our_own_number(self) -> None:
        lost = Original(PAID.order, NUMBER)
        body = wire.encode_booking(
            order(Operation.VOID_GIFT_TRANSACTION, None, original=lost), "n-2", CLIENT
        )
        assert json.loads(body)["oriOrderNo"] == NUMBER

    @given(st.text(min_size=1, max_size=80), st.sampled_from(EntryMode))
    def test_any_card_number_survives_and_every_attempt_has_the_same_bytes(
        self, card: str, mode: EntryMode
    ) -> None:
        asked = Order(Operation.PAY_WITH_GIFT_CARD, card, ASKED, entry_mode=mode)
        first = wire.encode_booking(asked, NUMBER, CLIENT)
        assert first == wire.encode_booking(asked, NUMBER, CLIENT)
        assert json.loads(first)["accountId"] == card

    @pytest.mark.parametrize("number", ["", "n" * 61])
    def test_a_number_that_the_vendor_would_not_take_is_never_sent(self, number: str) -> None:
        with pytest.raises(AssertionError):
            wire.encode_booking(order(), number, CLIENT)

    def test_every_route_is_in_the_vendors_document(self) -> None:
        played = {path for _, path in vendor_document().operations}
        assert {*wire.ROUTES.values(), wire.INQUIRY, wire.QUERY_ORDER} <= played
        assert wire.REDEMPTION.removeprefix("/ovstrade") in played


class TestCustomers:
    PERSON = Person(
        given_name="Jon",
        family_name="Doe",
        phone="+12175550100",
        email="jon@example.com",
        birth_date=date(2000, 1, 2),
        attributes=(("city", "Springfield"), ("mailPref", "I")),
    )

    def test_a_customer_is_whole_and_fits_the_document(self) -> None:
        asked = order(Operation.ACTIVATE_GIFT_CARD, None, person=self.PERSON)
        body = wire.encode_booking(asked, NUMBER, CLIENT)
        operation = vendor_document().operations["POST", wire.ROUTES[Operation.ACTIVATE_GIFT_CARD]]
        assert operation.check_body("application/json", body)[1] == []
        told = json.loads(body)["customerInfo"]
        assert len(told) == 19
        assert told["firstName"] == "Jon"
        assert told["lastName"] == "Doe"
        assert told["birthday"] == "20000102"
        assert told["city"] == "Springfield"
        assert (told["mailPref"], told["phonePref"], told["emailPref"]) == ("I", "O", "O")
        assert told["anniversary"] == ""

    def test_what_was_written_is_read_again(self) -> None:
        read = customers.decode_customer(customers.encode_customer(self.PERSON))
        assert (read.given_name, read.family_name, read.email) == ("Jon", "Doe", "jon@example.com")
        assert (read.phone, read.birth_date) == ("+12175550100", date(2000, 1, 2))
        assert dict(read.attributes)["city"] == "Springfield"

    def test_a_display_name_is_never_split(self) -> None:
        told = customers.encode_customer(Person(display_name="Jon Doe"))
        assert (told["firstName"], told["lastName"]) == ("", "")

    def test_an_attribute_that_the_vendor_does_not_have_is_found(self) -> None:
        person = Person(attributes=(("city", "x"), ("shoeSize", "44"), ("firstName", "y")))
        assert customers.find_unknown_attributes(person) == ("shoeSize", "firstName")

    @pytest.mark.parametrize(
        "told",
        [None, [], "Jon", {}, {"firstName": 5, "birthday": "20001301", "city": "a\nb"}],
    )
    def test_a_customer_that_cannot_be_read_is_nobody(self, told: Any) -> None:
        assert customers.decode_customer(told) == Person()


class TestCodes:
    @pytest.mark.parametrize(
        ("code", "text"),
        [
            (200, "200"),
            ("200", "200"),
            (4001, "4001"),
            (True, ""),
            (None, ""),
            ("OK", ""),
            (200.0, ""),
            (-1, ""),
            ("２００", ""),
            (10**9, ""),
        ],
    )
    def test_a_code_is_a_small_number_or_the_same_as_text(self, code: Any, text: str) -> None:
        assert wire.find_code(answer(envelope(code=code))) == text

    @pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"null", b'{"code":1,"code":200}'])
    def test_what_is_no_envelope_has_no_code(self, body: bytes) -> None:
        assert wire.find_code(answer(body)) == ""

    @pytest.mark.parametrize(
        ("result", "text"), [(0, "0"), ("0", "0"), (1, "1"), ("1", "1"), (2, "2"), ("2", "2")]
    )
    def test_a_result_is_a_number_or_a_text(self, result: Any, text: str) -> None:
        assert wire.read_result(answer(envelope(changed(DONE, result=result)))) == text

    @pytest.mark.parametrize("result", [MISSING, None, 3, -1, True, False, "", "ok", 0.5, [0]])
    def test_any_other_result_proves_nothing(self, result: Any) -> None:
        with pytest.raises(UnreadableAnswer):
            wire.read_result(answer(envelope(changed(DONE, result=result))))

    @pytest.mark.parametrize("document", [envelope(), {"code": 200}, envelope([]), envelope("x")])
    def test_a_success_without_data_proves_nothing(self, document: dict[str, Any]) -> None:
        with pytest.raises(UnreadableAnswer):
            wire.read_result(answer(document))


class TestBookingAnswers:
    def test_a_complete_answer_is_a_receipt_with_the_checkout_first(self) -> None:
        receipt = decode(DONE)
        assert receipt.references == (
            Reference("checkout_id", CHECKOUT),
            Reference("trans_index_code", "100200000807293844967"),
            Reference("paywizard_id", "10020000080"),
            Reference("mid", "202507081058"),
        )
        assert receipt.echoed == ASKED
        assert receipt.balances_after == ()

    @pytest.mark.parametrize("name", ["mid", "paywizardId", "transIndexCode", "amount"])
    def test_what_the_vendor_need_not_tell_may_be_missing(self, name: str) -> None:
        for untold in (MISSING, None, "", 5, ["1"], "card of Max"):
            receipt = decode(changed(DONE, **{name: untold}))
            assert receipt.references[0] == Reference("checkout_id", CHECKOUT)
            assert "card of Max" not in repr(receipt)

    @pytest.mark.parametrize("amount", ["10000", "10.505", "ten", 10.5, True, "-3", "1e3", "NaN"])
    def test_an_amount_in_no_dependable_unit_is_evidence_and_no_obstacle(self, amount: Any) -> None:
        receipt = decode(changed(DONE, amount=amount))
        assert receipt.references[0].value == CHECKOUT

    @given(st.integers(1, MINOR_MAX))
    def test_the_part_that_was_taken_is_read_exactly(self, minor: int) -> None:
        part = order(allow_partial=True, may_take_part=True)
        text = wire.encode_amount(Money("USD", minor))
        assert decode(changed(DONE, amount=text), part).echoed == Money("USD", minor)

    @pytest.mark.parametrize("amount", [MISSING, None, "", "10.505", "ten", True, "NaN"])
    def test_a_part_that_is_not_told_proves_nothing(self, amount: Any) -> None:
        part = order(allow_partial=True, may_take_part=True)
        with pytest.raises(UnreadableAnswer):
            decode(changed(DONE, amount=amount), part)

    @pytest.mark.parametrize(
        ("amount", "echoed"), [("7", Points(7)), (7, Points(7)), ("7.0", Points(7)), ("7.5", None)]
    )
    def test_points_may_be_numbers_or_texts(self, amount: Any, echoed: Points | None) -> None:
        asked = order(Operation.EARN_POINTS, Points(7))
        assert decode(changed(DONE, amount=amount), asked).echoed == echoed

    @pytest.mark.parametrize(
        "changes",
        [
            {"checkoutId": MISSING},
            {"checkoutId": None},
            {"checkoutId": ""},
            {"checkoutId": 933392815902294016},
            {"checkoutId": "9" * 129},
            {"checkoutId": "9\n3"},
            {"checkoutId": "card of Max"},
        ],
    )
    def test_an_answer_without_a_usable_number_proves_nothing(
        self, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(UnreadableAnswer) as caught:
            decode(changed(DONE, **changes))
        assert CARD not in str(caught.value)

    def test_a_void_has_no_amount_and_names_its_original(self) -> None:
        void = order(Operation.VOID_GIFT_TRANSACTION, None, original=PAID)
        data = changed(DONE, amount=MISSING, oriCheckoutId="c-1")
        assert decode(data, void).echoed is None
        assert decode(changed(DONE, amount=MISSING), void).references[0].value == CHECKOUT
        with pytest.raises(UnreadableAnswer):
            decode(changed(data, oriCheckoutId="c-2"), void)

    def test_a_void_by_our_own_number_takes_whatever_original_is_named(self) -> None:
        void = order(Operation.VOID_GIFT_TRANSACTION, None, original=Original(PAID.order, NUMBER))
        assert decode(changed(DONE, oriCheckoutId="c-9"), void).references[0].value == CHECKOUT


class TestCards:
    def decode(self, data: Any, **more: Any) -> Any:
        return wire.decode_card(answer(envelope(data, **more)), CARD)

    def test_the_vendors_own_sample_is_read(self) -> None:
        card = self.decode(changed(CARD_DATA, customerInfo={"firstName": "Jon", "city": "X"}))
        assert card.kind is AccountKind.GIFT_CARD
        assert card.balances == (
            Balance(Money("USD", 153410), AT_TIME),
            Balance(Points(53), AT_TIME),
        )
        assert (card.holder.given_name, card.holder.display_name) == ("Jon", "")
        assert card.holder.attributes == (("city", "X"),)
        assert card.status == ""

    @pytest.mark.parametrize("amount", [53, "53", "53.0", 53.0])
    def test_points_may_be_numbers_or_texts(self, amount: Any) -> None:
        card = self.decode(changed(CARD_DATA, balances=[{"valueCode": "Points", "amount": amount}]))
        assert card.balances == (Balance(Points(53), AT_TIME),)

    def test_a_kind_of_value_that_is_neither_money_nor_points_is_left_out(self) -> None:
        lines = [{"valueCode": "Stamps", "amount": 3}, *CARD_DATA["balances"]]
        assert len(self.decode(changed(CARD_DATA, balances=lines)).balances) == 2

    def test_a_time_that_cannot_be_read_is_none(self) -> None:
        for text in ("yesterday", "2025-13-24 13:06:10", 5, None):
            card = self.decode(CARD_DATA, timestamp=text)
            assert {balance.as_of for balance in card.balances} == {None}

    @pytest.mark.parametrize(
        "changes",
        [
            {"accountId": "10480"},
            {"accountId": 10472},
            {"accountId": MISSING},
            {"balances": MISSING},
            {"balances": {}},
            {"balances": [5]},
            {"balances": [{"amount": 5}]},
            {"balances": [{"valueCode": "USD"}]},
            {"balances": [{"valueCode": "USD", "amount": True}]},
            {"balances": [{"valueCode": "USD", "amount": "1,5"}]},
            {"balances": [{"valueCode": "USD", "amount": 1.005}]},
            {"balances": [{"valueCode": "Points", "amount": 0.5}]},
            {"balances": [{"valueCode": "Points", "amount": 10**16}]},
            {"balances": [{"valueCode": "USD", "amount": 1}, {"valueCode": "USD", "amount": 2}]},
        ],
    )
    def test_a_card_that_is_not_whole_is_unreadable(self, changes: dict[str, Any]) -> None:
        with pytest.raises(UnreadableAnswer):
            self.decode(changed(CARD_DATA, **changes))


class TestOrderStates:
    def decode(self, data: Any, asked: Order | None = None) -> wire.OrderState | None:
        return wire.decode_order_state(answer(envelope(data)), asked or order(), NUMBER)

    def test_data_that_is_null_knows_no_such_order(self) -> None:
        assert self.decode(None) is None

    @pytest.mark.parametrize("state", [2, "2"])
    def test_a_completed_order_is_a_receipt_with_its_time(self, state: Any) -> None:
        found = self.decode(changed(STATE, state=state))
        assert found is not None
        assert found.receipt is not None
        assert found.receipt.references[0] == Reference("checkout_id", CHECKOUT)
        assert (found.receipt.echoed, found.time, found.is_named) == (ASKED, AT_TIME, True)

    def test_an_answer_with_another_number_does_not_name_our_order(self) -> None:
        found = self.decode(changed(STATE, transIndexCode="100200000807293844967"))
        assert found is not None
        assert not found.is_named

    @pytest.mark.parametrize(
        ("state", "seen"),
        [
            (1, (True, False, False)),
            (5, (False, True, False)),
            *((state, (False, False, True)) for state in (3, 4, 6, 7, 8, 9)),
            (2, (False, False, False)),
        ],
    )
    def test_every_documented_state_is_open_closed_undone_or_done(
        self, state: int, seen: tuple[bool, bool, bool]
    ) -> None:
        found = self.decode(changed(STATE, state=state))
        assert found is not None
        assert (found.is_pending, found.is_closed, found.is_undone) == seen
        assert (found.receipt is not None) is (state == 2)

    @pytest.mark.parametrize(
        "data",
        [
            {},
            [],
            changed(STATE, state=MISSING),
            changed(STATE, state=0),
            changed(STATE, state=10),
            changed(STATE, state=True),
            changed(STATE, checkoutId=MISSING),
        ],
    )
    def test_an_answer_to_nothing_is_unreadable(self, data: Any) -> None:
        with pytest.raises(UnreadableAnswer):
            self.decode(data)

    def test_a_success_without_any_data_is_not_a_not_found(self) -> None:
        with pytest.raises(UnreadableAnswer):
            wire.decode_order_state(answer({"code": 200}), order(), NUMBER)

    def test_a_part_that_is_not_told_is_unreadable_here_too(self) -> None:
        with pytest.raises(UnreadableAnswer):
            self.decode(
                changed(STATE, amount=MISSING), order(allow_partial=True, may_take_part=True)
            )


class TestShown:
    def test_numbers_are_shown_and_persons_and_words_are_not(self) -> None:
        data = {**DONE, **CARD_DATA, "customerInfo": {"firstName": "Jon"}, "mid": "of Jon"}
        shown = dict(wire.describe(answer(envelope(data, msg="card 10472 of Jon"))))
        assert shown["code"] == "200"
        assert shown["checkoutId"] == CHECKOUT
        assert shown["result"] == "0"
        assert shown["timestamp"] == AT
        assert not {CARD, "Jon", "card 10472 of Jon", "of Jon"} & set(shown.values())

    def test_what_is_no_envelope_shows_nothing(self) -> None:
        assert wire.describe(answer(b"<html>")) == []
        assert wire.describe(answer({"code": "Card 10472", "timestamp": "Max"})) == []
