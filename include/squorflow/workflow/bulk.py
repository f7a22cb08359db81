"""One thing done to many workflows: `create` fixes which, `carry_out` does it in batches, anybody may watch or stop it.

Owns operations and their items. Every batch is one transaction: workflows, their items and the counts change together,
so that whoever carries an operation out may be killed at any moment and the next one goes on where it was. What an
action does to a workflow, and whether it may, is `actions`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.errors import BadFilter, OperationNotFound
from squorflow.postgres.queries import load
from squorflow.workflow.actions import (
    APPLIES_TO,
    LARGEST_BATCH,
    ActionOutcome,
    ActionResult,
    PersonAction,
    act_on_many,
)
from squorflow.workflow.listing import WorkflowFilter
from squorflow.workflow.transitions import clean, to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from squorflow.postgres.database import Database

_CREATION_PATIENCE = timedelta(minutes=2)
_BEFORE_ALL = UUID(int=0)
_AFTER_ALL = UUID(int=(1 << 128) - 1)


class OperationStatus(StrEnum):
    """How far an operation is."""

    PENDING = "pending"
    """Nobody has begun it."""
    RUNNING = "running"
    """At least one batch is done."""
    DONE = "done"
    """Every workflow has its outcome."""
    STOPPED = "stopped"
    """A person stopped it; what was done stays done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOperation:
    """An operation and how far it is; `total` workflows are covered, `pending` have no outcome yet."""

    operation_id: UUID
    action: PersonAction
    wanted: WorkflowFilter
    reason: str
    actor: str
    status: OperationStatus
    total: int
    succeeded: int
    refused: int
    created_at: datetime
    finished_at: datetime | None

    @property
    def pending(self) -> int:
        """How many workflows are still to be done."""
        return self.total - self.succeeded - self.refused

    @property
    def ended(self) -> bool:
        """Whether nothing of it will be done any more."""
        return self.status in {OperationStatus.DONE, OperationStatus.STOPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedItem:
    """A workflow that the operation could not be done to, and why in a sentence."""

    workflow_id: UUID
    message: str


def count_matching(connection: Connection, action: PersonAction, *, wanted: WorkflowFilter) -> int:
    """Count the workflows an operation would cover if it were created now; raises `BadFilter`."""
    parameters = _resolve(action, wanted).parameters()
    return int(connection.execute(load("bulk")["count_matching"], parameters).scalar_one())


def create(
    connection: Connection, action: PersonAction, *, wanted: WorkflowFilter, actor: str, reason: str
) -> BulkOperation:
    """Create an operation on all workflows that match now and to whose states the action applies.

    `wanted` has to narrow it down by something, and `reason` has to say something: raises `BadFilter`.
    """
    if not clean(reason).strip():
        raise BadFilter("an operation on many workflows needs a reason, which goes into their trails")
    resolved = _resolve(action, wanted)
    queries = load("bulk")
    milliseconds = int(_CREATION_PATIENCE.total_seconds() * 1000)
    connection.execute(queries["be_patient"], {"milliseconds": milliseconds})
    made = connection.execute(
        queries["insert_operation"],
        {
            **resolved.parameters(),
            "action": action.value,
            "filter": to_json(resolved.as_dict()),
            "reason": clean(reason),
            "actor": clean(actor),
        },
    ).one()
    connection.execute(queries["set_total"], {"operation_id": made.operation_id, "total": made.total})
    return get(connection, made.operation_id)


def get(connection: Connection, operation_id: UUID) -> BulkOperation:
    """Return an operation as it is now; raises `OperationNotFound`."""
    row = connection.execute(load("bulk")["get_operation"], {"operation_id": operation_id}).one_or_none()
    if row is None:
        raise OperationNotFound(f"bulk operation {operation_id} does not exist")
    return _operation(row)


def list_operations(connection: Connection, *, before: UUID | None = None, page_size: int = 20) -> list[BulkOperation]:
    """Return a page of operations, newest first; pass the last one's id as `before` for the next page."""
    parameters = {"before": before or _AFTER_ALL, "page_size": page_size}
    return [_operation(row) for row in connection.execute(load("bulk")["list_operations"], parameters)]


def list_unfinished(connection: Connection, *, rested: timedelta = timedelta(0)) -> list[UUID]:
    """Return the operations that are still to be carried out and nobody has worked at for `rested`, oldest first."""
    return list(connection.execute(load("bulk")["list_unfinished"], {"rested": rested}).scalars())


def list_refused(
    connection: Connection, operation_id: UUID, *, after: UUID | None = None, page_size: int = 100
) -> list[RefusedItem]:
    """Return a page of the workflows it could not be done to; pass the last one's id as `after` for the next page."""
    parameters = {"operation_id": operation_id, "after": after or _BEFORE_ALL, "page_size": page_size}
    rows = connection.execute(load("bulk")["list_refused"], parameters)
    return [RefusedItem(workflow_id=row.workflow_id, message=row.message) for row in rows]


def stop(connection: Connection, operation_id: UUID) -> BulkOperation:
    """Do no more of an operation; a batch at work is finished first, and one that has ended stays as it is."""
    _end(connection, operation_id, status=OperationStatus.STOPPED)
    return get(connection, operation_id)


def carry_out(
    database: Database,
    operation_id: UUID,
    *,
    on_progress: Callable[[BulkOperation], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BulkOperation:
    """Do it to all workflows of an operation that have no outcome yet, batch by batch, and return how it stands.

    Goes on where anybody left off; of several at once each batch is done by one. Ends early where `should_stop` says
    so, and then somebody else may go on. A workflow that refuses keeps no other back. Raises `OperationNotFound`.
    """
    after = _BEFORE_ALL
    while not should_stop():
        with database.begin() as connection:
            last = _do_batch(connection, operation_id, after=after)
            operation = get(connection, operation_id)
        if on_progress is not None:
            on_progress(operation)
        if last is None:
            return operation
        after = last
    with database.begin() as connection:
        return get(connection, operation_id)


def _do_batch(connection: Connection, operation_id: UUID, *, after: UUID) -> UUID | None:
    """Do the next batch; return its last workflow, `None` where the operation has ended."""
    queries = load("bulk")
    operation = connection.execute(queries["begin_batch"], {"operation_id": operation_id}).one_or_none()
    if operation is None:
        return None
    place = {"operation_id": operation_id, "after": after, "batch_size": LARGEST_BATCH}
    ids: list[UUID] = list(connection.execute(queries["take_batch"], place).scalars())
    if not ids:
        _end(connection, operation_id, status=OperationStatus.DONE)
        return None
    results = _act(connection, operation, workflow_ids=ids, operation_id=operation_id)
    connection.execute(
        queries["settle_batch"],
        {
            "operation_id": operation_id,
            "workflow_ids": [one.workflow_id for one in results],
            "outcomes": ["done" if one.outcome is ActionOutcome.DONE else "refused" for one in results],
            "messages": [one.message for one in results],
        },
    )
    return ids[-1]


def _act(
    connection: Connection, operation: Row[Any], *, workflow_ids: Collection[UUID], operation_id: UUID
) -> list[ActionResult]:
    """Act on the workflows together; where one of them makes Postgres refuse all, one by one."""
    from squorflow.postgres.database import is_refusal

    def act(ids: Collection[UUID]) -> list[ActionResult]:
        with connection.begin_nested():
            return act_on_many(
                connection,
                PersonAction(operation.action),
                workflow_ids=ids,
                actor=operation.actor,
                reason=operation.reason,
                metadata={"by": "bulk", "operation_id": str(operation_id)},
                expect=WorkflowFilter.from_dict(operation.filter).states,
            )

    try:
        return act(workflow_ids)
    except Exception as error:
        if not is_refusal(error):
            raise
    results = []
    for one in workflow_ids:
        try:
            results += act([one])
        except Exception as error:
            if not is_refusal(error):
                raise
            results.append(_refusal(one, error))
    return results


def _refusal(workflow_id: UUID, error: Exception) -> ActionResult:
    told = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return ActionResult(
        workflow_id=workflow_id, outcome=ActionOutcome.REFUSED, from_state=None, to_state=None, message=clean(told)
    )


def _end(connection: Connection, operation_id: UUID, *, status: OperationStatus) -> None:
    parameters = {"operation_id": operation_id, "status": status.value}
    connection.execute(load("bulk")["end_operation"], parameters)


def _resolve(action: PersonAction, wanted: WorkflowFilter) -> WorkflowFilter:
    """Return the filter with its states named: those asked for, else all that the action applies to."""
    if not wanted.as_dict():
        raise BadFilter("an operation on many workflows needs a filter; to mean all of them, name their states")
    possible = APPLIES_TO[action]
    if idle := [state for state in wanted.states if state not in possible]:
        raise BadFilter(
            f"{action} does not apply to what is {' or '.join(sorted(idle))}, "
            f"only to what is {', '.join(sorted(possible))}"
        )
    return dataclasses.replace(wanted, states=tuple(wanted.states or sorted(possible)))


def _operation(row: Row[Any]) -> BulkOperation:
    return BulkOperation(
        operation_id=row.operation_id,
        action=PersonAction(row.action),
        wanted=WorkflowFilter.from_dict(row.filter),
        reason=row.reason,
        actor=row.actor,
        status=OperationStatus(row.status),
        total=row.total or 0,
        succeeded=row.succeeded,
        refused=row.refused,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
