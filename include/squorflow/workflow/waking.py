"""The bell that says there may be work, and the look whether there is.

Owns the channel, when work is due, and when that is worth another run. Who is woken is `squorflow.airflow.wake`. A ring
may be lost or say nothing new: whoever hears one looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

CHANNEL = "squorflow_work"

FIRST_PATIENCE = timedelta(minutes=1)
LONGEST_PATIENCE = timedelta(hours=1)
"""How long work that no run takes is left before another run is started for it; doubled each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there was to see: is work due; since the last wake, has a run claimed (`answered`) and got anything."""

    at: datetime
    due: bool
    answered: bool
    fruitful: bool


def announce(connection: Connection) -> None:
    """Ring when the caller's transaction commits; once per batch, never per row."""
    connection.execute(load("waking")["announce"], {"channel": CHANNEL})


class Bell:
    """Hears the rings on a session of its own; every call may block and raises what the database raises."""

    def __init__(self, session: Connection) -> None:
        self._session = session

    @classmethod
    @contextmanager
    def hung(cls, database: Database) -> Iterator[Bell]:
        """Listen inside the block; the database has to be a direct one, past any transaction pooler."""
        with database.session() as session:
            session.execute(load("waking")["listen"])
            try:
                yield cls(session)
            finally:
                # A session that listens must not go back to the pool.
                session.invalidate()

    def wait(self, seconds: float) -> bool:
        """Return as soon as it rings; `False` when it has not within `seconds`."""
        return any(True for _ in self._driver.notifies(timeout=seconds, stop_after=1))

    def drain(self, seconds: float) -> None:
        """Take whatever rings for `seconds` as one."""
        for _ in self._driver.notifies(timeout=seconds):
            pass

    def look(self, *, since: datetime | None) -> Look:
        """Look whether work is due, and what runs have claimed since."""
        row = self._session.execute(load("waking")["look"], {"since": since}).one()
        return Look(at=row.at, due=row.due, answered=row.answered, fruitful=row.fruitful)

    @property
    def _driver(self) -> Any:
        return self._session.connection.driver_connection


class Restraint:
    """Decides whether due work is worth another run, so that work nobody can take does not start runs for ever.

    A wake is answered when a run claims. While one is unanswered (every run slot is taken, the DAG is paused), and
    after one that found nothing to take, the next comes only when patience ends; it doubles each time.
    """

    def __init__(self) -> None:
        self.since: datetime | None = None
        """When the last wake was, by Postgres' clock."""
        self._patience = FIRST_PATIENCE

    def allows(self, look: Look, *, rung: bool) -> bool:
        """Say whether to wake now, and take it as done; `rung`: somebody has just said that there is new work."""
        if not look.due:
            if look.answered:
                self.since, self._patience = None, FIRST_PATIENCE
            return False
        if self.since is None or look.fruitful:
            self._patience = FIRST_PATIENCE
        elif not (look.answered and rung):
            if look.at - self.since < self._patience:
                return False
            self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        self.since = look.at
        return True
