"""Does one thing to many workflows: retries, cancels or suspends all that a filter matched when a person asked for it.

A run is started by `POST /api/v1/workflow/bulk/{action}` and named for its operation. **carry_out** works in batches,
each one transaction: clear it, stop it or lose its worker, the next try goes on at the next batch. The log counts what
was done and refused; `GET /api/v1/workflow/bulk/{operation_id}/failures` says of each refused workflow why.

Start it by hand with an operation's id, or without one for all operations that rest. `workflow_maintenance` does that
every few minutes.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import Param, dag

from squorflow.airflow.maintenance import BulkOperator

PARAMS = {
    "operation_id": Param(
        None,
        type=["null", "string"],
        format="uuid",
        title="Operation",
        description="The bulk operation to carry out; empty for all that nobody works at.",
    ),
}


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=4,
    is_paused_upon_creation=False,
    default_args={"owner": "squorflow"},
    params=PARAMS,
    tags=["squorflow", "operations"],
    doc_md=__doc__,
)
def workflow_bulk() -> None:
    """One task."""
    BulkOperator(
        task_id="carry_out",
        operation_id="{{ params.operation_id or '' }}",
        retries=10,
        doc_md="Does it to every workflow of the operation that has no outcome yet.",
    )


workflow_bulk()
