"""Tells event handlers what happens while a process runs workflows.

Owns a dispatcher's thread, and who is told by it; how events are delivered is `squorflow.events.dispatcher`. Beside the
dispatchers of Airflow and of other processes each event still goes to each handler's name once.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from squorflow.events.dispatcher import deliver_pending, deliver_until
from squorflow.events.registry import Handler, get_handlers

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 10.0
"""How long after an error that ended the dispatcher the next one begins."""


class Messenger:
    """Delivers to the configured handlers and to those added here, from `start` to `stop` or inside a block, once."""

    def __init__(self, database: Database, *, config: WorkflowConfig, handlers: list[Handler]) -> None:
        """Name the handlers; raises `ConfigurationError` where a configured one makes no sense or two share a name."""
        self._database = database
        self._config = config
        self._added = list(handlers)
        self._handlers = get_handlers(config, more=self._added)
        self._lock = threading.Lock()
        self._renew = threading.Event()
        """Ends the present dispatcher, which the next one follows unless all is over."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="messenger", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def add(self, handler: Handler) -> None:
        """Deliver to one more; raises `ConfigurationError` when its name is taken."""
        with self._lock:
            self._handlers = get_handlers(self._config, more=[*self._added, handler])
            self._added.append(handler)
            self._renew.set()

    def stop(self) -> None:
        """End, once what has happened so far is told, for which handlers get the time of one event."""
        self._over.set()
        with self._lock:
            self._renew.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            handlers, renew = self._begin()
            if not handlers:
                renew.wait()
                continue
            try:
                deliver_until(renew, database=self._database, config=self._config, handlers=handlers)
            except Exception:
                log.exception("events are not delivered for %g s", _PAUSE_SECONDS)
                self._over.wait(_PAUSE_SECONDS)
        try:
            if self._handlers:
                deliver_pending(
                    self._database, config=self._config, handlers=self._handlers, budget=self._config.event_timeout
                )
        except Exception as error:
            # They stay in the outbox for whoever delivers next.
            log.warning("the last events were not delivered", exc_info=error)

    def _begin(self) -> tuple[list[Handler], threading.Event]:
        """Return whom the next dispatcher serves, and what ends it."""
        with self._lock:
            # One that was to end before it began ends at once: somebody was added, or all is over.
            self._renew = threading.Event()
            if self._over.is_set():
                self._renew.set()
            return list(self._handlers), self._renew
