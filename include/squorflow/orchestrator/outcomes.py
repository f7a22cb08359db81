"""What becomes of one product in the hands of a worker, and of the queue in those of a pool."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from squorflow.states import Stage


class ProductOutcome(StrEnum):
    """What became of a product in one go of one worker."""

    COMPLETED = "completed"
    FAILED = "failed"
    """Parked: no try is left."""
    SUSPENDED = "suspended"
    """Left for a person."""
    RETRYING = "retrying"
    """Comes back by itself when its time has come."""
    SKIPPED = "skipped"
    """Not ours any more: cancelled, suspended or taken by another; nothing was written."""
    STOPPED = "stopped"
    """The worker was told to stop; the product is due again at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductEvent:
    """What one worker did to one product; `stage` is where it ended, `message` says why it went no further."""

    workflow_id: UUID
    outcome: ProductOutcome
    stage: Stage
    message: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What a pool of workers did and left behind.

    `retries` counts the times a product came back for another try, `skipped` those that were taken from us.
    `not_queued` are products left in `created`: somebody inserted them and has to queue them. `held_elsewhere` are
    unfinished products of DAG runs and other workers, `passed_over` queued ones whose rows refuse to be claimed (the
    log says why). `stopped` says why it ended early, `None` when nothing was left.
    """

    completed: int
    failed: int
    suspended: int
    retries: int
    skipped: int
    not_queued: int
    held_elsewhere: int
    passed_over: int
    seconds: float
    stopped: str | None

    @property
    def products_per_second(self) -> float:
        """Completed products for each second it took."""
        return self.completed / self.seconds if self.seconds > 0 else 0.0
