"""What the holder of a lease may do: acquire a stage, write behind the fence, finish it, fail it, wait.

The token is what counts: every write names it, and Postgres refuses a token that has moved on. Decides nothing about
errors; how a lease is kept alive is `heartbeat`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.states import Stage, WorkflowState
from squorflow.workflow.transitions import clean, to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Outcome(StrEnum):
    """What an attempt to acquire a stage came to."""

    ACQUIRED = "acquired"
    CHECKPOINT = "checkpoint"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """The answer to `acquire`; `detail` says in words why it was not acquired, the context is empty then."""

    outcome: Outcome
    detail: str
    token: int
    retry_count: int
    max_retries: int
    queued_at: datetime
    crawler_data: dict[str, Any]
    outputs: dict[Stage, dict[str, Any]]
    waited: timedelta
    """How long ago this stage first waited for something; zero when it has not."""


def acquire(
    connection: Connection, workflow_id: UUID, *, stage: Stage, owner: str, actor: str, lease: timedelta, manual: bool
) -> Acquisition:
    """Take a workflow for one stage and raise its token; `manual` is a person's clear, which may revive a failed one.

    Raises `WorkflowNotFound`.
    """
    row = connection.execute(
        load("leases")["acquire"],
        {
            "workflow_id": workflow_id,
            "stage": stage.value,
            "owner": owner,
            "actor": actor,
            "lease": lease,
            "manual": manual,
        },
    ).one()
    return Acquisition(
        outcome=Outcome(row.outcome),
        detail=row.detail,
        token=row.token,
        retry_count=row.retry_count,
        max_retries=row.max_retries,
        queued_at=row.queued_at,
        crawler_data=row.crawler_data or {},
        outputs={Stage(name): output for name, output in (row.outputs or {}).items()},
        waited=row.waited or timedelta(0),
    )


def fence(connection: Connection, workflow_id: UUID, *, token: int) -> None:
    """Lock the workflow for this transaction; raise `LeaseLost` when the token has moved on."""
    connection.execute(load("leases")["fence"], {"workflow_id": workflow_id, "token": token})


def finish(
    connection: Connection,
    workflow_id: UUID,
    *,
    stage: Stage,
    token: int,
    actor: str,
    output: Mapping[str, Any],
    seconds: float,
    measures: Mapping[str, float],
    keep_lease: timedelta | None,
) -> Stage | None:
    """Record a finished stage in the caller's transaction; return the next stage, `None` when all are done.

    `keep_lease` is how long an owner that stays alive between stages keeps the row; `None` for a DAG run.
    """
    following = connection.execute(
        load("leases")["finish"],
        {
            "workflow_id": workflow_id,
            "stage": stage.value,
            "token": token,
            "actor": actor,
            "output": to_json(output),
            "seconds": round(seconds, 6),
            "measures": to_json({name: value for name, value in measures.items() if math.isfinite(value)}),
            "keep_lease": keep_lease,
        },
    ).scalar_one()
    return Stage(following) if following else None


def fail(
    connection: Connection,
    workflow_id: UUID,
    *,
    token: int,
    actor: str,
    action: str,
    category: str,
    delay: timedelta | None,
    reason: str,
    last_error: str,
    details: Mapping[str, Any],
    counts: bool,
) -> WorkflowState:
    """Record a failed stage and go on by `action` (retry, release, suspend, fail); return the state it has now."""
    state = connection.execute(
        load("leases")["fail"],
        {
            "workflow_id": workflow_id,
            "token": token,
            "actor": actor,
            "action": action,
            "category": category,
            "delay": delay,
            "reason": clean(reason),
            "last_error": clean(last_error),
            "details": to_json(details),
            "counts": counts,
        },
    ).scalar_one()
    return WorkflowState(state)


def wait(
    connection: Connection,
    workflow_id: UUID,
    *,
    token: int,
    actor: str,
    category: str,
    delay: timedelta,
    reason: str,
    last_error: str,
    details: Mapping[str, Any],
) -> datetime:
    """Let a stage wait in its owner's hands and end its lease; return until when. Acquiring it again resumes it."""
    until: datetime = connection.execute(
        load("leases")["wait"],
        {
            "workflow_id": workflow_id,
            "token": token,
            "actor": actor,
            "category": category,
            "delay": delay,
            "reason": clean(reason),
            "last_error": clean(last_error),
            "details": to_json(details),
        },
    ).scalar_one()
    return until
