"""Takes queued products through discovery, image fetch, enrichment, data mapping, scoring, indexing and notification.

**pull** first takes back what dead workers hold and releases retries that are due, then claims up to `batch_size`
queued products, highest priority first. An empty queue ends the run, green, in seconds.

**product** runs once per claimed product, its seven stages in order; the grid shows the product's name. Products do not
wait for each other. A stage that was already done succeeds at once, "checkpoint" in its log; a *skipped* one says in
its log who else has the product or when it returns; a *failed* one has used up its tries or needs a person.

**close** gives back what was never begun and logs how the products ended, failures grouped by error. It fails the run
when more than `WORKFLOW_FAILURE_TOLERANCE` of the products ended failed, or when `pull` failed. It updates the asset
`squorflow://products`, so that other DAGs can follow.

A run starts when there is work (a trigger watches the queue) and by the clock as a safety net; an empty
`WORKFLOW_SCHEDULE` means neither.

Clear a failed product's stage to run it again from there. Several runs may be active at once: no product is ever in
two of them. One that starts by itself while others have enough in hand takes only products that were tried before.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import Param, dag, task_group

from squorflow.airflow.batch import PRODUCTS, CloseOperator, PullOperator
from squorflow.airflow.operators import StageOperator
from squorflow.airflow.ownership import PRODUCT_GROUP
from squorflow.airflow.wake import make_schedule
from squorflow.airflow.weights import OLDEST_FIRST
from squorflow.config import get_config
from squorflow.states import Stage
from squorflow.workflow.queue import LARGEST_CLAIM

CONFIG = get_config()
POOLS = {Stage.ENRICHMENT: CONFIG.enrichment_pool}
PARAMS = {
    "batch_size": Param(
        CONFIG.batch_size,
        type="integer",
        minimum=1,
        maximum=LARGEST_CLAIM,
        title="Batch size",
        description="How many products this run takes from the queue, at most.",
    ),
    "workflow_ids": Param(
        [],
        type=["null", "array"],
        items={"type": "string", "format": "uuid"},
        title="Only these workflows",
        description="Workflow ids, one per line; empty takes whatever the queue has.",
    ),
    "priority_at_least": Param(
        1,
        type="integer",
        minimum=1,
        maximum=10,
        title="Priority at least",
        description="Leaves products with a lower priority (1 to 10) in the queue.",
    ),
}


@dag(
    schedule=make_schedule(CONFIG.schedule),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # One that begins products, those that bring theirs to an end, and those for what was lost.
    max_active_runs=16,
    # Most of the work is in the one: Airflow's 16 tasks a run would hold it back.
    max_active_tasks=256,
    dagrun_timeout=timedelta(days=1),
    default_args={"owner": "squorflow", "weight_rule": "absolute"},
    params=PARAMS,
    tags=["squorflow", "products"],
    doc_md=__doc__,
)
def product_workflow() -> None:
    """Pull, seven stages per product, close."""
    pull = PullOperator(task_id="pull", doc_md="Claims this run's products from the queue.")

    @task_group(group_id=PRODUCT_GROUP)
    def product(workflow_id: str, product_label: str) -> None:
        before = None
        for place, stage in enumerate(Stage, start=1):
            run = StageOperator(
                task_id=stage.value,
                stage=stage,
                workflow_id=workflow_id,
                product_label=product_label,
                pool=POOLS.get(stage, "default_pool"),
                # Its place: the first begins a product, and goes behind all others.
                priority_weight=place,
                weight_rule=OLDEST_FIRST,
            )
            if before is not None:
                before >> run
            before = run

    close = CloseOperator(
        task_id="close",
        pull_task_id=pull.task_id,
        outlets=[PRODUCTS],
        doc_md="Gives back what was never begun, sums up, and judges the run.",
    )
    product.expand_kwargs(pull.output) >> close


product_workflow()
