"""Settings in place of the configuration's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """The section `telemetry` as this room needs it."""

    otlp_endpoint: str = ""
    trace_file: Path | None = None
    sample_ratio: float = 1.0
    log_level: str = "info"
    log_format: Literal["json", "text"] = "json"
