"""Keeps the product workflow healthy, every few minutes, whether or not there is work.

**reap** takes back products whose worker or run has died, parks those whose tries are used up, and queues the retries
that are due. `product_workflow` does the same before it takes products; this catches what happens while it rests.

**alert** looks at the failure rate, stuck workflows, quotas, the oldest queued product and a slice of the audit trail;
an incident is told once when it opens and once when it ends.

**deliver** tells the handlers of `WORKFLOW_EVENT_HANDLERS` what happened, and tries again what did not reach them.

**bulk** goes on with bulk operations whose run of `workflow_bulk` is gone, or never began.

**upkeep** makes the coming months' partitions, archives old months of history, lets finished workflows and old
deliveries go, and analyses tables after bulk loads. It fails only where a person has to look; the message
says at what.

The tasks know nothing of each other: when one fails, the run is red and the others have done their part. Clear or
trigger any of them at any time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from squorflow.airflow.maintenance import AlertOperator, BulkOperator, DeliverOperator, ReapOperator, UpkeepOperator
from squorflow.config import get_config


@dag(
    schedule=get_config().maintenance_schedule or None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=30),
    default_args={"owner": "squorflow"},
    tags=["squorflow", "maintenance"],
    doc_md=__doc__,
)
def workflow_maintenance() -> None:
    """One task per chore, none before another."""
    ReapOperator(task_id="reap", doc_md="Takes back what dead owners hold and queues due retries.")
    AlertOperator(task_id="alert", doc_md="Opens an incident for what needs a person, and ends it when it is over.")
    DeliverOperator(task_id="deliver", doc_md="Tells handlers what happened, and what did not reach them before.")
    BulkOperator(
        task_id="bulk",
        execution_timeout=timedelta(minutes=10),
        doc_md="Goes on with bulk operations whose run of `workflow_bulk` was lost.",
    )
    UpkeepOperator(task_id="upkeep", doc_md="Makes partitions, archives old months, removes what has had its time.")


workflow_maintenance()
