"""Workflows: where they stand, how they got there, and what a person may do to one."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query
from sqlalchemy import Connection

from squorflow.api import schemas
from squorflow.api.answers import CONFLICT, NOT_FOUND, REFUSALS, UNREADABLE
from squorflow.api.dependencies import Caller, Reader, Transaction, Writer
from squorflow.api.problems import Problem, not_allowed_now
from squorflow.errors import ErrorCategory
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import audit, listing
from squorflow.workflow.actions import ActionOutcome, PersonAction, act_on_many

router = APIRouter(responses=REFUSALS)

_LAST_SEQUENCE = 2**63 - 1


@router.get("/", summary="List workflows")
def list_workflows(
    _caller: Reader,
    connection: Transaction,
    *,
    state: Annotated[list[WorkflowState] | None, Query(max_length=len(WorkflowState))] = None,
    stage: Stage | None = None,
    brand: Annotated[str | None, Query(max_length=200, description="the whole name, in any case")] = None,
    error_category: ErrorCategory | None = None,
    last_error: Annotated[str | None, Query(max_length=400, description="exactly this one")] = None,
    text: Annotated[
        str | None, Query(max_length=200, description="beginnings of words in product name or page address")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=schemas.LARGEST_PAGE)] = 20,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the page before")] = None,
) -> schemas.StatusPage:
    """Return a page of workflows, newest first; give `state` several times to see several."""
    wanted = listing.WorkflowFilter(
        states=state or (),
        stage=stage,
        brand=brand,
        error_category=error_category,
        last_error=last_error,
        search=text,
    )
    found = listing.list_workflows(connection, wanted, before=cursor, page_size=limit + 1)
    total = listing.count_workflows(connection, wanted, most=schemas.COUNTED_AT_MOST + 1)
    page = found[:limit]
    return schemas.StatusPage(
        items=[_status(one) for one in page],
        total=min(total, schemas.COUNTED_AT_MOST),
        total_is_capped=total > schemas.COUNTED_AT_MOST,
        next_cursor=page[-1].workflow_id if len(found) > limit else None,
    )


@router.get("/{workflow_id}/status", summary="Get a workflow's status", responses=NOT_FOUND)
def get_status(workflow_id: schemas.WorkflowId, connection: Transaction, *, _caller: Reader) -> schemas.Status:
    """Return where a workflow stands and where it may go."""
    return _status(listing.get_status(connection, workflow_id))


@router.get("/{workflow_id}/history", summary="Get a workflow's audit trail", responses=NOT_FOUND)
def get_history(
    workflow_id: schemas.WorkflowId,
    connection: Transaction,
    *,
    _caller: Reader,
    limit: Annotated[int, Query(ge=1, le=schemas.LARGEST_TRAIL)] = schemas.LARGEST_TRAIL,
    cursor: Annotated[int, Query(ge=0, le=_LAST_SEQUENCE, description="`next_cursor` of the page before")] = 0,
) -> schemas.History:
    """Return the transitions of a workflow, oldest first; few have more than one page of them."""
    listing.get_status(connection, workflow_id)
    found = audit.list_history(connection, workflow_id, after=cursor, most=limit + 1)
    return schemas.History(
        workflow_id=workflow_id,
        transitions=[schemas.Step.model_validate(one) for one in found[:limit]],
        next_cursor=found[limit - 1].sequence if len(found) > limit else None,
    )


@router.post("/{workflow_id}/retry", summary="Retry a workflow now", responses={**CONFLICT, **UNREADABLE})
def retry(
    workflow_id: schemas.WorkflowId,
    connection: Transaction,
    *,
    caller: Writer,
    why: Annotated[schemas.Why | None, Body()] = None,
) -> schemas.Status:
    """Queue what is failed, suspended or retrying, now and with all its tries; done stages are not run again."""
    reason = why.reason if why else "retried by a person"
    return _act(connection, PersonAction.RETRY, workflow_id=workflow_id, caller=caller, reason=reason)


@router.post("/{workflow_id}/cancel", summary="Cancel a workflow", responses={**CONFLICT, **UNREADABLE})
def cancel(
    workflow_id: schemas.WorkflowId,
    connection: Transaction,
    *,
    caller: Writer,
    why: Annotated[schemas.Why | None, Body()] = None,
) -> schemas.Status:
    """End a workflow for good; a running stage stops and writes nothing."""
    reason = why.reason if why else "cancelled by a person"
    return _act(connection, PersonAction.CANCEL, workflow_id=workflow_id, caller=caller, reason=reason)


@router.post("/{workflow_id}/suspend", summary="Suspend a workflow", responses={**CONFLICT, **UNREADABLE})
def suspend(
    workflow_id: schemas.WorkflowId, connection: Transaction, *, caller: Writer, why: schemas.Why
) -> schemas.Status:
    """Hold a workflow until it is retried or cancelled; a running stage stops and writes nothing."""
    return _act(connection, PersonAction.SUSPEND, workflow_id=workflow_id, caller=caller, reason=why.reason)


def _act(
    connection: Connection, action: PersonAction, *, workflow_id: UUID, caller: Caller, reason: str
) -> schemas.Status:
    """Do it and return the new status; a refusal is told with the state that caused it."""
    caller.record(action.value, workflow_id=workflow_id, reason=reason)
    (result,) = act_on_many(
        connection, action, workflow_ids=[workflow_id], actor=caller.actor, reason=reason, metadata={"by": "api"}
    )
    match result.outcome:
        case ActionOutcome.NOT_FOUND:
            raise Problem(HTTPStatus.NOT_FOUND, "not-found", detail=f"{result.message}.")
        case ActionOutcome.REFUSED:
            state = result.from_state
            if state is None:
                raise Problem(HTTPStatus.CONFLICT, "invalid-transition", detail=f"{result.message}.")
            raise not_allowed_now(f"{result.message}.", current_state=state)
    return _status(listing.get_status(connection, workflow_id))


def _status(found: listing.WorkflowStatus) -> schemas.Status:
    fields: dict[str, Any] = found.as_dict()
    return schemas.Status.model_validate(fields)
