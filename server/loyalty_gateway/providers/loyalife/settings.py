"""What an operator sets for a connection to Loyalife; what no page tells is a setting here."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator, model_validator

from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS
from loyalty_gateway.providers.connection import ConnectionSettings
from loyalty_gateway.providers.loyalife.status import status_table
from loyalty_gateway.providers.loyalife.wire.bookings import (
    REDEMPTION_KINDS,
    Programme,
    redemption_kind,
)
from loyalty_gateway.providers.loyalife.wire.times import DeploymentTime

CODES_MAX: Final = 100


class Settings(ConnectionSettings):
    """One programme at one deployment."""

    client_id: str = Field(min_length=1, max_length=200)
    """The client's id, as the vendor gave it."""
    client_secret: SecretStr | None = Field(default=None, repr=False)
    """The client's secret; this or its file is needed."""
    client_secret_file: Path | None = None
    """A file with the secret, instead of it."""
    program_id: int = Field(ge=0, le=2_147_483_647)
    """The programme that members and their points belong to."""
    relation_type: int = Field(default=4, ge=0, le=1_000)
    """What members are; 4 is a customer."""
    transaction_currency: str = Field(default="DEFAULT", min_length=1, max_length=40)
    """The points' own currency within the programme."""
    currency: str
    """ISO 4217 of the money that purchases and redemptions name; the vendor does not say."""
    time_zone: str = Field(min_length=1, max_length=64)
    """The deployment's IANA zone: the vendor writes times without one, so it must be asked for."""
    merchant_name: str = Field(default="", max_length=200)
    """Where points are redeemed, when a sale does not say."""
    redemption_kind: str = Field(default="", max_length=40)
    """The kind of a redemption that names none."""
    redemption_kinds: dict[str, int] = Field(default_factory=dict, max_length=CODES_MAX)
    """The programme's own kinds beside the five that are documented."""
    codes: dict[str, str] = Field(default_factory=dict, max_length=CODES_MAX)
    """What the programme's codes mean, over the documented and the assumed ones."""
    new_member_status: Literal["1", "5"] = "5"
    """A new member is inactive (5) until the programme activates it, or active (1) at once."""
    source_address: str = Field(default="127.0.0.1", min_length=1, max_length=45)
    """The address that one-time codes are asked for from, as the vendor logs it."""
    source_code: int = Field(default=1, ge=0, le=1_000)
    """The channel that one-time codes are asked for from, by the vendor's number."""
    proof_member: str = Field(default="", max_length=64, repr=False)
    """A member that promises may be proven on; each proof moves a point or two on it."""
    proof_product: str = Field(default="", max_length=64)
    """A product whose purchase earns that member at least a point."""

    @field_validator("currency")
    @classmethod
    def _known_currency(cls, value: str) -> str:
        if value not in CURRENCY_EXPONENTS:
            raise ValueError("must be an ISO 4217 code")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, LookupError) as error:
            raise ValueError("must be an IANA time zone, such as Asia/Kolkata") from error
        return value

    @field_validator("codes")
    @classmethod
    def _known_meanings(cls, value: dict[str, str]) -> dict[str, str]:
        status_table(value)
        return value

    @model_validator(mode="after")
    def _known_kind(self) -> Self:
        if self.redemption_kind and redemption_kind(self.redemption_kind, self.kinds) is None:
            raise ValueError(f"redemption_kind must be one of {', '.join(self.kinds)}")
        return self

    @property
    def kinds(self) -> Mapping[str, int]:
        """Every kind of redemption by name, the programme's own first."""
        return {**REDEMPTION_KINDS, **self.redemption_kinds}

    @property
    def programme(self) -> Programme:
        """What names the programme in every request."""
        return Programme(self.program_id, self.relation_type, self.transaction_currency)

    @property
    def clock(self) -> DeploymentTime:
        """The deployment's time."""
        return DeploymentTime(ZoneInfo(self.time_zone))

    @property
    def target(self) -> str:
        """What the outbound ids belong to; the secret may change, the programme may not."""
        credential = hashlib.sha256(b"loyalife client: " + self.client_id.encode()).hexdigest()
        return f"{self.base_url}|{self.program_id}|{credential[:16]}"


def needed_for_redemption(settings: Settings) -> tuple[str, ...]:
    """The fields that a redemption cannot do without, as far as no setting stands in for them."""
    needed = {
        "money_value": True,
        "redemption_kind": not settings.redemption_kind,
        "sale.merchant_name": not settings.merchant_name,
    }
    return tuple(field for field, is_needed in needed.items() if is_needed)
