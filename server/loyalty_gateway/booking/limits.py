"""Every limit of the engine in one place; nothing here decides."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every limit of the engine; the values are the configuration's."""

    deadline_min_s: float = 0.25
    in_flight_max: int = 512
    in_flight_per_connection_max: int = 128
    tombstones_per_hour_max: int = 1000
    unresolved_max: int = 1000
    attempt_total_s: float = 15.0
    lease_s: float = 30.0
    send_by_s: float = 2.0
    settle_retry_s: float = 10.0
    challenge_life_s: float = 600.0
    proof_life_s: float = 1800.0
