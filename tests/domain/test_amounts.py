"""Money is exact or refused; no float gets in anywhere."""

import ast
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loyalty_gateway.domain
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, MINOR_MAX, Money, Points

currencies = st.sampled_from(sorted(CURRENCY_EXPONENTS))


@given(currencies, st.integers(-MINOR_MAX, MINOR_MAX))
def test_an_amount_survives_its_text_exactly(currency: str, minor: int) -> None:
    money = Money(currency, minor)

    assert Money.from_decimal(currency, money.to_decimal()) == money
    assert Money.from_decimal(currency, Decimal(str(money.to_decimal()))) == money


@given(currencies, st.integers(-MINOR_MAX, MINOR_MAX))
def test_an_amount_is_shown_with_exactly_its_currencys_digits(currency: str, minor: int) -> None:
    digits, _, name = str(Money(currency, minor)).partition(" ")

    assert name == currency
    assert len(digits.partition(".")[2]) == CURRENCY_EXPONENTS[currency]


@pytest.mark.parametrize(
    ("currency", "text", "minor"),
    [
        ("CHF", "42.50", 4250),
        ("CHF", "42.5", 4250),
        ("CHF", "4.25E1", 4250),
        ("CHF", "-0.01", -1),
        ("JPY", "500", 500),
        ("JPY", "500.0", 500),
        ("BHD", "1.234", 1234),
        ("CLF", "1.2345", 12345),
        ("CHF", "10000000000000.00", MINOR_MAX),
    ],
)
def test_what_fits_the_currency_is_taken_exactly(currency: str, text: str, minor: int) -> None:
    assert Money.from_decimal(currency, Decimal(text)) == Money(currency, minor)


@pytest.mark.parametrize(
    ("currency", "text"),
    [
        ("CHF", "0.001"),
        ("CHF", "42.505"),
        ("JPY", "0.5"),
        ("BHD", "0.0001"),
        ("CHF", "10000000000000.01"),
        ("CHF", "-10000000000000.01"),
        ("CHF", "1.0000000000000000000000000000001"),
        ("CHF", "0.0000000000000000000000000000001"),
        ("CHF", "1E+30"),
        ("CHF", "1E+999999"),
        ("CHF", "1E-999999"),
        ("CHF", "NaN"),
        ("CHF", "sNaN"),
        ("CHF", "Infinity"),
        ("CHF", "-Infinity"),
        ("chf", "1"),
        ("ZZZ", "1"),
        ("DEM", "1"),
        ("XAU", "1"),
        ("", "1"),
    ],
)
def test_what_does_not_fit_is_refused_never_rounded(currency: str, text: str) -> None:
    with pytest.raises(ValueError):
        Money.from_decimal(currency, Decimal(text))


@given(currencies, st.decimals(allow_nan=True, allow_infinity=True))
def test_no_number_is_ever_rounded(currency: str, value: Decimal) -> None:
    try:
        money = Money.from_decimal(currency, value)
    except ValueError:
        return
    assert money.to_decimal() == value


def test_the_currencies_that_iso_4217_gives_other_digits_have_them() -> None:
    assert {CURRENCY_EXPONENTS[code] for code in ("JPY", "KRW", "CLP", "ISK", "VND")} == {0}
    assert {CURRENCY_EXPONENTS[code] for code in ("BHD", "KWD", "TND", "JOD", "OMR")} == {3}
    assert {CURRENCY_EXPONENTS[code] for code in ("CHF", "EUR", "USD", "GBP", "HUF")} == {2}
    assert all(len(code) == 3 and code.isupper() for code in CURRENCY_EXPONENTS)


def test_points_are_shown_with_their_unit() -> None:
    assert (str(Points(5)), str(Points(5, "miles"))) == ("5 points", "5 miles")


MONEY_PATHS = ["domain", "journal", "booking"]


@pytest.mark.parametrize("room", MONEY_PATHS)
def test_no_float_is_made_on_the_way_of_money(room: str) -> None:
    """Times in seconds are floats; making a float of something, or dividing, is not needed."""
    assert loyalty_gateway.domain.__file__ is not None
    folder = Path(loyalty_gateway.domain.__file__).parent.parent / room
    files = sorted(folder.rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="float")) | ast.BinOp(op=ast.Div()):
                    words = ast.unparse(node)
                    assert words in ALLOWED, f"{file.name}:{node.lineno}: {words}"


ALLOWED = {
    "self.adapter.key_lifetime_s / 2": "half of a time",
    "_BUSY_TIMEOUT_MS / 1000": "a time in seconds",
    "_STATEMENT_MS / 1000": "a time in seconds",
    "base_s * (1000 + spread) / 1000": "a time in seconds",
    "(self.now_us() - time.time_ns() // 1000) / 1000000.0": "a difference of clocks in seconds",
}
"""What may be divided all the same, and what it is."""
