"""Money and points as exact integers; a float never enters here."""

from dataclasses import dataclass
from decimal import Decimal

# ISO 4217 minor units, for the currencies whose number is not two, then the ordinary ones.
_EXPONENTS_OTHER = {
    **dict.fromkeys(
        ("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF").split(), 0
    ),
    **dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3),
    **dict.fromkeys("CLF UYW".split(), 4),
}
_TWO_DIGITS = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD "
    "CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD "
    "GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL "
    "MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN "
    "PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP "
    "SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD YER ZAR ZMW"
).split()

CURRENCY_EXPONENTS: dict[str, int] = {**dict.fromkeys(_TWO_DIGITS, 2), **_EXPONENTS_OTHER}
"""Digits after the decimal point, by ISO 4217 code; a code that is not here is not accepted."""

_DIGITS_MAX = 28

MINOR_MAX = 10**15
"""The largest number of minor units or points that a booking may carry."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (Rappen, cents); `currency` is a key of CURRENCY_EXPONENTS."""

    currency: str
    minor: int

    @classmethod
    def from_decimal(cls, currency: str, value: Decimal) -> "Money":
        """The exact amount, or ValueError where the currency has fewer digits or is unknown."""
        exponent = CURRENCY_EXPONENTS.get(currency)
        if exponent is None:
            raise ValueError("unknown currency")
        if not value.is_finite():
            raise ValueError("not a finite amount")
        # Decimal arithmetic rounds beyond its digits, and a number of six characters may have an
        # exponent that takes as much memory as it says.
        if len(value.as_tuple().digits) > _DIGITS_MAX or abs(value.adjusted()) > _DIGITS_MAX:
            raise ValueError("amount out of range")
        scaled = value.scaleb(exponent)
        minor = int(scaled)
        if scaled != minor or abs(minor) > MINOR_MAX:
            raise ValueError("amount does not fit the minor unit of its currency")
        return cls(currency, minor)

    def to_decimal(self) -> Decimal:
        """The amount in major units with exactly the currency's digits (42.50, never 42.5)."""
        exponent = CURRENCY_EXPONENTS[self.currency]
        return Decimal(self.minor).scaleb(-exponent).quantize(Decimal(1).scaleb(-exponent))

    def __str__(self) -> str:
        return f"{self.to_decimal()} {self.currency}"


@dataclass(frozen=True, slots=True)
class Points:
    """A whole number of loyalty points; `unit` is empty where the vendor has only one kind."""

    value: int
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.unit or 'points'}"


Amount = Money | Points
