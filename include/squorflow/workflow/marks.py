"""What follows for workflows when a person marks a task or a run in Airflow's UI.

Owns what a mark means for a workflow, and which tries of Airflow's nobody asked for. Nothing here commits. Who calls
it, and how long it may take, is `squorflow.airflow.listener`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from squorflow.postgres.queries import load
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import queue, waking
from squorflow.workflow.transitions import clean, to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

Mark = Literal["failed", "success"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTry:
    """One try of one stage's task in a run."""

    map_index: int
    stage: Stage
    try_number: int


def bound_time(connection: Connection, *, limit: timedelta) -> None:
    """Let no statement of this transaction take longer than `limit`, waiting for locks included."""
    milliseconds = str(int(limit.total_seconds() * 1000))
    connection.execute(load("marks")["bound_time"], {"milliseconds": milliseconds})


def mark(
    connection: Connection, *, owner: str, map_index: int, stage: Stage, as_: Mark, actor: str
) -> WorkflowState | None:
    """Bring the product of a run's map index along with its task; return its new state, `None` if nothing changes.

    Marked failed: what runs or waits is failed, what is queued or retrying is suspended. Marked success: what really
    is done stays, all else is suspended for a person. What has ended, or belongs to another owner, is left alone.
    """
    state = connection.execute(
        load("marks")["mark"],
        {"owner": owner, "map_index": map_index, "stage": stage.value, "mark": as_, "actor": clean(actor)},
    ).scalar_one()
    return WorkflowState(state) if state else None


def record_unasked(connection: Connection, *, owner: str, tries: Collection[StageTry]) -> None:
    """Remember tries that Airflow will make by itself, because another product's task was marked."""
    parameters = {"owner": owner, "tries": to_json([asdict(one) for one in tries])}
    connection.execute(load("marks")["record_unasked"], parameters)


def was_unasked(connection: Connection, *, owner: str, attempt: StageTry) -> bool:
    """Say whether this very try was nobody's wish."""
    parameters = {**asdict(attempt), "owner": owner, "stage": attempt.stage.value}
    return bool(connection.execute(load("marks")["find_unasked"], parameters).scalar_one())


def release_run(connection: Connection, *, owner: str, actor: str, reason: str) -> int:
    """Take back everything a run owns, at no cost to any product; return how many."""
    begun = connection.execute(
        load("marks")["release_begun"], {"owner": owner, "actor": clean(actor), "reason": clean(reason)}
    ).all()
    released = len(begun) + queue.give_back(connection, owner=owner)
    if released:
        waking.announce(connection)
    return released
