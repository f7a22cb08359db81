"""What a person may do to a workflow: retry, cancel, suspend; one, or many at once.

Owns which states each applies to (in Postgres, `workflow_act`) and how a refusal is told. Nothing here commits: the
caller owns the transaction. Whoever was working finds its token moved and writes nothing more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.errors import InvalidTransition, WorkflowNotFound
from squorflow.postgres.queries import load
from squorflow.states import TRANSITIONS, WorkflowState
from squorflow.workflow import waking
from squorflow.workflow.transitions import clean, to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

LARGEST_BATCH = 500
"""Workflows that callers change in one transaction, which locks all of them until it ends."""


class PersonAction(StrEnum):
    """What a person may do; the values are those of the API, the command line and `bulk_operation`."""

    RETRY = "retry"
    """Queue what failed, is suspended or waits for its retry, at once and with all its tries."""

    CANCEL = "cancel"
    """End it for good, whatever it is doing; only what has ended already stays as it is."""

    SUSPEND = "suspend"
    """Hold it until a person retries or cancels it, whatever it is doing."""


APPLIES_TO: Mapping[PersonAction, frozenset[WorkflowState]] = MappingProxyType(
    {
        PersonAction.RETRY: frozenset({WorkflowState.FAILED, WorkflowState.SUSPENDED, WorkflowState.RETRYING}),
        PersonAction.CANCEL: frozenset(one for one in WorkflowState if WorkflowState.CANCELLED in TRANSITIONS[one]),
        PersonAction.SUSPEND: frozenset(one for one in WorkflowState if WorkflowState.SUSPENDED in TRANSITIONS[one])
        | {WorkflowState.RETRYING},
    }
)
"""The states each action applies to, as `workflow_act` has them."""


class ActionOutcome(StrEnum):
    """What became of an action on one workflow."""

    DONE = "done"
    REFUSED = "refused"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """What became of one workflow: its state before and after (`None`: there is no such workflow), and why not."""

    workflow_id: UUID
    outcome: ActionOutcome
    from_state: WorkflowState | None
    to_state: WorkflowState | None
    message: str


def act_on_many(
    connection: Connection,
    action: PersonAction,
    *,
    workflow_ids: Collection[UUID],
    actor: str,
    reason: str,
    metadata: Mapping[str, Any] | None = None,
    expect: Collection[WorkflowState] | None = None,
) -> list[ActionResult]:
    """Do one thing to many workflows in one statement, and say of each what became of it, in the order of their ids.

    A refusal keeps no other back. `expect` names the states the action is meant for, `None` any that it applies to.
    Keep it to `LARGEST_BATCH` at a time.
    """
    rows = connection.execute(
        load("actions")["act"],
        {
            "workflow_ids": list(workflow_ids),
            "action": action.value,
            "actor": clean(actor),
            "reason": clean(reason),
            "metadata": to_json(metadata or {}),
            "expect": [state.value for state in expect] if expect is not None else None,
        },
    ).all()
    results = [
        ActionResult(
            workflow_id=row.workflow_id,
            outcome=ActionOutcome(row.outcome),
            from_state=WorkflowState(row.from_state) if row.from_state else None,
            to_state=WorkflowState(row.to_state) if row.to_state else None,
            message=row.detail,
        )
        for row in rows
    ]
    if action is PersonAction.RETRY and any(one.outcome is ActionOutcome.DONE for one in results):
        waking.announce(connection)
    return results


def act(
    connection: Connection,
    action: PersonAction,
    *,
    workflow_id: UUID,
    actor: str,
    reason: str,
    metadata: Mapping[str, Any] | None = None,
    expect: Collection[WorkflowState] | None = None,
) -> ActionResult:
    """Do one thing to one workflow; raises `InvalidTransition` where it does not apply, and `WorkflowNotFound`."""
    (result,) = act_on_many(
        connection,
        action,
        workflow_ids=[workflow_id],
        actor=actor,
        reason=reason,
        metadata=metadata,
        expect=expect,
    )
    match result.outcome:
        case ActionOutcome.NOT_FOUND:
            raise WorkflowNotFound(result.message, workflow_id=workflow_id)
        case ActionOutcome.REFUSED:
            raise InvalidTransition(result.message, workflow_id=workflow_id)
        case ActionOutcome.DONE:
            return result
