"""`WorkflowLock`: keeps one workflow from all workers, for the length of an `async with` block.

Owns waiting for it and what happens to the block when it is lost. What is taken is `squorflow.workflow.exclusion`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Self
from uuid import UUID, uuid4

from squorflow.config import WorkflowConfig, get_config
from squorflow.errors import LeaseLost
from squorflow.orchestrator.engine import open_database, read_id
from squorflow.workflow.exclusion import Exclusion

if TYPE_CHECKING:
    from types import TracebackType

    from squorflow.postgres.database import Database

_POLL_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 1.0
"""How long a lost lock may stay unnoticed."""


class WorkflowLock:
    """Only one holder at a time, workers and DAG runs included; whoever comes waits, at most for `patience`.

    A queued workflow is not claimed meanwhile, and is back in the queue afterwards unless the block moved it. When the
    lock is lost (the database was out of reach, a person gave the workflow to a worker) the block is cancelled and ends
    with `LeaseLost`. Raises `TimeoutError` when patience ends, and `WorkflowNotFound`.

    With ENABLE_DISTRIBUTED_LOCKING off it keeps queued ones only.
    """

    def __init__(
        self,
        workflow_id: UUID | str,
        *,
        patience: timedelta | None = None,
        config: WorkflowConfig | None = None,
        database: Database | None = None,
    ) -> None:
        config = config or get_config()
        self._workflow_id = read_id(workflow_id)
        self._patience = patience
        third = config.lock_timeout.total_seconds() / 3
        self._pause = min(third, _LONGEST_PAUSE_SECONDS)
        self._exclusion = Exclusion(
            open_database(database),
            self._workflow_id,
            owner=f"worker:{socket.gethostname()}/{os.getpid()}/{uuid4()}",
            lease=config.lock_timeout,
            locking=config.enable_distributed_locking,
        )
        self._entered = False
        self._lost = False
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this WorkflowLock is in use: make one for each block")
        self._entered = True
        try:
            await self._take()
        except BaseException:
            self._entered = False
            raise
        self._lost = False
        self._holder = asyncio.current_task()
        self._cancels_before = self._holder.cancelling() if self._holder else 0
        self._keeper = asyncio.create_task(self._keep(), name=f"workflow-lock-{self._workflow_id}")
        return self

    async def _take(self) -> None:
        """Wait until it is taken, at most for the time given."""
        end = None if self._patience is None else time.monotonic() + self._patience.total_seconds()
        while (busy := await self._try_take()) is not None:
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"workflow {self._workflow_id} could not be locked: {busy}")
            await asyncio.sleep(_POLL_SECONDS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._lost and kind is None:
            # It was lost in the block's last step, so its cancellation is still on its way.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        try:
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.wait([self._keeper])
        finally:
            # Also where the program is cancelled just now.
            await asyncio.to_thread(self._exclusion.let_go)
            self._entered = False
        if self._lost and self._holder is not None and self._holder.uncancel() <= self._cancels_before:
            raise LeaseLost(
                f"workflow {self._workflow_id}: its lock was lost", workflow_id=self._workflow_id
            ) from error

    async def _try_take(self) -> str | None:
        """Take it in a thread; whoever is cancelled meanwhile keeps nothing."""
        taking = asyncio.ensure_future(asyncio.to_thread(self._exclusion.try_take))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.wait([taking])
            await asyncio.to_thread(self._exclusion.let_go)
            raise

    async def _keep(self) -> None:
        """Extend it until cancelled; cancel the block when it is lost."""
        while True:
            await asyncio.sleep(self._pause)
            if not await asyncio.to_thread(self._exclusion.keep):
                self._lost = True
                if self._holder is not None:
                    self._holder.cancel()
                return
