"""Handlers for tests: they remember what they were given, and fail as they are told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from squorflow.config import WorkflowConfig
from squorflow.events import WorkflowEvent, WorkflowEventHandler
from squorflow.events.dispatcher import DeliveryReport, deliver_pending
from squorflow.events.registry import Handler, add_event_handler, get_handlers, remove_event_handler
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from support.workflows import reach, rows


class Recorder(WorkflowEventHandler):
    """Remembers every event it is given; `react` is called with each and may raise."""

    def __init__(
        self,
        name: str = "recorder",
        *,
        react: Callable[[WorkflowEvent], None] = lambda _event: None,
        topics: frozenset[str] | None = None,
    ) -> None:
        self.name = name
        self.topics = topics
        self.react = react
        self.given: list[WorkflowEvent] = []
        self.taken: list[WorkflowEvent] = []

    async def handle(self, event: WorkflowEvent) -> None:
        self.given.append(event)
        self.react(event)
        self.taken.append(event)

    def moves(self) -> list[str]:
        """Return the states that were told, in the order they were taken."""
        return [event.data["to_state"] for event in self.taken if event.event_type == "state_changed"]


class Waiting(WorkflowEventHandler):
    """Says when it has an event and keeps it until it is let go."""

    name = "waiting"

    def __init__(self) -> None:
        self.has_one = threading.Event()
        self.go_on = threading.Event()

    async def handle(self, event: WorkflowEvent) -> None:
        del event
        self.has_one.set()
        await asyncio.to_thread(self.go_on.wait, 60)


def registered(*handlers: WorkflowEventHandler) -> list[Handler]:
    """Return handlers as a dispatcher takes them."""
    names = []
    for handler in handlers:
        add_event_handler(handler)
        names.append(handler.name)
    try:
        return [one for one in get_handlers(WorkflowConfig(event_handlers=())) if one.name in names]
    finally:
        for name in names:
            remove_event_handler(name)


def deliver(
    database: Database, config: WorkflowConfig, *handlers: WorkflowEventHandler, budget: float = 60
) -> DeliveryReport:
    """Deliver what is due to these handlers."""
    return deliver_pending(database, config=config, handlers=registered(*handlers), budget=timedelta(seconds=budget))


def finished(database: Database) -> UUID:
    """Make a workflow with four transitions."""
    with database.begin() as connection:
        return reach(connection, WorkflowState.COMPLETED)


def statuses(database: Database, handler: str = "recorder") -> list[str]:
    """Return the statuses of a handler's deliveries in the order of their events."""
    found = rows(
        database, "SELECT status FROM event_delivery WHERE handler = :handler ORDER BY position", handler=handler
    )
    return [row.status for row in found]


def failing(error: Exception, *, when: Callable[[WorkflowEvent], bool] = lambda _event: True) -> Callable[..., None]:
    """Return a reaction that raises."""

    def react(event: WorkflowEvent) -> None:
        if when(event):
            raise error

    return react


def make_due(database: Database) -> None:
    """Let the time of every pending delivery come."""
    rows(database, "UPDATE event_delivery SET next_attempt_at = clock_timestamp() WHERE status = 'pending'")
