"""Loyalife's bytes: what is written is exact, what is read is whole, and nothing is guessed."""

import dataclasses
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, Money, Points
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Operation,
    Order,
    Person,
    Purchase,
    TransactionKind,
)
from loyalty_gateway.providers.answers import Document, UnreadableAnswer
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.loyalife.wire import bookings, envelope, history, members
from loyalty_gateway.providers.loyalife.wire.bookings import Programme, merchant_name
from loyalty_gateway.providers.loyalife.wire.envelope import Envelope
from loyalty_gateway.providers.loyalife.wire.history import (
    Line,
    is_unlike,
    may_be,
    transaction_of,
)
from loyalty_gateway.providers.loyalife.wire.members import MissingField
from loyalty_gateway.providers.loyalife.wire.times import DeploymentTime, decode_day
from loyalty_gateway.providers.tokens import Token

PROGRAMME = Programme(19, 4, "DEFAULT")
KOLKATA = DeploymentTime(ZoneInfo("Asia/Kolkata"))
ZURICH = DeploymentTime(ZoneInfo("Europe/Zurich"))
NOW = datetime(2026, 2, 3, 5, 46, 3, 703_000, tzinfo=UTC)
GUID = "3FA85F64-5717-4562-B3FC-2C963F66AFA6"
KEY = "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"


def answered(body: bytes, content_type: str = "application/json") -> Document:
    return envelope.read_document(HttpAnswer(200, {"content-type": content_type}, body))


def saying(**members: Any) -> Document:
    usual = {"IsSucessful": True, "ErrorCode": "000", "ExceptionMessage": "", "ReturnObject": True}
    return answered(json.dumps({"results": {**usual, **members}}).encode())


def success(content: Any, count: int | None = None) -> Envelope:
    return Envelope(True, "000", content, count)


class TestEnvelope:
    @pytest.mark.parametrize("is_wrapped", [True, False])
    @pytest.mark.parametrize(("code", "read"), [("000", "000"), (0, "000"), (1, "001")])
    def test_wrapped_or_bare_text_or_number_it_is_the_same(
        self, is_wrapped: bool, code: Any, read: str
    ) -> None:
        inner = {"IsSucessful": True, "ErrorCode": code, "ReturnObject": GUID, "Count": 3}
        body = {"results": inner} if is_wrapped else inner
        found = envelope.read_envelope(answered(json.dumps(body).encode()))
        assert found == Envelope(True, read, GUID, 3)

    @pytest.mark.parametrize(
        ("code", "read"), [(103, "103"), ("E201", "E201"), (6, "006"), (1301, "1301")]
    )
    def test_a_number_is_compared_as_the_text_that_it_would_be(self, code: Any, read: str) -> None:
        assert envelope.read_envelope(saying(ErrorCode=code)).code == read

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b'"results"',
            b"{}",
            b'{"results":true}',
            b'{"results":[]}',
            b'{"results":{"ErrorCode":"000"}}',
            b'{"results":{"IsSucessful":"true","ErrorCode":"000"}}',
            b'{"results":{"IsSucessful":1,"ErrorCode":"000"}}',
            b'{"results":{"IsSucessful":true}}',
            b'{"results":{"IsSucessful":true,"ErrorCode":null}}',
            b'{"results":{"IsSucessful":true,"ErrorCode":true}}',
            b'{"results":{"IsSucessful":true,"ErrorCode":-1}}',
            b'{"results":{"IsSucessful":true,"ErrorCode":0.0}}',
            b'{"results":{"IsSucessful":true,"ErrorCode":"Success, all well"}}',
            b'{"results":{"IsSucessful":true,"ErrorCode":"000","Count":-1}}',
            b'{"results":{"IsSucessful":true,"ErrorCode":"000","Count":"1"}}',
            b'{"results":{"IsSucessful":true,"ErrorCode":"000"},"IsSucessful":false}',
            b'{"results":{"IsSucessful":true,"IsSucessful":false,"ErrorCode":"000"}}',
        ],
    )
    def test_what_is_no_envelope_is_unreadable(self, body: bytes) -> None:
        with pytest.raises(UnreadableAnswer):
            envelope.read_envelope(answered(body))

    def test_an_answer_that_is_not_called_json_is_unreadable(self) -> None:
        document = answered(b'{"IsSucessful":true,"ErrorCode":"000"}', content_type="text/html")
        with pytest.raises(UnreadableAnswer, match="not called JSON"):
            envelope.read_envelope(document)

    def test_only_flag_code_and_plain_values_are_shown(self) -> None:
        assert envelope.describe(saying(ExceptionMessage="Jane Doe", ReturnObject=GUID)) == [
            ("IsSucessful", "True"),
            ("ErrorCode", "000"),
            ("ReturnObject", GUID),
        ]
        personal = saying(ReturnObject={"FullName": "Jane Doe"}, ErrorCode="Jane Doe")
        assert "Jane" not in str(envelope.describe(personal))
        assert "Jane" not in str(envelope.describe(saying(ReturnObject="Jane Doe")))

    def test_the_code_of_a_success_is_no_code_of_a_failure(self) -> None:
        assert envelope.find_code(saying()) == ""
        assert envelope.find_code(saying(IsSucessful=False, ErrorCode="103")) == "103"


class TestToken:
    def token(self, their_now: str = "", **changes: Any) -> Token:
        usual = {"token": "eyJ.x.y", "tokenExpiresOn": "2026-02-03T06:16:03Z"}
        body = json.dumps({"results": {**usual, **changes}}).encode()
        headers = {"content-type": "application/json", "date": their_now}
        return envelope.read_token(envelope.read_document(HttpAnswer(200, headers, body)), NOW)

    def test_its_life_is_counted_from_our_clock_where_theirs_is_not_shown(self) -> None:
        token = self.token()
        assert token.value == "eyJ.x.y"
        assert token.lifetime_s == pytest.approx(1799.297)
        assert "eyJ" not in repr(token)

    def test_its_life_is_counted_from_their_clock_where_that_is_shown(self) -> None:
        assert self.token("Tue, 03 Feb 2026 06:06:03 GMT").lifetime_s == 600

    def test_a_token_that_is_over_has_no_life_left(self) -> None:
        assert self.token(tokenExpiresOn="2026-02-03T05:00:00Z").lifetime_s == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"token": ""},
            {"token": None},
            {"token": "a b"},
            {"token": "a\r\nx-evil: 1"},
            {"token": "ä"},
            {"token": "x" * 6_001},
            {"tokenExpiresOn": "2026-02-03T06:16:03"},
            {"tokenExpiresOn": "tomorrow"},
            {"tokenExpiresOn": None},
            {"IsSucessful": False},
        ],
    )
    def test_what_cannot_be_a_token_is_unreadable(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(UnreadableAnswer):
            self.token(**wrong)


class TestTimes:
    def test_a_moment_is_written_in_the_deployments_own_time(self) -> None:
        assert KOLKATA.encode(NOW) == "2026-02-03T11:16:03.703"
        assert KOLKATA.encode_day(datetime(2026, 2, 3, 18, 30, tzinfo=UTC)) == "2026-02-04"

    @pytest.mark.parametrize(
        "text", ["2026-02-03T11:16:03.703", "2026-02-03T11:16:03.7030000", "2026-02-03T11:16:03"]
    )
    def test_a_local_time_is_read_as_the_moment_that_it_is(self, text: str) -> None:
        assert KOLKATA.decode(text).replace(microsecond=0) == NOW.replace(microsecond=0)

    def test_of_the_hour_that_autumn_has_twice_the_earlier_is_meant(self) -> None:
        assert ZURICH.decode("2026-10-25T02:30:00") == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)

    @pytest.mark.parametrize(
        "text",
        [
            "2026-02-03T11:16:03Z",
            "2026-02-03T11:16:03+05:30",
            "2026-02-30T00:00:00",
            "03.02.2026",
            "",
            "٢٠٢٦-02-03",
        ],
    )
    def test_what_is_no_local_time_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            KOLKATA.decode(text)

    def test_a_birthday_is_a_day_in_every_zone(self) -> None:
        assert decode_day("1990-06-15T00:00:00") == date(1990, 6, 15)

    @given(
        st.datetimes(
            datetime(1990, 1, 1),  # noqa: DTZ001 - made aware below
            datetime(2090, 1, 1),  # noqa: DTZ001
        ),
        st.sampled_from(["Asia/Kolkata", "Europe/Zurich", "UTC", "America/St_Johns"]),
    )
    def test_what_is_written_is_read_back_but_for_the_hour_that_comes_twice(
        self, moment: datetime, zone: str
    ) -> None:
        clock = DeploymentTime(ZoneInfo(zone))
        exact = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
        read = clock.decode(clock.encode(exact))
        assert read in (exact, exact - timedelta(hours=1))


class TestBookings:
    def test_a_redemption_is_the_vendors_own_sample(self) -> None:
        order = Order(
            Operation.REDEEM_POINTS,
            "jane.doe@example.com",
            Points(500),
            money_value=Money("EUR", 50_000),
        )
        assert bookings.encode_redemption(PROGRAMME, order, "Amazon", 30) == (
            b'{"RelationReference":"jane.doe@example.com","Amount":500.00,"Points":500,'
            b'"MerchantName":"Amazon","LoyaltyTxnType":30,"TransactionCurrency":"DEFAULT",'
            b'"RelationType":4,"ProgramId":19}'
        )

    def test_a_purchase_carries_our_key_and_our_number(self) -> None:
        purchase = Purchase(
            Money("EUR", 1250), "RETAIL001", "SHOES", attributes=(("store", "Zürich"),)
        )
        body = json.loads(
            bookings.encode_transaction("m_8124", purchase, "2026-05-11", KEY, bookings.EARNS),
            parse_float=Decimal,
        )
        assert body == {
            "transaction_id": f"LG-{KEY}",
            "amount": Decimal("12.50"),
            "transaction_date": "2026-05-11",
            "product_code": "RETAIL001",
            "sub_product_code": "SHOES",
            "member_relation_reference": "m_8124",
            "transaction_type": "DR",
            "_xoxo_api_client_idempotency": KEY,
            "store": "Zürich",
        }

    @pytest.mark.parametrize("name", ["amount", "transaction_type", "_xoxo_api_client_idempotency"])
    def test_an_attribute_never_takes_the_place_of_a_field(self, name: str) -> None:
        purchase = Purchase(Money("EUR", 1250), "RETAIL001", attributes=((name, "x"),))
        with pytest.raises(ValueError, match="field of its own"):
            bookings.encode_transaction("m", purchase, "2026-05-11", KEY, bookings.EARNS)

    @given(st.sampled_from(sorted(CURRENCY_EXPONENTS)), st.integers(1, 10**15))
    def test_an_amount_is_written_to_the_last_digit_of_its_currency(
        self, currency: str, minor: int
    ) -> None:
        text = bookings.encode({"a": bookings.Number(Money(currency, minor))})
        number = json.loads(text, parse_float=Decimal, parse_int=Decimal)["a"]
        assert Money.from_decimal(currency, number) == Money(currency, minor)
        assert b"e" not in text.lower()

    @given(st.text(max_size=300), st.text(min_size=1, max_size=64), st.booleans())
    def test_a_merchants_name_is_one_short_line_and_always_the_same(
        self, name: str, key: str, carries_tag: bool
    ) -> None:
        sent = merchant_name(name, key, carries_tag=carries_tag)
        assert sent == merchant_name(name, key, carries_tag=carries_tag)
        assert len(sent) <= bookings.MERCHANT_CHARACTERS_MAX
        assert sent == sent.strip() or carries_tag
        assert len(sent.splitlines()) <= 1
        # It comes back as it was sent, whatever is in it.
        assert json.loads(bookings.encode({"n": sent}))["n"] == sent

    def test_a_tag_tells_two_bookings_apart_and_shows_no_key(self) -> None:
        tags = {merchant_name("Amazon", f"{KEY}{n}", carries_tag=True) for n in range(1_000)}
        assert len(tags) == 1_000
        assert all(tag.startswith("Amazon #") and KEY[:8] not in tag for tag in tags)

    @pytest.mark.parametrize("name", ["gift-card", "Gift Card", "GIFT_CARD", "giftcard"])
    def test_a_kind_is_known_by_its_name_however_it_is_written(self, name: str) -> None:
        assert bookings.redemption_kind(name, bookings.REDEMPTION_KINDS) == 30

    def test_an_unknown_kind_is_not_guessed(self) -> None:
        assert bookings.redemption_kind("groceries", bookings.REDEMPTION_KINDS) is None
        assert bookings.redemption_kind("", bookings.REDEMPTION_KINDS) is None
        assert bookings.redemption_kind("30", bookings.REDEMPTION_KINDS) is None

    @pytest.mark.parametrize("content", [None, True, "", "ok", 5, GUID[:-1], f"{GUID}0", [GUID]])
    def test_a_redemption_is_proven_by_its_number_alone(self, content: Any) -> None:
        with pytest.raises(UnreadableAnswer):
            bookings.decode_external_reference(success(content))

    def test_a_number_has_one_spelling_with_us(self) -> None:
        assert bookings.decode_external_reference(success(GUID.lower())) == GUID

    @pytest.mark.parametrize("content", [None, False, 1, "true", {}, [True]])
    def test_a_reversal_is_proven_by_true_alone(self, content: Any) -> None:
        with pytest.raises(UnreadableAnswer):
            bookings.decode_done(success(content))

    @pytest.mark.parametrize("content", [None, True, "910", Decimal("910.5"), 10**16, {}])
    def test_points_are_whole_numbers(self, content: Any) -> None:
        with pytest.raises(UnreadableAnswer):
            bookings.decode_points(success(content))


def line(**changes: Any) -> dict[str, Any]:
    return {
        "Id": 541_012,
        "Points": 500,
        "Narration": "Gift Card",
        "TransactionDate": "2026-02-04T08:00:00.000",
        "RelationReference": "m_8124",
        "ExternalReference": GUID,
        "LoyaltyTxnType": 30,
        "TransactionType": 2,
        "MerchantName": "Amazon",
        "IsActive": True,
        **changes,
    }


class TestHistory:
    def read(self, *entries: dict[str, Any]) -> tuple[Line, ...]:
        return history.decode_lines(success(list(entries), len(entries)), "m_8124", KOLKATA).lines

    @pytest.mark.parametrize(
        ("changes", "kind", "points"),
        [
            ({}, TransactionKind.REDEEM, -500),
            ({"TransactionType": 1}, TransactionKind.REVERSAL, 500),
            ({"LoyaltyTxnType": 2, "TransactionType": 1}, TransactionKind.EARN, 500),
            ({"LoyaltyTxnType": 2, "TransactionType": None}, TransactionKind.EARN, 500),
            ({"LoyaltyTxnType": 2, "TransactionType": 2}, TransactionKind.CORRECTION, -500),
            ({"LoyaltyTxnType": 1, "TransactionType": None}, TransactionKind.REDEEM, -500),
            ({"LoyaltyTxnType": None}, TransactionKind.OTHER, -500),
            ({"Points": -500, "TransactionType": 9}, TransactionKind.REDEEM, -500),
        ],
    )
    def test_a_line_says_what_it_did_and_in_which_direction(
        self, changes: dict[str, Any], kind: TransactionKind, points: int
    ) -> None:
        (read,) = self.read(line(**changes))
        shown = transaction_of(read)
        assert (shown.kind, shown.points) == (kind, points)
        assert shown.time == datetime(2026, 2, 4, 2, 30, tzinfo=UTC)
        assert (shown.reference, shown.merchant, shown.narration) == (GUID, "Amazon", "Gift Card")

    def test_a_line_without_a_guid_is_named_by_its_number(self) -> None:
        (read,) = self.read(line(ExternalReference=None))
        assert transaction_of(read).reference == "541012"

    @pytest.mark.parametrize(
        "changes",
        [
            {"Id": None},
            {"Points": None},
            {"Points": Decimal("1.5")},
            {"TransactionDate": "2026-02-04T08:00:00Z"},
            {"TransactionDate": None},
            {"RelationReference": "m_8125"},
            {"ExternalReference": "none"},
            {"MerchantName": 5},
        ],
    )
    def test_a_line_that_is_not_whole_makes_the_page_unreadable(
        self, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(UnreadableAnswer):
            self.read(line(), line(**changes))

    @pytest.mark.parametrize(
        ("changes", "is_it"),
        [
            ({}, True),
            ({"points": 501}, False),
            ({"is_credit": True}, False),
            ({"is_credit": None}, True),
            ({"loyalty_type": 5}, False),
            ({"loyalty_type": 2}, False),
            ({"loyalty_type": 1}, True),
            ({"loyalty_type": None}, True),
            ({"merchant": "Amazing"}, True),
            ({"merchant": "AMAZON PRIME"}, True),
            ({"merchant": "Amaz"}, True),
            ({"merchant": ""}, True),
            ({"merchant": "Amazon Prime #ABCDEFGHI"}, True),
            ({"merchant": "Amazon Prime #abcdefghij"}, True),
            ({"merchant": "Amazon Prime #ABCDEFGHIJ"}, False),
            ({"merchant": "Amazon Prime #ABCDEFGHIJ "}, False),
            ({"merchant": "Amazon P&amp;R #RESTAURANT"}, True),
        ],
    )
    def test_a_line_that_might_be_the_booking_is_never_overlooked(
        self, changes: dict[str, Any], is_it: bool
    ) -> None:
        usual = {"loyalty_type": 30, "is_credit": False, "merchant": "Amazon Prime"}
        found = Line(1, changes.pop("points", 500), NOW, **{**usual, **changes})
        assert may_be(found, 500, "Amazon Prime #RESTAURANT", 30) is is_it

    @pytest.mark.parametrize(
        ("changes", "speaks_against_it"),
        [
            ({}, False),
            ({"merchant": "AMAZ "}, False),
            ({"merchant": ""}, False),
            ({"merchant": "Amazing"}, True),
            ({"external_reference": ""}, True),
        ],
    )
    def test_a_line_under_another_name_or_without_its_number_speaks_against_itself(
        self, changes: dict[str, Any], speaks_against_it: bool
    ) -> None:
        usual = {"external_reference": GUID, "merchant": "Amazon Prime"}
        assert is_unlike(Line(1, 500, NOW, **{**usual, **changes}), "Amazon Prime") is (
            speaks_against_it
        )

    def test_sums_are_by_category_and_unknown_ones_are_in_none(self) -> None:
        content = [
            {"Category": "Spend", "Points": 1200},
            {"Category": "Redeem", "Points": -300},
            {"Category": "Other Accrued", "Points": 7},
            {"Category": "Partner", "Points": 3},
            {"Category": "Expired Points", "Points": 50},
            {"Category": "Something new", "Points": 9},
        ]
        categories = history.decode_by_category(success(content))
        assert history.sums_of(categories) == {
            "earned": 1200,
            "redeemed": 300,
            "other": 10,
            "expired": 50,
        }
        assert ("Something new", 9) in categories

    def test_a_schedule_is_told_earliest_first(self) -> None:
        content = {
            "Period": "Quarterly",
            "ExpiryPeriod": [
                {"ScheduleDate": "2026-06-30T00:00:00", "TotalAvailablePoints": 5},
                {"ScheduleDate": "2026-03-31T00:00:00", "AccrualPoints": 500, "RedeemPoints": 100},
            ],
        }
        periods = history.decode_expiry(success(content)).periods
        assert [period.date for period in periods] == [date(2026, 3, 31), date(2026, 6, 30)]
        assert (periods[0].accrued, periods[0].available, periods[1].available) == (500, None, 5)


class TestMembers:
    person = Person(display_name="Jane Doe", email="jane@example.com", phone="+911")

    def test_a_member_is_enrolled_under_the_callers_number(self) -> None:
        person = Person(
            given_name="Jane",
            family_name="Doe",
            email="jane@example.com",
            phone="+911",
            birth_date=date(1990, 6, 15),
            attributes=(("gender", "F"), ("shoe_size", "38")),
        )
        assert json.loads(members.encode_profile("m_1", person, "5")) == {
            "relation_reference": "m_1",
            "full_name": "Jane Doe",
            "email_id": "jane@example.com",
            "mobile_number": "+911",
            "dob": "1990-06-15",
            "status": "5",
            "gender": "F",
            "shoe_size": "38",
        }

    def test_address_and_phone_may_be_told_as_attributes(self) -> None:
        further = (("email_id", "jane@example.com"), ("mobile_number", "+911"))
        person = Person(display_name="Jane Doe", attributes=further)
        assert members.encode_profile("m_1", person, "5") == members.encode_profile(
            "m_1", self.person, "5"
        )

    @pytest.mark.parametrize("left_out", ["display_name", "email", "phone"])
    def test_what_the_vendor_cannot_do_without_is_named(self, left_out: str) -> None:
        person = dataclasses.replace(self.person, **{left_out: ""})  # type: ignore[arg-type]
        with pytest.raises(MissingField):
            members.encode_profile("m_1", person, "5")

    @pytest.mark.parametrize("name", ["status", "relation_reference", "full_name", "dob"])
    def test_an_attribute_never_takes_the_place_of_a_field(self, name: str) -> None:
        person = Person("Jane Doe", email="j", phone="1", attributes=((name, "1"),))
        with pytest.raises(ValueError, match="field of its own"):
            members.encode_profile("m_1", person, "5")

    def test_an_update_sets_what_the_mask_names_and_nothing_else(self) -> None:
        body = members.encode_changes(12345, self.person, ("email", "display_name"))
        assert json.loads(body) == {
            "id": 12345,
            "data": {"email_id": "jane@example.com", "full_name": "Jane Doe"},
        }

    @pytest.mark.parametrize("mask", [(), ("type",), ("birth_date",), ("given_name",)])
    def test_what_cannot_be_set_is_refused(self, mask: tuple[str, ...]) -> None:
        with pytest.raises(ValueError):
            members.encode_changes(12345, self.person, mask)

    @pytest.mark.parametrize(("status", "word"), sorted(members.STATUSES.items()))
    def test_every_status_has_a_word_of_the_contract(self, status: int, word: str) -> None:
        facts = members.decode_member(success({"Id": 1, "Status": status}), "m_1", NOW)
        assert facts.status == word
        assert word in {"ACTIVE", "SUSPENDED", "BLOCKED", "CLOSED", "INACTIVE"}

    def test_a_status_that_is_not_known_is_not_told(self) -> None:
        assert members.decode_member(success({"Id": 1, "Status": 9}), "m_1", NOW).status == ""

    @pytest.mark.parametrize(
        "content",
        [
            None,
            True,
            {},
            {"Id": "1"},
            {"Id": 1, "RelationReference": "m_2"},
            {"Id": 1, "TotalPoints": Decimal("1.5")},
            {"Id": 1, "DOB": "yesterday"},
        ],
    )
    def test_a_profile_that_is_not_whole_is_unreadable(self, content: Any) -> None:
        with pytest.raises(UnreadableAnswer):
            members.decode_member(success(content), "m_1", NOW)

    def test_a_member_that_was_searched_for_has_to_be_named(self) -> None:
        with pytest.raises(UnreadableAnswer):
            members.decode_member(success({"Id": 1}), "", NOW)

    @pytest.mark.parametrize(
        ("shown", "is_same"),
        [
            ({"FullName": "JANE DOE", "Email": "Jane@Example.com"}, True),
            ({"FullName": "Jane Doe", "MobileNumber": "+912"}, False),
            ({"FullName": "John Doe"}, False),
            ({}, False),
        ],
    )
    def test_a_profile_is_ours_when_all_that_it_shows_is_what_we_sent(
        self, shown: dict[str, str], is_same: bool
    ) -> None:
        found = members.decode_member(success({"Id": 1, **shown}), "m_1", NOW)
        assert members.is_same_person(found, self.person) is is_same

    @pytest.mark.parametrize(("code", "number"), [("000000", 0), ("012345", 12345), ("9", 9)])
    def test_a_code_is_text_with_us_and_a_number_on_the_wire(self, code: str, number: int) -> None:
        body = members.encode_code_check(
            PROGRAMME, "m_1", code, ChallengePurpose.LOG_IN, "127.0.0.1"
        )
        assert json.loads(body)["OTP"] == number

    @pytest.mark.parametrize("code", ["", "12a", "-1", "+1", "1.0", " 1", "١٢٣", "1" * 10])
    def test_a_code_that_is_no_number_is_never_sent(self, code: str) -> None:
        with pytest.raises(ValueError, match="number"):
            members.encode_code_check(PROGRAMME, "m_1", code, ChallengePurpose.LOG_IN, "::1")

    def test_every_purpose_has_a_kind_of_code_of_the_document(self) -> None:
        assert set(members.CODE_TYPES) == set(ChallengePurpose)

    def test_what_is_linked_no_more_is_left_out(self) -> None:
        content = [
            {"SubRelationReference": "A-1", "SubRelationType": "ACCOUNT", "IsActive": True},
            {"SubRelationReference": "D-1", "SubRelationType": "DEVICE", "IsActive": False},
        ]
        (external,) = members.decode_links(success(content)).externals
        assert (external.kind, external.id) == ("account", "A-1")
