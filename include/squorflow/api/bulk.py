"""Bulk operations: one thing done to many workflows, begun here and carried out by the DAG `workflow_bulk`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from squorflow.api import schemas
from squorflow.api.answers import NO_OPERATION, REFUSALS, UNREADABLE, Responses
from squorflow.api.dependencies import DatabaseOf, Reader, Transaction, Writer, start_bulk_run
from squorflow.api.repeatable import IdempotencyKey, Repeatable
from squorflow.workflow import bulk
from squorflow.workflow.actions import PersonAction
from squorflow.workflow.listing import WorkflowFilter

router = APIRouter(prefix="/bulk", responses=REFUSALS, tags=["bulk operations"])

_Limit = Annotated[int, Query(ge=1, le=schemas.LARGEST_PAGE)]
_Cursor = Annotated[UUID | None, Query(description="`next_cursor` of the page before")]
_ANSWERS: Responses = {
    **UNREADABLE,
    HTTPStatus.OK: {"model": schemas.BulkCount, "description": "What a dry run counted."},
    HTTPStatus.ACCEPTED: {"description": "The operation; ask for it again to see how far it is."},
}


@router.post(
    "/{action}",
    summary="Do one thing to many workflows",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.BulkOperation,
    responses=_ANSWERS,
)
def create_operation(
    action: PersonAction,
    new: schemas.NewBulkOperation,
    *,
    database: DatabaseOf,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
) -> schemas.BulkOperation | Response:
    """Fix which workflows match now and have a run of `workflow_bulk` do it to each of them, in batches.

    Workflows that match later are left alone; one that no longer matches when its turn comes is refused.
    """
    wanted = WorkflowFilter(
        states=new.filter.state,
        stage=new.filter.stage,
        brand=new.filter.brand,
        error_category=new.filter.error_category,
        last_error=new.filter.last_error,
        search=new.filter.text,
    )
    if new.dry_run:
        with database.begin() as connection:
            count = schemas.BulkCount(action=action, total=bulk.count_matching(connection, action, wanted=wanted))
        return Response(count.model_dump_json(), media_type="application/json")
    content = {"bulk": action.value, **new.model_dump(mode="json")}
    with database.begin() as connection:
        request = Repeatable(connection, caller=caller, key=idempotency_key, content=content)
        if request.earlier is not None:
            answer = schemas.BulkOperation.model_validate(request.earlier)
        else:
            caller.record(f"bulk_{action}", filter=new.filter.model_dump(exclude_defaults=True), reason=new.reason)
            made = bulk.create(connection, action, wanted=wanted, actor=caller.actor, reason=new.reason)
            answer = _operation(made)
            request.keep(answer)
    # After the commit, or the run might not find it.
    if answer.total:
        start_bulk_run(answer.operation_id, caller=caller)
    return answer


@router.get("", summary="List bulk operations")
def list_operations(
    connection: Transaction, *, _caller: Reader, limit: _Limit = 20, cursor: _Cursor = None
) -> schemas.BulkPage:
    """Return a page of operations, newest first."""
    found = bulk.list_operations(connection, before=cursor, page_size=limit + 1)
    return schemas.BulkPage(
        items=[_operation(one) for one in found[:limit]],
        next_cursor=found[limit - 1].operation_id if len(found) > limit else None,
    )


@router.get("/{operation_id}", summary="Get how far a bulk operation is", responses=NO_OPERATION)
def get_operation(
    operation_id: schemas.OperationId, connection: Transaction, *, _caller: Reader
) -> schemas.BulkOperation:
    """Return an operation and its counts."""
    return _operation(bulk.get(connection, operation_id))


@router.get("/{operation_id}/failures", summary="List what a bulk operation could not do", responses=NO_OPERATION)
def list_failures(
    operation_id: schemas.OperationId,
    connection: Transaction,
    *,
    _caller: Reader,
    limit: _Limit = 100,
    cursor: _Cursor = None,
) -> schemas.RefusedPage:
    """Return a page of the workflows it could not be done to, and why."""
    bulk.get(connection, operation_id)
    found = bulk.list_refused(connection, operation_id, after=cursor, page_size=limit + 1)
    return schemas.RefusedPage(
        items=[schemas.RefusedItem.model_validate(one) for one in found[:limit]],
        next_cursor=found[limit - 1].workflow_id if len(found) > limit else None,
    )


@router.post("/{operation_id}/stop", summary="Stop a bulk operation", responses=NO_OPERATION)
def stop(operation_id: schemas.OperationId, connection: Transaction, *, caller: Writer) -> schemas.BulkOperation:
    """Do no more of it; what was done stays done, and one that has ended stays as it is."""
    caller.record("bulk_stop", operation_id=operation_id)
    return _operation(bulk.stop(connection, operation_id))


def _operation(found: bulk.BulkOperation) -> schemas.BulkOperation:
    wanted = found.wanted
    return schemas.BulkOperation(
        operation_id=found.operation_id,
        action=found.action,
        filter=schemas.BulkFilter(
            state=list(wanted.states),
            stage=wanted.stage,
            brand=wanted.brand,
            error_category=wanted.error_category,
            last_error=wanted.last_error,
            text=wanted.search,
        ),
        reason=found.reason,
        actor=found.actor,
        status=found.status,
        total=found.total,
        succeeded=found.succeeded,
        refused=found.refused,
        pending=found.pending,
        created_at=found.created_at,
        finished_at=found.finished_at,
    )
