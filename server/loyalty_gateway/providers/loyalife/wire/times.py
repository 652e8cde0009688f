"""Loyalife's times: the deployment's own, written without a zone; never guessed to be UTC."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo

_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{1,7})?)?", re.ASCII)
_FRACTION_DIGITS_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class DeploymentTime:
    """Translates between moments and the local times of the vendor's deployment."""

    zone: ZoneInfo

    def encode(self, moment: datetime) -> str:
        """A moment as the vendor writes it, to the millisecond."""
        local = moment.astimezone(self.zone).replace(tzinfo=None)
        return local.isoformat(timespec="milliseconds")

    def encode_day(self, moment: datetime) -> str:
        """The day that it is at the vendor's."""
        return moment.astimezone(self.zone).date().isoformat()

    def decode(self, text: str) -> datetime:
        """The moment in UTC; of the two that an hour of autumn has, the earlier one.

        Raises:
            ValueError: it is no time, or has a zone.
        """
        if not _LOCAL.fullmatch(text):
            raise ValueError("no time without a zone")
        try:
            return datetime.fromisoformat(_cut(text)).replace(tzinfo=self.zone).astimezone(UTC)
        except OverflowError as error:
            raise ValueError("a time out of range") from error


def decode_day(text: str) -> date:
    """The day of a time, in whatever zone: a birthday or an end of points is no moment.

    Raises:
        ValueError: it is no time.
    """
    if not _LOCAL.fullmatch(text):
        raise ValueError("no time without a zone")
    return date.fromisoformat(text[:10])


def _cut(text: str) -> str:
    """Without the digits of a fraction that Python does not keep."""
    match = re.search(r"\.(\d+)", text)
    if match is None or len(match[1]) <= _FRACTION_DIGITS_MAX:
        return text
    return text.replace(match[0], match[0][: _FRACTION_DIGITS_MAX + 1])
