"""What a pool of workers may still get to do, and when.

Owns the looks into the queue, how long one is trusted, and the patience with leases of workers that may be dead. What
follows from a look is `drain.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.recovery import reaper
from squorflow.workflow import queue

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

_LOOK_SECONDS = 10.0
"""How long a look at what is left is trusted; with a million waiting rows one costs half a second."""
_LEASE_SLACK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Unfinished products that the pool leaves: nobody has queued them, or they are others'."""

    not_queued: int
    held_elsewhere: int


class Lookout:
    """Looked from by one thread; any may say that something has changed.

    `owners` are the pool's own workers, `passed_over` the rows they have learnt to leave alone.
    """

    def __init__(
        self, database: Database, *, config: WorkflowConfig, owners: list[str], passed_over: Collection[UUID]
    ) -> None:
        self._database = database
        self._config = config
        self._owners = owners
        self._passed_over = passed_over
        self._lock = threading.Lock()
        self._changes = 0
        self._reap_at = 0.0
        self._look_at = 0.0
        self._patience_until: float | None = None

    def forget(self) -> None:
        """Take nothing as known any more: something has changed."""
        with self._lock:
            self._changes += 1
            self._look_at = 0.0
            self._patience_until = None

    def reap(self) -> None:
        """Release what dead workers hold, where that is due: at first, after each lease, when patience has ended."""
        if time.monotonic() >= self._reap_at:
            reaper.reap(self._database, liveness=reaper.nothing_known, config=self._config)
            self._reap_at = time.monotonic() + self._config.lock_timeout.total_seconds()

    def has_work(self) -> bool:
        """Tell whether a worker could claim something now."""
        with self._database.begin() as connection:
            return queue.count_claimable(connection, most=1, passed_over=self._passed_over) > 0

    @property
    def seconds_to_look(self) -> float:
        """For how many seconds the last look still holds; none is left when it does not."""
        return self._look_at - time.monotonic()

    def look(self) -> float | None:
        """Return in how many seconds there may be work again, `None` when nothing is left that ever becomes ours."""
        with self._lock:
            changes = self._changes
        seconds = self._find_wait()
        with self._lock:
            # What has changed during the look it may not have seen.
            if changes == self._changes:
                self._look_at = time.monotonic() + min(_LOOK_SECONDS if seconds is None else seconds, _LOOK_SECONDS)
        return seconds

    def count_left(self) -> Left:
        """Count what is left behind now."""
        with self._database.begin() as connection:
            left = connection.execute(load("lookout")["count_left"], {"owners": self._owners}).one()
        return Left(not_queued=left.not_queued, held_elsewhere=left.held_elsewhere)

    def _find_wait(self) -> float | None:
        parameters = {"owners": self._owners, "passed_over": list(self._passed_over)}
        with self._database.begin() as connection:
            left = connection.execute(load("lookout")["find_left"], parameters).one()
        if left.claimable:
            # Given back, or released by another reaper, since the look for work.
            return 0.0
        if left.seconds_to_retry is not None:
            seconds = float(left.seconds_to_retry)
            if seconds <= 0:
                reaper.release_due(self._database)
            return max(0.0, seconds)
        if left.lease_seconds is None:
            return None
        # Another worker that lives extends its leases; one that died has lost them after one lease, and then its
        # products are ours. So the longest lease is waited out once.
        now = time.monotonic()
        with self._lock:
            if self._patience_until is None:
                self._patience_until = now + max(0.0, float(left.lease_seconds)) + _LEASE_SLACK_SECONDS
            until = self._patience_until
        if now >= until:
            return None
        self._reap_at = min(self._reap_at, until)
        return until - now
