"""One product: where its workflow stands, its facts and score, its trail, and what a person may do."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import Connection

from squorflow.api.dependencies import Transaction, VisitingUser, Visitor
from squorflow.config import get_config
from squorflow.dashboard import dossier, pages
from squorflow.dashboard.outlook import foresee
from squorflow.errors import SystemFault, WorkflowNotFound
from squorflow.products.image_store import ImageStore
from squorflow.states import WorkflowState
from squorflow.workflow import audit, listing
from squorflow.workflow.actions import APPLIES_TO, PersonAction

router = APIRouter()

ACTIONS = (PersonAction.RETRY, PersonAction.SUSPEND, PersonAction.CANCEL)
"""What a person is offered, the mildest first."""

SHOWN_STEPS = 200
"""Steps of the trail that the page has, the newest; the API has them all."""

_TROUBLE = frozenset({WorkflowState.FAILED, WorkflowState.WAITING, WorkflowState.SUSPENDED})


@router.get("/workflows/{workflow_id}")
def show_workflow(request: Request, workflow_id: UUID, *, connection: Transaction, visitor: Visitor) -> HTMLResponse:
    """Show everything about one workflow and its product."""
    return show(request, connection, workflow_id=workflow_id, visitor=visitor)


def show(
    request: Request, connection: Connection, *, workflow_id: UUID, visitor: VisitingUser, framed_by: str = ""
) -> HTMLResponse:
    """Make the page of one workflow; `framed_by` names the tab of Airflow's it stands in."""
    status = listing.get_status(connection, workflow_id)
    standing = dossier.get_standing(connection, workflow_id)
    last = audit.find_last_sequence(connection, workflow_id)
    trail = audit.list_history(connection, workflow_id, after=max(0, last - SHOWN_STEPS))
    return pages.render(
        request,
        "product",
        visitor=visitor,
        page="workflows",
        framed_by=framed_by,
        status=status,
        standing=standing,
        outlook=foresee(status, standing),
        actions=[action for action in ACTIONS if status.current_state in APPLIES_TO[action]],
        trail=trail,
        steps=last,
        errors=[row for row in trail if row.to_state in _TROUBLE and "error" in row.metadata],
        stage_seconds=dossier.list_stage_seconds(connection, workflow_id),
        events=dossier.list_events(connection, workflow_id),
        dossier=(
            dossier.get_dossier(connection, status.product_id, source_page_id=standing.source_page_id)
            if status.product_id
            else None
        ),
    )


@router.get("/products/{product_id}")
def show_product(request: Request, product_id: UUID, *, connection: Transaction, visitor: Visitor) -> Response:
    """Show a product by its newest workflow."""
    workflow_id = dossier.find_latest_workflow(connection, product_id)
    if workflow_id is None:
        raise WorkflowNotFound(f"no workflow of product {product_id} is left: finished ones go after a while")
    return show(request, connection, workflow_id=workflow_id, visitor=visitor)


@router.get("/products/{product_id}/images/{sha256}")
def get_image(product_id: UUID, sha256: str, *, connection: Transaction, _visitor: Visitor) -> Response:
    """Send a stored picture; it was decoded and written anew when it was fetched."""
    mime_type = dossier.find_image(connection, product_id, sha256=sha256)
    if mime_type is None:
        return Response(status_code=404)
    try:
        content = ImageStore(get_config()).read(sha256, mime_type)
    except SystemFault:
        return Response(status_code=404)
    return Response(content, media_type=mime_type, headers={"Cache-Control": "private, max-age=86400"})
