"""An event as handlers see it, and how to write one of your own into the outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

STATE_CHANGED = "state_changed"
ALERT_OPENED = "alert_opened"
ALERT_RESOLVED = "alert_resolved"

ALARMS = frozenset({"state_changed:failed", ALERT_OPENED, ALERT_RESOLVED})
"""What people are told by default: failures (those for good, see `is_an_alarm`) and alerts."""

LARGEST_DATA = 200_000
"""Characters of JSON an event may carry: more than any receiver takes in good grace."""

_LONGEST_TYPE = 50
_OTHER_SPELLING = {"from": "from_state", "to": "to_state", "from_state": "from", "to_state": "to"}


class EventData(dict[str, Any]):
    """What an event tells; states answer to both spellings of their keys, `None` where the event is no change of state.

    So a handler may ask any event for `data["to_state"]`; `in` and `get` say what is really there.
    """

    def __missing__(self, key: str) -> Any:
        if key not in _OTHER_SPELLING:
            raise KeyError(key)
        return self.get(_OTHER_SPELLING[key])


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEvent:
    """Something that happened to a workflow, or to the installation (`workflow_id` is `None` then).

    `event_id` is the same at every delivery of the event: receivers drop what they have seen. It and `created_at` are
    `None` for an event that has not been written yet. `state_changed` carries `from`, `to`, `from_state`, `to_state`,
    `will_retry`, `sequence`, `stage`, `reason` and `actor`; of other events these states read as `None`.
    """

    workflow_id: UUID | str | None
    event_type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    event_id: UUID | None = None
    created_at: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", EventData(self.data))


def is_final_failure(event: WorkflowEvent) -> bool:
    """Say whether a workflow failed for good: a failure that will be tried again is nobody's alarm."""
    return (
        event.event_type == STATE_CHANGED
        and event.data.get("to_state") == "failed"
        and event.data.get("will_retry") is not True
    )


def is_an_alarm(event: WorkflowEvent) -> bool:
    """Say whether people are to be told, of an event they subscribe to: failures that will be retried are no news."""
    return event.data.get("to_state") != "failed" or is_final_failure(event)


async def emit_event(event: WorkflowEvent, *, database: Database | None = None) -> None:
    """Write an event of your own into the outbox, in a transaction of its own; it goes to every handler that wants it.

    To write one in your own transaction, use `squorflow.workflow.outbox.append_event`. Raises `ValueError` for an
    event that is too large, or whose type or workflow id cannot be one.
    """
    from squorflow.postgres.database import get_database
    from squorflow.workflow.transitions import to_json

    workflow_id = None if event.workflow_id is None else UUID(str(event.workflow_id))
    if not event.event_type or len(event.event_type) > _LONGEST_TYPE:
        raise ValueError(f"an event's type has 1 to {_LONGEST_TYPE} characters, {event.event_type[:60]!r} does not")
    data = _with_both_spellings(event) if event.event_type == STATE_CHANGED else dict(event.data)
    size = len(to_json(data))
    if size > LARGEST_DATA:
        raise ValueError(f"an event's data may have {LARGEST_DATA:,} characters as JSON, this one has {size:,}")

    def write() -> None:
        from squorflow.workflow.outbox import append_event

        with (database or get_database()).begin() as connection:
            append_event(connection, workflow_id, event_type=event.event_type, data=data)

    await asyncio.to_thread(write)


def _with_both_spellings(event: WorkflowEvent) -> dict[str, Any]:
    """Complete a hand-made state change: handlers read `to_state`, the short form is `to`."""
    data = dict(event.data)
    for name, other in _OTHER_SPELLING.items():
        if name in event.data:
            data.setdefault(other, data[name])
    return data
