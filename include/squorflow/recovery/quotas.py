"""Quotas of outside services: reserved in Postgres before a call, settled after it, shared by all workers.

Owns the limits and the account. Every call commits on its own. A minute is a sliding window; a day ends at midnight of
the service's time zone. What a worker reserved and never settled counts as used until its minute and day are over,
since the call may have been made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from squorflow.errors import RateLimitError
from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

GEMINI = "gemini"

_ZONES = {GEMINI: "America/Los_Angeles"}
"""Where a service's day ends. Gemini's quotas per day reset at midnight Pacific time (ai.google.dev, rate limits)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a service allows; `None` is no limit. A row of `quota_limits` wins over these."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One request and some tokens that are reserved; the second and day they count in."""

    dependency: str
    slot: int
    reserved_day: date
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaStatus:
    """What is used of one quota; `share` is a fraction, `None` where there is no limit."""

    dependency: str
    quota: str
    used: int
    allowed: int | None
    share: float | None
    exhausted_until: datetime | None


def limits_of(dependency: str, *, config: WorkflowConfig) -> Limits:
    """Return the configured limits of a dependency; those it has no settings for have none."""
    zone = _ZONES.get(dependency, "UTC")
    if dependency != GEMINI:
        return Limits(zone=zone)
    return Limits(
        requests_per_minute=config.gemini_requests_per_minute or None,
        requests_per_day=config.gemini_requests_per_day or None,
        tokens_per_minute=config.gemini_tokens_per_minute or None,
        tokens_per_day=config.gemini_tokens_per_day or None,
        zone=zone,
    )


def reserve(database: Database, dependency: str, *, tokens: int, limits: Limits) -> Reservation:
    """Reserve one request and `tokens` tokens.

    Raises `RateLimitError` (`own_quota`) whose `retry_after` says when they fit.
    """
    with database.begin() as connection:
        row = connection.execute(
            load("quotas")["reserve"],
            {
                "dependency": dependency,
                "tokens": tokens,
                "requests_per_minute": limits.requests_per_minute,
                "requests_per_day": limits.requests_per_day,
                "tokens_per_minute": limits.tokens_per_minute,
                "tokens_per_day": limits.tokens_per_day,
                "zone": limits.zone,
            },
        ).one()
    if not row.granted:
        raise RateLimitError(
            f"the quota of {dependency} is used up ({row.limited_by})",
            retry_after=max(row.wait, timedelta(seconds=1)),
            code="own_quota",
            details={"dependency": dependency, "limited_by": row.limited_by},
        )
    return Reservation(dependency=dependency, slot=row.slot, reserved_day=row.reserved_day, tokens=row.reserved_tokens)


def settle(database: Database, reservation: Reservation, *, tokens: int) -> None:
    """Replace the reserved tokens by those the call really took; call it once for a reservation."""
    _adjust(database, reservation, requests=0, tokens=tokens - reservation.tokens)


def give_back(database: Database, reservation: Reservation) -> None:
    """Take a reservation back whose call was never made; call it once, and never after `settle`."""
    _adjust(database, reservation, requests=-1, tokens=-reservation.tokens)


def _adjust(database: Database, reservation: Reservation, *, requests: int, tokens: int) -> None:
    if not (requests or tokens):
        return
    with database.begin() as connection:
        connection.execute(
            load("quotas")["settle"],
            {
                "dependency": reservation.dependency,
                "slot": reservation.slot,
                "reserved_day": reservation.reserved_day,
                "requests": requests,
                "tokens": tokens,
            },
        )


def exhaust(database: Database, dependency: str, *, wait: timedelta | None, zone: str) -> timedelta:
    """Note that the service refuses everybody for `wait`, `None` until its day ends; return how long that is."""
    with database.begin() as connection:
        remaining: timedelta = connection.execute(
            load("quotas")["exhaust"], {"dependency": dependency, "wait": wait, "zone": zone}
        ).scalar_one()
    return remaining


def list_status(connection: Connection) -> list[QuotaStatus]:
    """Return every quota of every dependency that has been called."""
    return [
        QuotaStatus(
            dependency=row.dependency,
            quota=row.quota,
            used=int(row.used),
            allowed=row.allowed,
            share=float(row.share) if row.share is not None else None,
            exhausted_until=row.exhausted_until,
        )
        for row in connection.execute(load("quotas")["list_status"])
    ]
