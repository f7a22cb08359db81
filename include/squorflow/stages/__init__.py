"""Runs one stage of one product: acquire, work, write behind the fence; or record what went wrong.

Owns the order of these steps and the list of stages. The stages do the work, `ending.py` commits how each ended,
`recovery.policy` decides about errors, and Postgres has the last word on who may write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled, LeaseLost, TransientError
from squorflow.stages import ending
from squorflow.stages.context import Cancellation, Clients, StageContext, StageResult
from squorflow.stages.ending import StageFailed, StageSkipped, StageWaiting
from squorflow.states import Stage
from squorflow.workflow import leases
from squorflow.workflow.heartbeat import hold

if TYPE_CHECKING:
    from squorflow.postgres.database import Database
    from squorflow.workflow.heartbeat import Heartbeat

log = logging.getLogger(__name__)

__all__ = [
    "SHORT_WAIT",
    "STAGE_MODULES",
    "Clients",
    "StageFailed",
    "StageOutcome",
    "StageSkipped",
    "StageWaiting",
    "make_clients",
    "run_stage",
]

STAGE_MODULES: dict[Stage, str] = {
    Stage.DISCOVERY: "squorflow.stages.discovery",
    Stage.IMAGE_FETCH: "squorflow.stages.image_fetch",
    Stage.ENRICHMENT: "squorflow.stages.enrichment",
    Stage.DATA_MAPPING: "squorflow.stages.data_mapping",
    Stage.SCORING: "squorflow.stages.scoring",
    Stage.INDEXING: "squorflow.stages.indexing",
    Stage.NOTIFICATION: "squorflow.stages.notification",
}
"""Where each stage lives; imported when it first runs."""

SHORT_WAIT = timedelta(seconds=5)
"""Waits up to this long are slept through by whoever runs the stage; a longer one is worth giving up its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """A stage that is done: just now, or before (`checkpoint`: nothing was computed, paid for or written)."""

    status: Literal["done", "checkpoint"]
    summary: str
    seconds: float


@cache
def _stage_function(stage: Stage) -> Callable[[StageContext], StageResult]:
    function: Callable[[StageContext], StageResult] = import_module(STAGE_MODULES[stage]).run
    return function


def make_clients(config: WorkflowConfig) -> Clients:
    """Build the outside world from the settings; one per process is enough."""
    from squorflow.enrichment import choose_analyzer
    from squorflow.products.image_store import ImageStore
    from squorflow.products.images import ImageFetcher

    return Clients(
        find_analyzer=partial(choose_analyzer, config),
        image_fetcher=ImageFetcher(config),
        image_store=ImageStore(config),
    )


def run_stage(
    database: Database,
    *,
    workflow_id: UUID,
    stage: Stage,
    owner: str,
    actor: str,
    config: WorkflowConfig,
    clients: Clients,
    cancellation: Cancellation | None = None,
    manual: bool = False,
    keep_lease: timedelta | None = None,
    longest_wait: timedelta = timedelta(0),
    timeout_errors: tuple[type[BaseException], ...] = (),
) -> StageOutcome:
    """Run one stage of one workflow, and leave behind either all it wrote or none of it.

    Args:
        database: where the workflow lives.
        workflow_id: which workflow.
        stage: which stage; those before it must be done.
        owner: whose row it has to be (`locked_by`).
        actor: who is named in the trail.
        config: settings.
        clients: the outside world.
        cancellation: how the caller asks the stage to stop; also set when the lease is lost.
        manual: a person cleared the task: a failed or suspended workflow may be taken up again.
        keep_lease: for owners that stay alive between stages: how long they keep the row after this one.
        longest_wait: how long in all the owner lets this stage wait; what would take longer is given back.
        timeout_errors: exceptions by which the caller's clock ends the stage; they count as transient.

    Raises:
        StageSkipped: not ours to run now, or taken from us; nothing of it was written.
        StageWaiting: something outside holds it up; it is waiting, and to be run again after the delay.
        StageFailed: it failed; its decision is committed.
        WorkflowNotFound: there is no such workflow.
    """
    cancellation = cancellation or Cancellation()
    started = time.monotonic()
    with database.begin() as connection:
        acquisition = leases.acquire(
            connection, workflow_id, stage=stage, owner=owner, actor=actor, lease=config.lock_timeout, manual=manual
        )
    if acquisition.outcome is leases.Outcome.CHECKPOINT:
        return StageOutcome(status="checkpoint", summary=acquisition.detail, seconds=time.monotonic() - started)
    if acquisition.outcome is leases.Outcome.REFUSED:
        raise StageSkipped(f"workflow {workflow_id}: {stage} was not begun: {acquisition.detail}")
    context = StageContext(
        workflow_id=workflow_id,
        stage=stage,
        token=acquisition.token,
        retry_count=acquisition.retry_count,
        max_retries=acquisition.max_retries,
        queued_at=acquisition.queued_at,
        crawler_data=acquisition.crawler_data,
        outputs=acquisition.outputs,
        config=config,
        clients=clients,
        cancellation=cancellation,
        database=database,
    )
    patience = longest_wait - acquisition.waited
    heartbeat: Heartbeat | None = None
    try:
        with hold(
            database,
            workflow_id,
            token=context.token,
            lease=config.lock_timeout,
            locking=config.enable_distributed_locking,
            check=cancellation.check,
            on_lost=cancellation.cancel,
        ) as heartbeat:
            with cancellation.interruptible():
                result = _stage_function(stage)(context)
            cancellation.check()
            seconds = time.monotonic() - started
            ending.commit(context, result, actor=actor, seconds=seconds, keep_lease=keep_lease)
    except LeaseLost as error:
        ending.report_stale_write(context, actor=actor)
        raise StageSkipped(f"workflow {workflow_id}: {stage} was taken from this worker: {error}") from error
    except Cancelled as error:
        if heartbeat is not None and heartbeat.lost:
            # The heartbeat was first to be refused; the write would have been next.
            ending.report_stale_write(context, actor=actor)
        elif cancellation.resumable:
            ending.step_aside(context, actor=actor, patience=patience)
        raise StageSkipped(f"workflow {workflow_id}: {stage} stopped: {error}") from error
    except timeout_errors as error:
        late = TransientError(
            f"{stage} ran longer than {config.processing_timeout.total_seconds():.0f} s", code="timeout"
        )
        raise ending.record_failure(context, late, actor=actor, patience=patience) from error
    except Exception as error:
        if cancellation.resumable:
            # What a signal breaks into makes an error of it: psycopg calls its connection broken.
            ending.step_aside(context, actor=actor, patience=patience)
            raise StageSkipped(f"workflow {workflow_id}: {stage} stopped: {cancellation.reason}") from error
        raise ending.record_failure(context, error, actor=actor, patience=patience) from error
    return StageOutcome(status="done", summary=result.summary, seconds=seconds)
