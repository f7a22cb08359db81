"""The tabs in Airflow's own pages: a DAG run's products, and the workflow that a task works on."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Connection

from squorflow.airflow.ownership import OwnerKind, RunOwner
from squorflow.api.dependencies import Transaction, Visitor
from squorflow.config import get_config
from squorflow.dashboard import pages, product
from squorflow.workflow.queue import ClaimedItem, list_run_items

router = APIRouter()

_Name = Annotated[str, Query(max_length=500)]


@router.get("/run")
def show_run(
    request: Request, connection: Transaction, *, visitor: Visitor, dag_id: _Name, run_id: _Name
) -> HTMLResponse:
    """Show a run's products and where each stands."""
    items = _list_items(connection, dag_id=dag_id, run_id=run_id)
    return pages.render(
        request,
        "run",
        visitor=visitor,
        page="run",
        framed_by="run",
        dag_id=dag_id,
        run_id=run_id,
        items=items,
        counts=Counter(item.workflow_state for item in items),
    )


@router.get("/task")
def show_task(
    request: Request,
    connection: Transaction,
    *,
    visitor: Visitor,
    dag_id: _Name,
    run_id: _Name,
    map_index: Annotated[str, Query(max_length=20)] = "-1",
) -> HTMLResponse:
    """Show the workflow of a task's map index; a task that is not mapped has its run's products."""
    items = _list_items(connection, dag_id=dag_id, run_id=run_id)
    for item in items:
        if str(item.map_index) == map_index and item.workflow_state is not None:
            return product.show(request, connection, workflow_id=item.workflow_id, visitor=visitor, framed_by="task")
    return show_run(request, connection, visitor=visitor, dag_id=dag_id, run_id=run_id)


def _list_items(connection: Connection, *, dag_id: str, run_id: str) -> list[ClaimedItem]:
    """Return what a run claimed, whether a scheduler drives it or `airflow dags test`."""
    instance = get_config().instance
    for kind in OwnerKind:
        owner = RunOwner(kind=kind, instance=instance, dag_id=dag_id, run_id=run_id)
        if items := list_run_items(connection, owner=str(owner)):
            return items
    return []
