"""Who subscribes to which events, what could not be delivered, and how it goes out after all.

Nothing here calls a handler; a replayed delivery is made by the next dispatcher.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.errors import ConfigurationError
from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

MOST_COUNTED = 10_000
"""Undelivered events are counted up to here."""

_BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A handler that gets events; `topics` is `None` for all. Counts stop at `MOST_COUNTED`."""

    handler: str
    topics: tuple[str, ...] | None
    since: datetime
    seen_at: datetime
    pending: int
    waiting: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """A delivery that is dead, or failed and will be tried again; the event's own fields are `None` once archived."""

    event_id: UUID
    handler: str
    status: str
    attempts: int
    next_attempt_at: datetime | None
    last_error: str | None
    event_type: str | None
    workflow_id: UUID | None
    created_at: datetime | None


def list_subscriptions(database: Database) -> list[Subscription]:
    """Return every subscription with how much of it is undelivered."""
    with database.begin() as connection:
        return [
            Subscription(
                handler=row.handler,
                topics=None if row.topics is None else tuple(row.topics),
                since=row.since,
                seen_at=row.seen_at,
                pending=row.pending,
                waiting=row.waiting,
                dead=row.dead,
            )
            for row in connection.execute(load("inspection")["list_subscriptions"], {"most": MOST_COUNTED})
        ]


def list_undelivered(database: Database, *, handler: str | None = None, page_size: int = 100) -> list[Undelivered]:
    """Return dead deliveries, then those that failed and will be tried again; `handler` narrows it to one."""
    parameters = {"handler": handler, "page_size": page_size}
    with database.begin() as connection:
        return [
            Undelivered(
                event_id=row.event_id,
                handler=row.handler,
                status=row.status,
                attempts=row.attempts,
                next_attempt_at=row.next_attempt_at if row.status == "pending" else None,
                last_error=row.last_error,
                event_type=row.event_type,
                workflow_id=row.workflow_id,
                created_at=row.created_at,
            )
            for row in connection.execute(load("inspection")["list_undelivered"], parameters)
        ]


def replay(database: Database, *, handler: str | None = None, event_id: UUID | None = None) -> int:
    """Let dead deliveries be tried anew, all or those of one handler or event; return how many."""
    total = 0
    while True:
        parameters = {"handler": handler, "event_id": event_id, "batch_size": _BATCH}
        with database.session() as connection:
            count = int(connection.execute(load("inspection")["replay"], parameters).scalar_one())
        total += count
        if count < _BATCH:
            return total


def forget(database: Database, handler: str) -> int:
    """End a handler's subscription for good; return how many deliveries went with it.

    Raises `ConfigurationError` when there is no such subscription.
    """
    with database.session() as connection:
        count: int | None = connection.execute(load("inspection")["forget"], {"handler": handler}).scalar_one()
    if count is None:
        raise ConfigurationError(f"no handler {handler!r} is subscribed: `squorflow events handlers` lists them")
    return count
