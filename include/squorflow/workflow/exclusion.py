"""One workflow kept from every worker, by a program that is none: its advisory lock, and its row where it is queued.

Workers claim only rows that are nobody's, so a queued one is owned while it is kept; the lock keeps out whoever does
not ask for the row. A worker that gets a lease all the same ends the lock after half of it: a valid token wins.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.errors import WorkflowNotFound
from squorflow.postgres.queries import load
from squorflow.workflow import heartbeat, queue

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)


class Exclusion:
    """Taken, kept and let go of; each call blocks for a round trip or two, and for another that is under way.

    Whoever awaits such a call in a thread may be cancelled and go on before the thread has ended.
    """

    def __init__(self, database: Database, workflow_id: UUID, *, owner: str, lease: timedelta, locking: bool) -> None:
        self._database = database
        self._workflow_id = workflow_id
        self._owner = owner
        self._lease = lease
        self._locking = locking
        self._opened: AbstractContextManager[Connection] | None = None
        self._session: Connection | None = None
        self._broken = False
        self._calling = threading.RLock()

    def try_take(self) -> str | None:
        """Take it; otherwise return in words who has it. Raises `WorkflowNotFound`."""
        with self._calling:
            return self._open_and_try()

    def _open_and_try(self) -> str | None:
        self._opened = self._database.session()
        self._session = self._opened.__enter__()
        self._broken = False
        try:
            busy = self._try(self._session)
        except BaseException:
            self.let_go()
            raise
        if busy is not None:
            self.let_go()
        return busy

    def _try(self, session: Connection) -> str | None:
        if self._locking and not heartbeat.try_lock(session, self._workflow_id, lease=self._lease):
            return "another process works on it"
        row = session.execute(
            load("exclusion")["take"], {"workflow_id": self._workflow_id, "owner": self._owner, "lease": self._lease}
        ).one_or_none()
        if row is None:
            raise WorkflowNotFound(f"workflow {self._workflow_id} does not exist", workflow_id=self._workflow_id)
        if row.taken or row.locked_by is None:
            return None
        return f"it is {row.workflow_state} and belongs to {row.locked_by}"

    def keep(self) -> bool:
        """Extend it; `False` when it is lost."""
        with self._calling:
            return self._extend()

    def _extend(self) -> bool:
        from sqlalchemy.exc import SQLAlchemyError

        if self._session is None:
            return False
        try:
            queue.extend_owned(self._session, owner=self._owner, lease=self._lease)
        except SQLAlchemyError as error:
            log.warning("workflow %s: its lock session ended (%s)", self._workflow_id, type(error).__name__)
            self._session.invalidate()
            self._broken = True
            return False
        return True

    def let_go(self) -> None:
        """Give back what was taken; nothing, where nothing was."""
        with self._calling:
            self._give_back()

    def _give_back(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        session, opened = self._session, self._opened
        self._session = self._opened = None
        if session is None or opened is None:
            return
        try:
            with self._database.begin() as connection:
                queue.give_back(connection, owner=self._owner)
            if not self._broken:
                heartbeat.unlock(session)
        except SQLAlchemyError as error:
            # Postgres frees the lock with its session; the row comes back when its lease has run out.
            log.warning("workflow %s: it could not be given back (%s)", self._workflow_id, type(error).__name__)
            session.invalidate()
        finally:
            opened.__exit__(None, None, None)
