"""Appends events to the outbox, in the caller's transaction. Delivering them is `squorflow.events`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.states import Stage
from squorflow.workflow.transitions import to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection


def append_event(
    connection: Connection, workflow_id: UUID | None, *, event_type: str, data: Mapping[str, Any], once: bool = False
) -> None:
    """Append one event; it goes out only after the caller's transaction has committed.

    `workflow_id` is `None` for news about no workflow. With `once`, a workflow that has an event of this type already
    gets no second one.
    """
    connection.execute(
        load("outbox")["append_once" if once else "append"],
        {
            "workflow_id": workflow_id,
            "event_type": event_type,
            "event_data": to_json(data),
        },
    )


def append_stale_write(connection: Connection, workflow_id: UUID, *, token: int, stage: Stage, actor: str) -> None:
    """Record that a write was refused; needs a transaction of its own, since the refused one is rolled back."""
    connection.execute(
        load("outbox")["append_stale_write"],
        {"workflow_id": workflow_id, "token": token, "stage": stage.value, "actor": actor},
    )
