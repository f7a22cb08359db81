"""New workflows from crawled products. A request with an `Idempotency-Key` may be sent again as often as one likes."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus

from fastapi import APIRouter, Response

from squorflow.api import schemas
from squorflow.api.answers import REFUSALS, UNREADABLE, Responses
from squorflow.api.dependencies import Transaction, Writer
from squorflow.api.repeatable import IdempotencyKey, Repeatable
from squorflow.config import get_config
from squorflow.orchestrator.intake import ItemReport, enqueue_items

router = APIRouter(responses={**REFUSALS, **UNREADABLE}, tags=["workflows"])

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
    request = Repeatable(connection, caller=caller, key=idempotency_key, content={"create": new.model_dump()})
    if request.earlier is not None:
        answer = schemas.CreatedWorkflows.model_validate(request.earlier)
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
        request.keep(answer)
    response.status_code = HTTPStatus.CREATED if answer.created else HTTPStatus.OK
    return answer


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
