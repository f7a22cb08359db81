"""How a stage ends, as one transaction behind the fence: done, failed, waiting, stopped, or no longer ours.

Owns what is committed then and what the caller is told. What an error leads to is `recovery.policy`'s.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from squorflow.errors import CircuitOpen, ErrorCategory, LeaseLost, RateLimitError, SquorflowError
from squorflow.recovery import incidents, policy
from squorflow.stages.context import StageContext, StageResult
from squorflow.workflow import leases, outbox

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)


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


def commit(
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


def record_failure(context: StageContext, error: BaseException, *, actor: str, patience: timedelta) -> SquorflowError:
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
        report_stale_write(context, actor=actor)
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


def step_aside(context: StageContext, *, actor: str, patience: timedelta) -> None:
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


def report_stale_write(context: StageContext, *, actor: str) -> None:
    """Leave an event about a refused write; its own transaction, because the refused one is rolled back."""
    with context.database.begin() as connection:
        outbox.append_stale_write(
            connection, context.workflow_id, token=context.token, stage=context.stage, actor=actor
        )
