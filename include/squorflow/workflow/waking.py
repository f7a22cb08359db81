"""The bell that says there may be work, and the look whether there is.

Owns the channel, when work is due, when that is worth another run, and how much such a run takes. Who is woken is
`squorflow.airflow.wake`. A ring may be lost or say nothing new: whoever hears one looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

Answer = TypeVar("Answer")

CHANNEL = "squorflow_work"

FIRST_PATIENCE = timedelta(minutes=1)
LONGEST_PATIENCE = timedelta(hours=1)
"""How long work that no run takes is left before another run is started for it; doubled each time."""

BATCHES_IN_HAND = 4
"""So many batches may runs have in hand before the next claims fresh products: they may all wait for one quota."""

BATCHES_TRIED = 2
"""So much of what was tried before may be claimed and not begun: of more, no run takes any."""

UNBEGUN_SHARE = 4
UNBEGUN_FEW = 4
"""The next batch is claimed when less than a fourth of one is left to begin, or so few that they may be stuck.

What is claimed long before it can begin costs Airflow's scheduler a look in each of its rounds, and stands in the way
of products that are more urgent.
"""


class Allowance(StrEnum):
    """What a run that starts by itself may claim."""

    ANYTHING = "anything"
    TRIED_BEFORE = "tried before"
    """Runs have enough in hand, but what a worker has lost, or tried in vain, does not stand in line behind it."""
    NOTHING = "nothing"


def find_allowance(connection: Connection, *, batch_size: int, instance: str) -> Allowance:
    """Say what a run may claim, by what the runs of this `WORKFLOW_INSTANCE` have in hand."""
    row = connection.execute(load("waking")["count_in_hand"], {"instance": instance}).one()
    if row.tried >= max(UNBEGUN_FEW, BATCHES_TRIED * batch_size):
        return Allowance.NOTHING
    if row.unbegun >= max(UNBEGUN_FEW, batch_size // UNBEGUN_SHARE) or row.in_hand >= BATCHES_IN_HAND * batch_size:
        return Allowance.TRIED_BEFORE
    return Allowance.ANYTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there was to see: rows that are due, at most one of each kind that is looked for; the last wake's fate.

    `answered`: a run has claimed since; `fruitful`: and got something. `fresh`: products nobody has tried count as due.
    """

    at: datetime
    due: frozenset[UUID]
    answered: bool
    fruitful: bool
    fresh: bool


def announce(connection: Connection) -> None:
    """Ring when the caller's transaction commits; once per batch, never per row."""
    connection.execute(load("waking")["announce"], {"channel": CHANNEL})


class Bell:
    """Hears the rings on a session of its own; every call may block and raises what the database raises."""

    def __init__(self, session: Connection, *, batch_size: int, instance: str) -> None:
        self._session = session
        self._batch_size = batch_size
        self._instance = instance

    @classmethod
    @contextmanager
    def hung(cls, database: Database, *, batch_size: int, instance: str) -> Iterator[Bell]:
        """Listen inside the block, for runs of this `WORKFLOW_INSTANCE` that claim `batch_size` products each.

        The database has to be a direct one, past any transaction pooler.
        """
        with database.session() as session:
            session.execute(load("waking")["listen"])
            try:
                yield cls(session, batch_size=batch_size, instance=instance)
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
        allowance = find_allowance(self._session, batch_size=self._batch_size, instance=self._instance)
        fresh = allowance is Allowance.ANYTHING
        parameters = {"since": since, "fresh": fresh, "tried": allowance is not Allowance.NOTHING}
        row = self._session.execute(load("waking")["look"], parameters).one()
        due = frozenset(one for one in (row.queued, row.queued_again, row.retry_due, row.expired) if one is not None)
        return Look(at=row.at, due=due, answered=row.answered, fruitful=row.fruitful, fresh=fresh)

    def ask(self, question: Callable[[Connection], Answer]) -> Answer:
        """Answer a question that reads, on the same session."""
        return question(self._session)

    @property
    def _driver(self) -> Any:
        return self._session.connection.driver_connection


class Restraint:
    """Decides whether due work is worth another run, so that work nobody can take does not start runs for ever.

    A wake is answered when a run claims. While one is unanswered (every run slot is taken, the DAG is paused), and
    after one that found nothing to take of what is still due, the next comes only when patience ends; it doubles each
    time. That fresh products count again is a reason of its own.
    """

    def __init__(self) -> None:
        self.since: datetime | None = None
        """When the last wake was, by Postgres' clock."""
        self._patience = FIRST_PATIENCE
        self._due: frozenset[UUID] = frozenset()
        self._fresh = True

    def allows(self, look: Look, *, rung: bool, whole: bool = True) -> bool:
        """Say whether to wake now, and take it as done; `rung`: somebody has just said that there is new work.

        `whole`: the look has everything in it that can be due, so that nothing due means that all was taken.
        """
        if look.fresh and not self._fresh:
            self._forget()
        self._fresh = look.fresh
        if not look.due:
            if look.answered and whole:
                self._forget()
            return False
        if self.since is None or look.fruitful:
            self._patience = FIRST_PATIENCE
        elif not (look.answered and (rung or look.due - self._due)):
            if look.at - self.since < self._patience:
                return False
            self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        self.since, self._due = look.at, look.due
        return True

    def _forget(self) -> None:
        self.since, self._patience = None, FIRST_PATIENCE
