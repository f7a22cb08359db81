"""The one writer of states. Owns the call; the rules, the audit row and the event are Postgres' part.

Nothing here commits: the caller owns the transaction, and any refusal leaves it rolled back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.states import Stage, WorkflowState

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A transition that was made; `token` is the lease token after it."""

    workflow_id: UUID
    from_state: WorkflowState
    to_state: WorkflowState
    sequence: int
    token: int
    created_at: datetime


def clean(text: str) -> str:
    """Drop what Postgres cannot store in text: NUL and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "ignore").decode("utf-8")


def to_json(value: Any) -> str:
    """Return a value as JSON that Postgres can store, whatever text or number came from outside.

    NUL and lone surrogates are dropped, NaN and infinities become null, other types than JSON's become their `str`.
    """
    return json.dumps(_storable(value), ensure_ascii=False)


def _storable(value: Any) -> Any:
    match value:
        case str():
            return clean(value)
        case float() if not math.isfinite(value):
            return None
        case bool() | int() | float() | None:
            return value
        case Mapping():
            return {clean(str(key)): _storable(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_storable(one) for one in value]
    return clean(str(value))


def transition(
    connection: Connection,
    workflow_id: UUID,
    to: WorkflowState,
    *,
    actor: str,
    reason: str,
    stage: Stage | None = None,
    metadata: Mapping[str, Any] | None = None,
    expect: Collection[WorkflowState] | None = None,
    token: int | None = None,
    suspend_kind: str | None = None,
) -> Transition:
    """Move a workflow to another state, with its audit row, event and metric, in the caller's transaction.

    Args:
        connection: an open transaction; never committed here.
        workflow_id: which workflow.
        to: the state it shall have.
        actor: who does it, e.g. `api:admin` or `cli:root`.
        reason: why, in words a person reads in the trail.
        stage: the stage it stands at from now on; `None` leaves it.
        metadata: further facts for the trail (JSON values).
        expect: the states it may be in now; `None` for any the table allows.
        token: the lease token the caller holds; `None` for callers that hold no lease.
        suspend_kind: who has to look at a suspended row (`person`, `data`, …).

    Raises:
        InvalidTransition: the table has no such move.
        StaleState: it is in none of the expected states.
        LeaseLost: the token has moved on.
        WorkflowNotFound: there is no such workflow.
    """
    row = connection.execute(
        load("transitions")["transition"],
        {
            "workflow_id": workflow_id,
            "to_state": to.value,
            "actor": clean(actor),
            "reason": clean(reason),
            "stage": stage.value if stage else None,
            "metadata": to_json(metadata or {}),
            "expect": [state.value for state in expect] if expect is not None else None,
            "token": token,
            "suspend_kind": suspend_kind,
        },
    ).one()
    return Transition(
        workflow_id=workflow_id,
        from_state=WorkflowState(row.from_state),
        to_state=WorkflowState(row.to_state),
        sequence=row.sequence,
        token=row.token,
        created_at=row.created_at,
    )
