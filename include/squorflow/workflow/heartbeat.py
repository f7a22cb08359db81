"""Keeps a lease alive while its stage works: the advisory lock, and a thread that extends the lease every third of it.

The lock on top of the lease keeps two processes from working on the same product at the same time; the token decides
who may write (`leases`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

LOCK_CLASS = 21329
"""First half of our advisory locks' two-int key ("SQ"); Airflow itself uses the one-bigint keys 1 and 2."""

_POLL_SECONDS = 0.2


def lock_key(workflow_id: UUID) -> int:
    """Return the second half of a workflow's advisory lock key: the last 32 bits of its id, signed."""
    unsigned = workflow_id.int & 0xFFFFFFFF
    return unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned


def _milliseconds(lease: timedelta) -> str:
    """Return how long a session may idle, as Postgres' setting takes it."""
    return str(max(1, int(lease.total_seconds() * 1000)))


def try_lock(session: Connection, workflow_id: UUID, *, lease: timedelta) -> bool:
    """Take a workflow's advisory lock for the session; Postgres ends one that is idle for a whole lease."""
    parameters = {
        "lock_class": LOCK_CLASS,
        "lock_key": lock_key(workflow_id),
        "idle_milliseconds": _milliseconds(lease),
    }
    return bool(session.execute(load("heartbeat")["try_lock"], parameters).one().locked)


def unlock(session: Connection) -> None:
    """Free what the session has locked, and let it idle in its pool."""
    session.execute(load("heartbeat")["unlock"])


@contextmanager
def hold(
    database: Database,
    workflow_id: UUID,
    *,
    token: int,
    lease: timedelta,
    locking: bool,
    check: Callable[[], None],
    on_lost: Callable[[str], None],
) -> Iterator[Heartbeat]:
    """Hold the advisory lock and extend the lease every third of it, until the block ends.

    A lock held by a process that lost its lease is freed after half a lease: a valid token wins. `check` is called
    between the tries to take it, and gives up by raising. `on_lost` is called once, from the heartbeat's thread, when
    the token has moved on or Postgres stayed out of reach for a whole lease.
    """
    with database.session() as session:
        heartbeat = Heartbeat(database, workflow_id, token=token, lease=lease, locking=locking, on_lost=on_lost)
        heartbeat.open(session, check=check)
        thread = threading.Thread(target=heartbeat.run, args=(session,), name=f"lease-{workflow_id}", daemon=True)
        thread.start()
        try:
            yield heartbeat
        finally:
            heartbeat.stop(thread)


class Heartbeat:
    """Keeps one lease alive from a thread of its own; made by `hold`.

    `lost` turns true when the token has moved on; it stays false while Postgres is merely out of reach.
    """

    def __init__(
        self,
        database: Database,
        workflow_id: UUID,
        *,
        token: int,
        lease: timedelta,
        locking: bool,
        on_lost: Callable[[str], None],
    ) -> None:
        self._database = database
        self._workflow_id = workflow_id
        self._lease = lease
        self._locking = locking
        self._on_lost = on_lost
        self.lost = False
        self._own_session = True
        self._stopping = threading.Event()
        self._extend = {"workflow_id": workflow_id, "token": token, "lease": lease}
        self._holder = {"lock_class": LOCK_CLASS, "unsigned_key": lock_key(workflow_id) & 0xFFFFFFFF}

    def open(self, session: Connection, *, check: Callable[[], None]) -> None:
        """Take the lock, waiting for a busy one up to half a lease and then ending its holder."""
        queries = load("heartbeat")
        if not self._locking:
            session.execute(queries["watch_session"], {"idle_milliseconds": _milliseconds(self._lease)})
            return
        deadline = time.monotonic() + self._lease.total_seconds() / 2
        while not try_lock(session, self._workflow_id, lease=self._lease):
            if time.monotonic() > deadline:
                log.warning(
                    "workflow %s: its lock is held by a process without the lease; ending that", self._workflow_id
                )
                session.execute(queries["terminate_lock_holder"], self._holder)
                deadline = time.monotonic() + self._lease.total_seconds() / 2
            time.sleep(_POLL_SECONDS)
            check()

    def run(self, session: Connection) -> None:
        """Extend the lease until stopped; end with `on_lost` when it cannot be extended any more."""
        from sqlalchemy.exc import SQLAlchemyError

        third = self._lease.total_seconds() / 3
        extended = time.monotonic()
        while not self._stopping.wait(third):
            try:
                rows = self._beat(session)
            except SQLAlchemyError as error:
                log.warning("workflow %s: heartbeat failed (%s)", self._workflow_id, type(error).__name__)
                if time.monotonic() - extended > self._lease.total_seconds():
                    self._on_lost("Postgres could not be reached for a whole lease")
                    break
                continue
            if rows == 0:
                self.lost = True
                self._on_lost("the lease was lost: another worker or a person took the workflow")
                break
            extended = time.monotonic()
        if self._own_session:
            self._release(session)

    def _beat(self, session: Connection) -> int:
        """Extend the lease over the lock's session, or another connection where that one was ended; 0: it was lost."""
        from sqlalchemy.exc import SQLAlchemyError

        if self._own_session:
            try:
                return session.execute(load("heartbeat")["extend"], self._extend).rowcount
            except SQLAlchemyError as error:
                # Postgres ends it when this process was stopped for a lease; only asking tells whether that was lost.
                log.warning("workflow %s: its lock session ended (%s)", self._workflow_id, type(error).__name__)
                session.invalidate()
                self._own_session = False
        with self._database.begin() as connection:
            return connection.execute(load("heartbeat")["extend"], self._extend).rowcount

    def _release(self, session: Connection) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            unlock(session)
        except SQLAlchemyError as error:
            # The lock went with the session that broke.
            log.warning("workflow %s: its lock session ended early (%s)", self._workflow_id, type(error).__name__)
            session.invalidate()

    def stop(self, thread: threading.Thread) -> None:
        """End the heartbeat; returns when it has ended."""
        self._stopping.set()
        thread.join()
