"""Runs one stage of one product: acquire, work, write behind the fence; or record what went wrong.

Owns the order of these steps and the list of stages. The stages do the work, `recovery.policy` decides about errors,
and Postgres has the last word on who may write.
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
from squorflow.errors import (
    Cancelled,
    CircuitOpen,
    ErrorCategory,
    LeaseLost,
    RateLimitError,
    SquorflowError,
    TransientError,
)
from squorflow.recovery import incidents, policy
from squorflow.stages.context import Cancellation, Clients, StageContext, StageResult
from squorflow.states import Stage
from squorflow.workflow import leases, outbox
from squorflow.workflow.heartbeat import hold

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database
    from squorflow.workflow.heartbeat import Heartbeat

log = logging.getLogger(__name__)

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


class StageSkipped(SquorflowError):
    """The stage is not ours to run now; the message says why. Nothing was written."""


class StageWaiting(SquorflowError):
    """The stage waits in its owner's hands, which has been committed; run it again after `decision.delay`."""

    def __init__(self, message: str, *, decision: policy.Decision) -> None:
        super().__init__(message)
        self.decision = decision
        self.delay = decision.delay or timedelta(0)


class StageFailed(SquorflowError):
    """The stage failed, and what follows from it has been committed; `decision` says what."""

    def __init__(self, message: str, *, decision: policy.Decision) -> None:
        super().__init__(message)
        self.decision = decision


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
            _commit(context, result, actor=actor, seconds=seconds, keep_lease=keep_lease)
    except LeaseLost as error:
        _report_stale_write(context, actor=actor)
        raise StageSkipped(f"workflow {workflow_id}: {stage} was taken from this worker: {error}") from error
    except Cancelled as error:
        if heartbeat is not None and heartbeat.lost:
            # The heartbeat was first to be refused; the write would have been next.
            _report_stale_write(context, actor=actor)
        elif cancellation.resumable:
            _step_aside(context, actor=actor, patience=patience)
        raise StageSkipped(f"workflow {workflow_id}: {stage} stopped: {error}") from error
    except timeout_errors as error:
        late = TransientError(
            f"{stage} ran longer than {config.processing_timeout.total_seconds():.0f} s", code="timeout"
        )
        raise _record_failure(context, late, actor=actor, patience=patience) from error
    except Exception as error:
        if cancellation.resumable:
            # What a signal breaks into makes an error of it: psycopg calls its connection broken.
            _step_aside(context, actor=actor, patience=patience)
            raise StageSkipped(f"workflow {workflow_id}: {stage} stopped: {cancellation.reason}") from error
        raise _record_failure(context, error, actor=actor, patience=patience) from error
    return StageOutcome(status="done", summary=result.summary, seconds=seconds)


def _commit(
    context: StageContext, result: StageResult, *, actor: str, seconds: float, keep_lease: timedelta | None
) -> None:
    """Write everything a stage leaves behind in one transaction that begins with the fence."""
    with context.database.begin() as connection:
        leases.fence(connection, context.workflow_id, token=context.token)
        written = result.write(connection)
        leases.finish(
            connection,
            context.workflow_id,
            stage=context.stage,
            token=context.token,
            actor=actor,
            output={**result.output, **written},
            seconds=seconds,
            measures=result.measures,
            keep_lease=keep_lease,
        )


def _record_failure(context: StageContext, error: BaseException, *, actor: str, patience: timedelta) -> SquorflowError:
    """Commit what the failure leads to and return what to raise for it."""
    decision = policy.decide(
        error,
        workflow_id=context.workflow_id,
        stage=context.stage,
        retry_count=context.retry_count,
        max_retries=context.max_retries,
        patience=patience,
        config=context.config,
    )
    # Where it was raised is no puzzle then, and one outage makes hundreds of them.
    shown = None if isinstance(error, RateLimitError | CircuitOpen) else error
    log.warning("workflow %s: %s", context.workflow_id, decision.reason, exc_info=shown)
    try:
        with context.database.begin() as connection:
            _write_failure(connection, context, error=error, decision=decision, actor=actor)
    except LeaseLost as lost:
        _report_stale_write(context, actor=actor)
        return StageSkipped(f"workflow {context.workflow_id}: {context.stage} was taken from this worker: {lost}")
    incident = policy.incident_of(error)
    if incident is not None:
        incidents.open_incident(
            context.database, alert=incidents.SYSTEM_FAULT, subject=incident, message=decision.reason
        )
    kind = StageWaiting if decision.action is policy.Action.WAIT else StageFailed
    return kind(f"workflow {context.workflow_id}: {decision.reason}", decision=decision)


def _write_failure(
    connection: Connection, context: StageContext, *, error: BaseException, decision: policy.Decision, actor: str
) -> None:
    """Write the failing or waiting transition, whichever was decided."""
    if decision.action is policy.Action.WAIT:
        leases.wait(
            connection,
            context.workflow_id,
            token=context.token,
            actor=actor,
            category=decision.category.value,
            delay=decision.delay or timedelta(0),
            reason=decision.reason,
            last_error=policy.describe(error),
            details=policy.details_of(error, stage=context.stage),
        )
        return
    leases.fail(
        connection,
        context.workflow_id,
        token=context.token,
        actor=actor,
        action=decision.action.value,
        category=decision.category.value,
        delay=decision.delay,
        reason=decision.reason,
        last_error=policy.describe(error),
        details=policy.details_of(error, stage=context.stage),
        counts=decision.counts,
    )


def _step_aside(context: StageContext, *, actor: str, patience: timedelta) -> None:
    """End the lease of a stage whose worker stops: whoever goes on need not wait for it, and no try is lost.

    A stage that is still being stopped when its patience is over may be why; then it counts as any lost worker.
    """
    from sqlalchemy.exc import SQLAlchemyError

    if patience <= timedelta(0):
        log.warning(
            "workflow %s: %s was stopped again and again, which costs a try", context.workflow_id, context.stage
        )
        return
    reason = f"{context.stage} stopped: {context.cancellation.reason}"
    try:
        with context.database.begin() as connection:
            leases.wait(
                connection,
                context.workflow_id,
                token=context.token,
                actor=actor,
                category=ErrorCategory.TRANSIENT.value,
                delay=timedelta(0),
                reason=reason,
                last_error=f"WorkerStopped: {reason}",
                details={"class": "WorkerStopped", "stage": context.stage.value},
            )
    except LeaseLost:
        log.info("workflow %s: %s was taken over before it stopped", context.workflow_id, context.stage)
    except SQLAlchemyError as error:
        log.warning("workflow %s: its lease has to run out (%s)", context.workflow_id, type(error).__name__)


def _report_stale_write(context: StageContext, *, actor: str) -> None:
    """Leave an event about a refused write; its own transaction, because the refused one is rolled back."""
    with context.database.begin() as connection:
        outbox.append_stale_write(
            connection, context.workflow_id, token=context.token, stage=context.stage, actor=actor
        )
