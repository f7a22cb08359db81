"""One in-process worker: claims a few products, runs their stages in order, lets go of what it cannot finish.

Owns the life of a product between claim and release. Each worker is an owner of its own (`worker:<host>/<pid>/<uuid>`),
so that it can let go of all it holds without touching another's. When to rest and when to stop the pool says
(`squorflow.orchestrator.drain`); what an error means, `run_stage` has decided and committed.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled, TransientError, WorkflowNotFound
from squorflow.orchestrator.outcomes import ProductEvent, ProductOutcome
from squorflow.postgres.database import is_refusal
from squorflow.postgres.queries import load
from squorflow.recovery import policy
from squorflow.stages import SHORT_WAIT, StageFailed, StageSkipped, StageWaiting, run_stage
from squorflow.stages.context import Cancellation, Clients
from squorflow.states import FIRST_STAGE, STAGES, Stage
from squorflow.workflow import queue
from squorflow.workflow.transitions import clean

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

CLAIM_SIZE = 4
"""Products a worker claims at once: a claim then costs a few percent of the work, and the last batch ends soon."""

MOST_FAULTS = 5
"""Errors around the stages, one after the other, after which a worker ends: the installation is at fault."""

_OUTCOMES = {
    policy.Action.RETRY: ProductOutcome.RETRYING,
    policy.Action.RELEASE: ProductOutcome.RETRYING,
    policy.Action.SUSPEND: ProductOutcome.SUSPENDED,
    policy.Action.FAIL: ProductOutcome.FAILED,
}

_SETTLED = frozenset({ProductOutcome.COMPLETED, ProductOutcome.FAILED, ProductOutcome.SUSPENDED})
"""Outcomes after which a product belongs to nobody."""


class StageOverran(TransientError):
    """The stage ran longer than `processing_timeout`."""


class StageClock(Cancellation):
    """A cancellation that also ends the stage when its time is over."""

    def __init__(self, limit: timedelta) -> None:
        super().__init__()
        self._end = time.monotonic() + limit.total_seconds()

    def check(self) -> None:
        """Raise `Cancelled` when asked to stop, `StageOverran` when the time is over."""
        super().check()
        if time.monotonic() >= self._end:
            raise StageOverran("the stage's time is over", code="timeout")

    def wait(self, seconds: float) -> None:
        """Sleep up to `seconds`, but not beyond the stage's time."""
        super().wait(max(0.0, min(seconds, self._end - time.monotonic())))


@dataclass(frozen=True, slots=True, kw_only=True)
class _LettingGo:
    """How the products a worker still holds are given back."""

    reason: str
    last_error: str
    counts: bool
    delay: timedelta = timedelta(0)


_NOTHING_BEGUN = _LettingGo(reason="given back by its worker", last_error="WorkerStopped: given back", counts=False)


class Worker:
    """Works on a few products at a time; made and driven by one thread, stopped from any.

    `passed_over`, shared by the workers of a pool, gathers the products that cannot even be claimed.
    """

    def __init__(
        self, database: Database, *, config: WorkflowConfig, clients: Clients, passed_over: set[UUID] | None = None
    ) -> None:
        process = f"worker:{socket.gethostname()}/{os.getpid()}"
        self.owner = f"{process}/{uuid4()}"
        self.actor = process
        self._database = database
        self._config = config
        self._clients = clients
        self._passed_over = set() if passed_over is None else passed_over
        self._stop_reason: str | None = None
        self._clock: StageClock | None = None
        self._pending: _LettingGo | None = None
        self._faults = 0

    def stop(self, reason: str) -> None:
        """Ask the stage that runs now to stop, and begin no other."""
        self._stop_reason = reason
        clock = self._clock
        if clock is not None:
            clock.cancel(reason)

    def work(self, on_event: Callable[[ProductEvent], None]) -> bool:
        """Claim a few products and work on them; `False` means there were none to claim.

        Raises what the database raises; whatever was begun then is given back by the next call, or by `close`.
        """
        self._settle()
        # From here on rows may be ours, also when the answer to the claim is lost.
        self._pending = _NOTHING_BEGUN
        claimed = self._claim()
        left = len(claimed)
        for workflow_id in claimed:
            if self._stop_reason is not None:
                break
            event = self._run_product(workflow_id)
            on_event(event)
            if event.outcome is ProductOutcome.RETRYING:
                # Nobody looks after a retry that belongs to a dead worker, so none ever keeps belonging to one.
                break
            left -= event.outcome in _SETTLED
        if left == 0:
            self._pending = None
        self._settle()
        return bool(claimed)

    def _claim(self) -> Sequence[UUID]:
        """Claim a few products; those that refuse it are told once and passed over from then on."""
        lease = self._config.lock_timeout
        try:
            with self._database.begin() as connection:
                return queue.claim_for_worker(
                    connection, owner=self.owner, limit=CLAIM_SIZE, lease=lease, passed_over=self._passed_over
                )
        except Exception as error:
            if not is_refusal(error):
                raise
        while True:
            with self._database.begin() as connection:
                claims = queue.claim_singly(
                    connection, owner=self.owner, limit=CLAIM_SIZE, lease=lease, passed_over=self._passed_over
                )
            for workflow_id, refusal in claims.refused.items():
                log.error("workflow %s cannot be claimed and was passed over: %s", workflow_id, refusal)
            self._passed_over.update(claims.refused)
            if claims.claimed or not claims.refused:
                return claims.claimed

    def extend(self) -> None:
        """Extend the lease of everything this worker holds; called by the heartbeat's thread."""
        with self._database.begin() as connection:
            queue.extend_owned(connection, owner=self.owner, lease=self._config.lock_timeout)

    def close(self) -> None:
        """Give back all it still holds."""
        self._settle()

    def _run_product(self, workflow_id: UUID) -> ProductEvent:
        """Run the stages that are left, and say how it ended."""
        started = time.monotonic()
        stage, outcome, message = FIRST_STAGE, ProductOutcome.COMPLETED, ""
        try:
            for stage in STAGES:
                self._run_stage(workflow_id, stage)
            self._faults = 0
        except StageFailed as failed:
            outcome, message = _OUTCOMES[failed.decision.action], failed.decision.reason
        except (StageSkipped, WorkflowNotFound) as skipped:
            outcome, message = self._give_up(skipped)
        except Exception as error:
            outcome, message = self._report_fault(workflow_id, stage, error)
        return ProductEvent(
            workflow_id=workflow_id,
            outcome=outcome,
            stage=stage,
            message=message,
            seconds=time.monotonic() - started,
        )

    def _run_stage(self, workflow_id: UUID, stage: Stage) -> None:
        """Run one stage, sleeping through its short waits; a longer one gives the product back."""
        clock = StageClock(self._config.processing_timeout)
        self._clock = clock
        if self._stop_reason is not None:
            raise StageSkipped(self._stop_reason)
        try:
            while (wait := self._try_stage(workflow_id, stage, clock=clock)) is not None:
                clock.wait(wait.total_seconds())
        except Cancelled as stopped:
            raise StageSkipped(str(stopped)) from stopped
        finally:
            self._clock = None

    def _try_stage(self, workflow_id: UUID, stage: Stage, *, clock: StageClock) -> timedelta | None:
        """Run one stage; return how long it has to wait before it is run again, `None` when it is done."""
        try:
            run_stage(
                self._database,
                workflow_id=workflow_id,
                stage=stage,
                owner=self.owner,
                actor=self.actor,
                config=self._config,
                clients=self._clients,
                cancellation=clock,
                keep_lease=self._config.lock_timeout,
                longest_wait=min(SHORT_WAIT, self._config.longest_wait),
                timeout_errors=(StageOverran,),
            )
        except StageWaiting as waiting:
            return waiting.delay
        return None

    def _give_up(self, error: Exception) -> tuple[ProductOutcome, str]:
        """Settle a stage that was not run to its end: stopped by us, or not ours any more."""
        if self._stop_reason is None:
            # Where Postgres was out of reach for a whole lease, the row may still be ours.
            self._pending = _LettingGo(
                reason=f"its worker gave up: {error}", last_error="WorkerStopped: the lease was lost", counts=True
            )
            return ProductOutcome.SKIPPED, str(error)
        self._pending = _LettingGo(
            reason=self._stop_reason, last_error="WorkerStopped: the worker was told to stop", counts=False
        )
        return ProductOutcome.STOPPED, self._stop_reason

    def _report_fault(self, workflow_id: UUID, stage: Stage, error: Exception) -> tuple[ProductOutcome, str]:
        """Settle an error around the stage, not in it: the database went away, or the installation is broken."""
        self._faults += 1
        what = policy.describe(error)
        self._pending = _LettingGo(
            reason=f"{stage}: {what}; its worker could not go on",
            last_error=what,
            counts=True,
            delay=self._config.retry_backoff_base,
        )
        if self._faults > MOST_FAULTS:
            raise error
        log.warning("workflow %s: %s could not be run", workflow_id, stage, exc_info=error)
        return ProductOutcome.RETRYING, what

    def _settle(self) -> None:
        """Give back what is held; stays pending until the database has taken it."""
        pending = self._pending
        if pending is None:
            return
        with self._database.begin() as connection:
            connection.execute(
                load("worker")["release_begun"],
                {
                    "owner": self.owner,
                    "actor": self.actor,
                    "reason": clean(pending.reason),
                    "last_error": clean(pending.last_error),
                    "counts": pending.counts,
                    "delay": pending.delay,
                },
            )
            queue.give_back(connection, owner=self.owner)
        self._pending = None
