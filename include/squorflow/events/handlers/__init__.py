"""What a handler is. One file per kind beside this one; each has a `make(argument, config)` for the registry.

Owns the base class. Retries, order and time limits are the dispatcher's business: a handler delivers one event or
raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squorflow.events.event import WorkflowEvent


class WorkflowEventHandler(ABC):
    """Base of handlers; subclasses override `handle`, and the rest where the defaults do not fit.

    `handle` may be called more than once with the same event (the same `event_id`), for different workflows at the same
    time, and from another event loop each time a dispatcher runs.
    """

    name: str = ""
    """What its deliveries are kept under, over restarts; empty: `python:<module>.<class>`."""

    topics: frozenset[str] | None = None
    """Event types it wants, or `state_changed:<state>`; `None` is all."""

    dependency: str | None = None
    """Whose circuit breaker guards it; `None` for what cannot be down by itself."""

    concurrency: int | None = None
    """How many events it is given at once; `None` is as many as configured."""

    @abstractmethod
    async def handle(self, event: WorkflowEvent) -> None:
        """Deliver one event; return only when it has arrived.

        Raise a `DataError` for an event that can never be delivered, a `RateLimitError` to be asked again later, a
        `SystemFault` or `ConfigurationError` for a fault of the set-up (which costs the event none of its attempts);
        after anything else it is tried again, a limited number of times.
        """

    def close(self) -> None:  # noqa: B027 - most handlers keep nothing open
        """Close what is kept open; a dispatcher calls it when it ends, and may use the handler again."""
