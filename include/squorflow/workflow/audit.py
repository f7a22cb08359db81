"""Reads the audit trail and proves it: every trail must replay to its row's present state, hash by hash.

Finds rows altered, removed or added behind the triggers' back, by whomever. A superuser who rewrites a whole chain
and the queue row with it is found only by comparing exported chain heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

_BATCH = 1000
_FIRST_ID = UUID(int=0)
_LAST_ID = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailRow:
    """One row of the audit trail; `duration_in_state` is the seconds spent in `from_state`, `None` for the first."""

    transition_id: UUID
    sequence: int
    from_state: str | None
    to_state: str
    stage: str | None
    reason: str
    metadata: dict[str, Any]
    actor: str
    db_user: str
    created_at: datetime
    duration_in_state: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestStep:
    """A step of any workflow, as it is told to those who watch."""

    transition_id: UUID
    workflow_id: UUID
    sequence: int
    from_state: str | None
    to_state: str
    stage: str | None
    reason: str
    actor: str
    created_at: datetime
    product_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in a workflow's trail that does not hold."""

    workflow_id: UUID
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How many trails were replayed and what was found; no problems means all of them hold."""

    workflows: int
    problems: tuple[Problem, ...]


def find_latest(connection: Connection) -> UUID:
    """Return this moment in the form of the trail's keys: what comes later is greater."""
    found: UUID = connection.execute(load("audit")["find_latest"]).scalar_one()
    return found


def list_latest(connection: Connection, *, after: UUID, most: int) -> list[LatestStep]:
    """Return the latest steps of all workflows after a key, at most so many, oldest first.

    A step's key is given when it is made and it is seen when its transaction commits, so a step may turn up behind
    others with greater keys.
    """
    rows = connection.execute(load("audit")["list_latest"], {"after": after, "most": most}).all()
    return [LatestStep(**row._mapping) for row in reversed(rows)]


def find_last_sequence(connection: Connection, workflow_id: UUID) -> int:
    """Return the number of a workflow's last step; 0 when there is none."""
    return int(connection.execute(load("audit")["find_last_sequence"], {"workflow_id": workflow_id}).scalar_one())


def list_history(
    connection: Connection, workflow_id: UUID, *, after: int = 0, most: int | None = None
) -> list[TrailRow]:
    """Return a workflow's trail after the step of number `after`, oldest first, at most so many steps.

    Empty when there is no such workflow.
    """
    parameters = {"workflow_id": workflow_id, "after": after, "most": most}
    rows = connection.execute(load("audit")["list_history"], parameters)
    return [
        TrailRow(
            transition_id=row.transition_id,
            sequence=row.sequence,
            from_state=row.from_state,
            to_state=row.to_state,
            stage=row.stage,
            reason=row.reason,
            metadata=row.metadata,
            actor=row.actor,
            db_user=row.db_user,
            created_at=row.created_at,
            duration_in_state=float(row.duration_in_state) if row.duration_in_state is not None else None,
        )
        for row in rows
    ]


def verify(database: Database, *, on_progress: Callable[[int], None] | None = None) -> Verification:
    """Replay every trail, in short transactions of 1,000 workflows; `on_progress` is told how many are done."""
    first, workflows = _FIRST_ID, 0
    problems: list[Problem] = []
    while True:
        found, count, last = _verify_batch(database, first=first, size=_BATCH)
        problems += found
        workflows += count
        if on_progress:
            on_progress(workflows)
        if last == _LAST_ID:
            return Verification(workflows=workflows, problems=tuple(problems))
        first = UUID(int=last.int + 1)


def verify_slice(database: Database, *, first: UUID, size: int) -> tuple[list[Problem], UUID]:
    """Replay the trails of `size` workflows from the id `first` on; return what does not hold, and the next id.

    After the last workflow the next id is the first of all.
    """
    found, _, last = _verify_batch(database, first=first, size=size)
    return found, _FIRST_ID if last == _LAST_ID else UUID(int=last.int + 1)


def verify_some(database: Database, workflow_ids: Sequence[UUID]) -> list[Problem]:
    """Replay the trails of these workflows; return what does not hold."""
    with database.begin() as connection:
        return _verify(connection, workflow_ids)


def _verify_batch(database: Database, *, first: UUID, size: int) -> tuple[list[Problem], int, UUID]:
    """Verify up to `size` workflows in one transaction; return problems, how many there were, and the last id."""
    queries = load("audit")
    with database.begin() as connection:
        ids = list(connection.execute(queries["list_workflow_ids"], {"first": first, "batch_size": size}).scalars())
        last = ids[-1] if len(ids) == size else _LAST_ID
        problems = [
            Problem(workflow_id=orphan, problem="it has a trail, but the queue has no such workflow")
            for orphan in connection.execute(queries["list_orphans"], {"first": first, "last": last}).scalars()
        ]
        return problems + _verify(connection, ids), len(ids), last


def _verify(connection: Connection, workflow_ids: Sequence[UUID]) -> list[Problem]:
    rows = connection.execute(load("audit")["verify_trails"], {"workflow_ids": list(workflow_ids)})
    return [Problem(workflow_id=row.workflow_id, problem=row.problem) for row in rows]
