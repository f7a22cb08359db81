"""Works the queue empty with the threads of one process, or stays and works whatever comes.

Owns when to rest, when to wake and when it is over. What a worker does with a product is `worker.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled
from squorflow.orchestrator.emptiness import Emptiness
from squorflow.orchestrator.signals import stopped_by_signals
from squorflow.orchestrator.worker import ProductEvent, ProductOutcome, Worker
from squorflow.postgres.database import is_outage
from squorflow.postgres.queries import load
from squorflow.recovery import reaper
from squorflow.stages.context import Clients
from squorflow.workflow import queue

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
"""How often a pool with idle workers looks for new work."""
_LOOK_SECONDS = 10.0
"""How long it trusts its last look at what is left; with a million waiting rows a look costs half a second."""
_AGAIN_SECONDS = 0.05
_LEASE_SLACK_SECONDS = 1.0


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


def drain(
    database: Database,
    *,
    config: WorkflowConfig,
    clients: Clients,
    num_workers: int,
    on_event: Callable[[ProductEvent], None] | None = None,
    on_wait: Callable[[float], None] | None = None,
    stays: bool = False,
) -> DrainReport:
    """Work until no product is left but those of other owners, and wait for retries that are due later.

    With `stays` it waits for new products too, until it is stopped.

    `on_event` is called from the workers' threads, one call at a time; `on_wait` now and then while there is nothing to
    do but to wait, with the seconds until there may be. SIGINT and SIGTERM stop it cleanly when it runs
    in the main thread: stages are cancelled, products given back; a second signal ends the process as usual.
    Raises what the database raises when it stays out of reach for `processing_timeout`.
    """
    pool = WorkerPool(
        database,
        config=config,
        clients=clients,
        num_workers=num_workers,
        on_event=on_event,
        on_wait=on_wait,
        stays=stays,
    )
    with stopped_by_signals(pool.stop):
        return pool.run()


class WorkerPool:
    """The workers of one process; `run` blocks until `stop` was called from another thread or the queue is empty.

    One that `stays` does not end with the queue; `emptiness` tells when nothing is left.
    """

    def __init__(
        self,
        database: Database,
        *,
        config: WorkflowConfig,
        clients: Clients,
        num_workers: int,
        on_event: Callable[[ProductEvent], None] | None = None,
        on_wait: Callable[[float], None] | None = None,
        stays: bool = False,
    ) -> None:
        self._database = database
        self._config = config
        self._stays = stays
        self._passed_over: set[UUID] = set()
        self._workers = [
            Worker(database, config=config, clients=clients, passed_over=self._passed_over) for _ in range(num_workers)
        ]
        self._on_event = on_event
        self._on_wait = on_wait
        self._counts: Counter[ProductOutcome] = Counter()
        self._condition = threading.Condition()
        self._idle = 0
        self._round = 0
        self._ending = False
        self._beating = threading.Event()
        self._stopped: str | None = None
        self._crash: BaseException | None = None
        self._reap_at = 0.0
        self._look_at = 0.0
        self._patience_until: float | None = None
        self._hurried = False
        self._started = time.monotonic()
        self.emptiness = Emptiness(self._look_anew)

    def run(self) -> DrainReport:
        """Work until nothing is left to do; raises what made a worker end."""
        try:
            report = self._work()
        except BaseException as error:
            self.emptiness.give_up(error)
            raise
        self.emptiness.give_up(Cancelled(self._stopped or "the workers have ended"))
        return report

    def _work(self) -> DrainReport:
        self._started = time.monotonic()
        self._reap()
        threads = [
            threading.Thread(target=self._drive, args=(worker,), name=f"worker-{number}", daemon=True)
            for number, worker in enumerate(self._workers, start=1)
        ]
        heartbeat = threading.Thread(target=self._beat, name="worker-heartbeat", daemon=True)
        for thread in (heartbeat, *threads):
            thread.start()
        try:
            self._tend()
        except Exception:
            self.stop("the database could not be reached")
            raise
        finally:
            self._end()
            for thread in threads:
                thread.join()
            self._beating.set()
            heartbeat.join()
        if self._crash is not None:
            raise self._crash
        return self.report()

    def stop(self, reason: str) -> None:
        """Cancel the stages that run and give everything back; `run` returns when that is done."""
        with self._condition:
            self._stopped = self._stopped or reason
        self._end()
        for worker in self._workers:
            worker.stop(reason)

    def _end(self) -> None:
        with self._condition:
            self._ending = True
            self._condition.notify_all()

    def _drive(self, worker: Worker) -> None:
        """Be one worker's thread."""
        try:
            while not self._ending:
                try:
                    worked = worker.work(self._tell)
                except Exception as error:
                    if not is_outage(error):
                        raise
                    log.warning("%s: the database is out of reach (%s)", worker.owner, type(error).__name__)
                    self._pause(_TICK_SECONDS)
                    continue
                if not worked:
                    self._rest()
        except BaseException as error:
            self._crash = self._crash or error
            self.stop(f"a worker ended: {error}")
        finally:
            self._close(worker)

    def _close(self, worker: Worker) -> None:
        try:
            worker.close()
        except Exception as error:
            # Its leases run out by themselves, and then the reaper brings the products back.
            log.warning("%s could not give back what it held", worker.owner, exc_info=error)

    def _tell(self, event: ProductEvent) -> None:
        with self._condition:
            self._counts[event.outcome] += 1
            self._patience_until = None
            self._look_at = 0.0
            if self._on_event is not None:
                self._on_event(event)

    def _rest(self) -> None:
        """Sleep until the pool sees work, or the end."""
        with self._condition:
            self._idle += 1
            self._condition.notify_all()
            present = self._round
            self._condition.wait_for(lambda: self._ending or self._round != present)

    def _wake(self) -> None:
        """Have all workers look for work.

        From now on none counts as idle: one that has been woken and is not yet running may claim at any moment.
        """
        with self._condition:
            self._idle = 0
            self._round += 1
            self._condition.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._ending, timeout=seconds)

    def _look_anew(self) -> None:
        """Have the next look begin at once, and take nothing as known."""
        with self._condition:
            self._look_at = 0.0
            self._patience_until = None
            self._hurried = True
            self._condition.notify_all()

    def _beat(self) -> None:
        """Extend the leases of all workers every third of a lease."""
        third = self._config.lock_timeout.total_seconds() / 3
        while not self._beating.wait(third):
            for worker in self._workers:
                try:
                    worker.extend()
                except Exception as error:
                    log.warning("%s: the heartbeat failed (%s)", worker.owner, type(error).__name__)

    def _tend(self) -> None:
        """Be the main thread: reap, wake idle workers when there is work, and end when nothing is left."""
        outage_since: float | None = None
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._ending or self._is_idle(), timeout=_TICK_SECONDS)
                if self._ending:
                    return
            try:
                pause = self._look_around()
                outage_since = None
            except Exception as error:
                outage_since = outage_since or time.monotonic()
                if not is_outage(error) or time.monotonic() - outage_since > self._outage_limit_seconds:
                    raise
                pause = _TICK_SECONDS
            if pause is None and not self._stays:
                return
            with self._condition:
                self._condition.wait_for(lambda: self._ending or self._hurried, timeout=pause or _TICK_SECONDS)
                self._hurried = False

    def _is_idle(self) -> bool:
        return self._idle == len(self._workers)

    @property
    def _outage_limit_seconds(self) -> float:
        return self._config.processing_timeout.total_seconds()

    def _look_around(self) -> float | None:
        """Do what is due; return the seconds until the next look, `None` when nothing is left to do."""
        askers = self.emptiness.askers()
        if time.monotonic() >= self._reap_at:
            self._reap()
        with self._condition:
            idle, all_idle = self._idle, self._is_idle()
        if idle == 0:
            return 0.0
        with self._database.begin() as connection:
            work_is_there = queue.count_claimable(connection, most=1, passed_over=self._passed_over) > 0
        if work_is_there:
            self._wake()
            return _AGAIN_SECONDS
        if not all_idle:
            return 0.0
        if time.monotonic() >= self._look_at:
            wait = self._find_wait()
            if wait is None:
                self.emptiness.tell(askers)
                self._trust_look(_LOOK_SECONDS)
                return None
            if self._on_wait is not None and wait > 0:
                self._on_wait(wait)
            self._trust_look(min(wait, _LOOK_SECONDS))
        return min(_TICK_SECONDS, max(_AGAIN_SECONDS, self._look_at - time.monotonic()))

    def _trust_look(self, seconds: float) -> None:
        """Look at what is left again after so long; at once where somebody has asked during this look."""
        with self._condition:
            self._look_at = 0.0 if self._hurried else time.monotonic() + seconds

    def _find_wait(self) -> float | None:
        """Return in how many seconds there may be work again, `None` when nothing is left that ever becomes ours."""
        parameters = {"owners": self._owners(), "passed_over": list(self._passed_over)}
        with self._database.begin() as connection:
            left = connection.execute(load("drain")["find_left"], parameters).one()
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
        # Read once: whoever asks meanwhile takes it away.
        until = self._patience_until
        if until is None:
            until = self._patience_until = now + max(0.0, float(left.lease_seconds)) + _LEASE_SLACK_SECONDS
        if now >= until:
            return None
        self._reap_at = min(self._reap_at, until)
        return until - now

    def _owners(self) -> list[str]:
        return [worker.owner for worker in self._workers]

    def _reap(self) -> None:
        reaper.reap(self._database, liveness=reaper.nothing_known, config=self._config)
        self._reap_at = time.monotonic() + self._config.lock_timeout.total_seconds()

    def report(self) -> DrainReport:
        """Say what has been done so far and what is left."""
        with self._database.begin() as connection:
            remaining = queue.find_remaining(connection)
            claimable = queue.count_claimable(connection, most=remaining.ready)
            held = connection.execute(load("drain")["find_held_elsewhere"], {"owners": self._owners()}).one()
        return DrainReport(
            completed=self._counts[ProductOutcome.COMPLETED],
            failed=self._counts[ProductOutcome.FAILED],
            suspended=self._counts[ProductOutcome.SUSPENDED],
            retries=self._counts[ProductOutcome.RETRYING],
            skipped=self._counts[ProductOutcome.SKIPPED],
            not_queued=max(0, remaining.ready - claimable),
            held_elsewhere=held.products,
            passed_over=len(self._passed_over),
            seconds=time.monotonic() - self._started,
            stopped=self._stopped,
        )
