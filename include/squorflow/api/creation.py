"""New workflows from crawled products. A request with an `Idempotency-Key` may be sent again as often as one likes."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Response

from squorflow.api import schemas
from squorflow.api.answers import REFUSALS, UNREADABLE, Responses
from squorflow.api.dependencies import Transaction, Writer
from squorflow.api.problems import Problem
from squorflow.config import get_config
from squorflow.orchestrator.intake import ItemReport, enqueue_items
from squorflow.workflow.requests import KeyedRequest

router = APIRouter(responses={**REFUSALS, **UNREADABLE}, tags=["workflows"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Of your choice, for a day: the request is carried out once, and sent again gets the same answer.",
        examples=["crawl-2026-11-25-0815"],
    ),
]
_ANSWERS: Responses = {
    HTTPStatus.OK: {"model": schemas.CreatedWorkflows, "description": "No item is new."},
    HTTPStatus.CREATED: {"description": "At least one workflow is new."},
}


@router.post("/", summary="Create workflows", status_code=HTTPStatus.CREATED, responses=_ANSWERS)
def create_workflows(
    new: schemas.NewWorkflows,
    connection: Transaction,
    *,
    response: Response,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
) -> schemas.CreatedWorkflows:
    """Queue every item that can be used and say of each what became of it; refused items keep no other out.

    An item is a duplicate when a workflow that is not cancelled has the same page and content.
    """
    request = _keyed(caller.actor, key=idempotency_key, new=new)
    earlier = request.begin(connection) if request else None
    if earlier is not None and not earlier.same:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "key-reused",
            detail="This Idempotency-Key was used within a day for another request; choose a new one.",
        )
    if earlier is not None:
        answer = schemas.CreatedWorkflows.model_validate(earlier.answer)
    else:
        caller.record("create", items=len(new.items), idempotency_key=idempotency_key)
        reports = enqueue_items(
            connection,
            new.items,
            actor=caller.actor,
            max_retries=get_config().max_retries,
            priority=new.priority,
            force=new.force,
        )
        answer = _answer(reports)
        if request:
            request.finish(connection, answer.model_dump(mode="json"))
    response.status_code = HTTPStatus.CREATED if answer.created else HTTPStatus.OK
    return answer


def _keyed(actor: str, *, key: str | None, new: schemas.NewWorkflows) -> KeyedRequest | None:
    content = {"route": "create", **new.model_dump()}
    return KeyedRequest(actor=actor, key=key, content=content) if key else None


def _answer(reports: list[ItemReport]) -> schemas.CreatedWorkflows:
    items = [
        schemas.NewWorkflow(outcome=_outcome(one), workflow_id=one.workflow_id, reason=" ".join(one.notes) or None)
        for one in reports
    ]
    counts = Counter(one.outcome for one in items)
    return schemas.CreatedWorkflows(
        created=counts[schemas.ItemOutcome.CREATED],
        duplicates=counts[schemas.ItemOutcome.DUPLICATE],
        refused=counts[schemas.ItemOutcome.REFUSED],
        items=items,
    )


def _outcome(report: ItemReport) -> schemas.ItemOutcome:
    if report.workflow_id is None:
        return schemas.ItemOutcome.REFUSED
    return schemas.ItemOutcome.CREATED if report.created else schemas.ItemOutcome.DUPLICATE
