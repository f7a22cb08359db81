"""The seam between `run_stage` and the seven stages: what a stage is given and what it gives back.

A stage is one function `run(context) -> StageResult`. It does its outside work first (network, AI, images) without any
transaction open, and returns a `write` that `run_stage` calls inside the one fenced transaction that also stores the
checkpoint. What later stages need is in `output`, which comes back to them as `context.outputs[stage]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.enrichment import Analyzer
    from squorflow.postgres.database import Database
    from squorflow.products.image_store import ImageStore
    from squorflow.products.images import ImageFetcher

JsonObject = dict[str, Any]
"""A JSON object: what a checkpoint's output is stored as."""


class Cancellation:
    """A flag that a stage looks at between steps; set by a person's cancel, a lost lease or Airflow's kill."""

    def __init__(self) -> None:
        self._cancelled = False
        # Who waits, waits for this lock. A signal's handler that breaks into that may free it; inside an Event it would
        # wait for itself, and a SimpleQueue has been seen to wait for ever when its time was over before it began.
        self._gate = Lock()
        self._gate.acquire()
        self._first = iter((True,))
        self._reason = ""
        self._resumable = False
        self._interruptible = False

    def cancel(self, reason: str, *, resumable: bool = False) -> None:
        """Ask the stage to stop; the first reason is kept. `resumable`: only its worker stops, its owner goes on."""
        # One step, so that of two at once one is the first.
        if next(self._first, False):
            self._reason = reason
            self._resumable = resumable
            self._cancelled = True
            self._gate.release()

    @property
    def reason(self) -> str:
        """Say why the stage was asked to stop."""
        return self._reason

    @property
    def resumable(self) -> bool:
        """Say whether the stage was stopped only because its worker stops."""
        return self._resumable

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal's handler break into the block by raising `Cancelled`; raises it if it is too late to begin.

        Elsewhere it would break into a transaction, and nobody knew whether that was committed.
        """
        self.check()
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    @property
    def may_interrupt(self) -> bool:
        """Say whether a signal's handler may raise `Cancelled` where the stage stands."""
        return self._interruptible

    @property
    def cancelled(self) -> bool:
        """Say whether the stage has been asked to stop."""
        return self._cancelled

    def check(self) -> None:
        """Raise `Cancelled` if the stage has been asked to stop; call it between outside steps."""
        if self._cancelled:
            raise Cancelled(self._reason)

    def wait(self, seconds: float) -> None:
        """Sleep up to `seconds`, waking with `Cancelled` as soon as the stage is asked to stop."""
        self.check()
        if self._gate.acquire(timeout=max(0.0, seconds)):
            # For whoever else waits.
            self._gate.release()
        self.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """The outside world as stages see it; made once per process, swapped by tests."""

    find_analyzer: Callable[[], Analyzer]
    """Only enrichment calls it: a missing key is no fault of the other stages."""
    image_fetcher: ImageFetcher
    image_store: ImageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """Everything one stage execution may use."""

    workflow_id: UUID
    stage: Stage
    token: int
    """The lease token of this execution."""
    retry_count: int
    """Tries used so far, over all stages."""
    max_retries: int
    queued_at: datetime
    crawler_data: JsonObject
    """What the crawler stored; only discovery gets it, others an empty object."""
    outputs: Mapping[Stage, JsonObject]
    """What the earlier stages returned as `output`, by stage."""
    config: WorkflowConfig
    clients: Clients
    cancellation: Cancellation
    database: Database
    """For what must commit on its own (answer cache, quotas, breakers); never for the workflow's own rows."""


def _write_nothing(_connection: Connection) -> JsonObject:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a stage leaves behind.

    `write` runs inside the fenced transaction and may return further output (ids that Postgres chose), which is merged
    over `output`. `measures` become `workflow_metrics` rows (name to number). `summary` is one line for the log.
    """

    summary: str
    output: JsonObject = field(default_factory=dict)
    write: Callable[[Connection], JsonObject] = _write_nothing
    measures: Mapping[str, float] = field(default_factory=dict)
