"""The list of workflows: filtered by the address, a page at a time, or grouped by what they failed of."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BeforeValidator, StringConstraints

from squorflow.api.dependencies import Transaction, Visitor
from squorflow.dashboard import pages
from squorflow.errors import ErrorCategory
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import listing

router = APIRouter()

PAGE_SIZE = 50
COUNTED_AT_MOST = 10_000

_Blank = BeforeValidator(lambda value: value or None)
"""An empty field of the form is no filter."""

_Text = Annotated[Annotated[str, StringConstraints(max_length=400)] | None, _Blank]


@router.get("/workflows")
def show_workflows(
    request: Request,
    connection: Transaction,
    *,
    visitor: Visitor,
    state: Annotated[list[WorkflowState] | None, Query(max_length=len(WorkflowState))] = None,
    stage: Annotated[Stage | None, _Blank] = None,
    error_category: Annotated[ErrorCategory | None, _Blank] = None,
    last_error: _Text = None,
    brand: _Text = None,
    text: _Text = None,
    group: bool = False,
    cursor: Annotated[UUID | None, _Blank] = None,
) -> HTMLResponse:
    """Show a page of the workflows that pass the filter, newest first."""
    wanted = listing.WorkflowFilter(
        states=state or (), stage=stage, brand=brand, error_category=error_category, last_error=last_error, search=text
    )
    found = listing.list_workflows(connection, wanted, before=cursor, page_size=PAGE_SIZE + 1) if not group else []
    total = listing.count_workflows(connection, wanted, most=COUNTED_AT_MOST + 1)
    asked = [
        *(("state", one.value) for one in state or ()),
        ("stage", stage),
        ("error_category", error_category),
        ("last_error", last_error),
        ("brand", brand),
        ("text", text),
    ]
    filters = [(name, str(value)) for name, value in asked if value]
    return pages.render(
        request,
        "workflows",
        visitor=visitor,
        page="workflows",
        filters=filters,
        wanted=wanted,
        text=text or "",
        address=lambda **changes: _address(filters, changes),
        categories=tuple(ErrorCategory),
        items=found[:PAGE_SIZE],
        groups=listing.list_failure_groups(connection, wanted) if group else [],
        grouped=group,
        total=min(total, COUNTED_AT_MOST),
        total_is_capped=total > COUNTED_AT_MOST,
        cursor=cursor,
        next_cursor=found[PAGE_SIZE - 1].workflow_id if len(found) > PAGE_SIZE else None,
    )


def _address(filters: list[tuple[str, str]], changes: dict[str, Any]) -> str:
    """Return the query of this list with some fields changed; `None` and an empty list leave a field out."""
    kept = [(name, value) for name, value in filters if name not in changes]
    for name, value in changes.items():
        values = value if isinstance(value, list | tuple) else [value]
        kept += [(name, str(one)) for one in values if one]
    return f"?{urlencode(kept)}"
