"""Settings in place of the configuration's own."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """The section `telemetry` as this room needs it."""

    otlp_endpoint: str = ""
    sample_ratio: float = 1.0
    log_level: str = "info"
    log_format: Literal["json", "text"] = "json"
