"""Workers and messenger of one process, in threads of their own: begun, left alone, ended.

Owns the two together and their end. What they do is `drain.py` and `messenger.py`; who may await them is `facade.py`.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from squorflow.orchestrator.drain import WorkerPool
from squorflow.orchestrator.messenger import Messenger
from squorflow.orchestrator.outcomes import DrainReport

if TYPE_CHECKING:
    from concurrent.futures import Future

    from squorflow.config import WorkflowConfig
    from squorflow.events.registry import Handler
    from squorflow.postgres.database import Database
    from squorflow.stages.context import Clients

log = logging.getLogger(__name__)


class Service:
    """Works on whatever comes until it is stopped; made for one start."""

    def __init__(
        self, database: Database, *, config: WorkflowConfig, clients: Clients, handlers: list[Handler]
    ) -> None:
        """Prepare it; raises `ConfigurationError` where an event handler makes no sense. It closes the database."""
        self._database = database
        self._pool = WorkerPool(database, config=config, clients=clients, num_workers=config.num_workers, stays=True)
        self.messenger = Messenger(database, config=config, handlers=handlers)
        self._thread = threading.Thread(target=self._run, name="orchestrator", daemon=True)
        self._stopping = threading.Lock()
        self._stopped = False
        self._report: DrainReport | None = None
        self._crash: BaseException | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self.messenger.start()
        self._thread.start()

    def ask_when_empty(self) -> Future[None]:
        """Return what is done once nothing is left but what others hold; it fails with what ended the workers."""
        return self._pool.emptiness.ask()

    def report(self) -> DrainReport:
        """Say what has been done since the start."""
        return self._pool.report()

    def stop(self, reason: str) -> None:
        """Cancel the stages that run, give everything back and tell what has happened; returns when that is done.

        It may be called from any thread, and more than once.
        """
        with self._stopping:
            if self._stopped:
                return
            self._pool.stop(reason)
            self._thread.join()
            self.messenger.stop()
            self._database.close()
            self._stopped = True

    def result(self) -> DrainReport:
        """Return what was done, once it has been stopped; raises what ended it before that."""
        if self._crash is not None:
            raise self._crash
        if self._report is None:
            raise RuntimeError("it has not been stopped")
        return self._report

    def _run(self) -> None:
        try:
            self._report = self._pool.run()
        except BaseException as error:
            log.exception("the workers have ended; what they held comes back when its leases have run out")
            self._crash = error
