"""Brings abandoned work back: expired leases, rows of runs that are over or whose tasks are lost, retries that are due.

Owns when a row counts as abandoned. Whether an Airflow run lives it is told by a function from `squorflow.airflow`;
what it is not told about it leaves alone. Every batch is a transaction of its own, so it may be killed anywhere.
A row that refuses its change is reported, passed over and looked at again the next time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import is_refusal
from squorflow.postgres.queries import load
from squorflow.recovery.unreported import Silent, StillRunning, find_unreported, list_silent, nothing_runs

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Row

    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

ACTOR = "reaper"

_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerLife:
    """What is known of a run: whether it lives, and which of a live run's map indexes have ended without success."""

    alive: bool
    dead_map_indexes: frozenset[int] = frozenset()


class Liveness(Protocol):
    """Tells which owners live. An owner missing from the answer is unknown, and nothing is done to its rows."""

    def __call__(self, owners: Sequence[str], /) -> Mapping[str, OwnerLife]:
        """Return what is known of these owners (`locked_by` values)."""
        ...


def nothing_known(_owners: Sequence[str]) -> Mapping[str, OwnerLife]:
    """Know of no run: the liveness of callers outside Airflow, which then act on expired leases only."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapReport:
    """How many rows were brought back, and why; `passed_over` are those that refused it."""

    expired: int
    of_dead_runs: int
    released: int
    unreported: int = 0
    passed_over: int = 0

    def summary(self) -> str:
        """Say it in one line."""
        said = (
            f"{self.expired} rows with expired leases and {self.of_dead_runs} of ended runs taken back, "
            f"{self.released} due retries queued"
        )
        if self.unreported:
            said += f"; {self.unreported} rows taken back of which Airflow was not told that their stage was done"
        return f"{said}; {self.passed_over} rows refused" if self.passed_over else said


def reap(
    database: Database, *, liveness: Liveness, config: WorkflowConfig, still_running: StillRunning = nothing_runs
) -> ReapReport:
    """Take back abandoned rows and queue due retries; safe to run at any time, by any number at once.

    Takes a few seconds longer where a task may have died before Airflow heard that its stage was done.
    """
    passed_over: set[UUID] = set()
    instance = {"instance": config.instance}
    expired = _repeat(database, "abandon_expired", instance, passed_over=passed_over)
    with database.begin() as connection:
        silent = list_silent(connection, config=config)
        owners = list(connection.execute(load("reaper")["list_owners"], instance).scalars())
    lives = liveness(owners) if owners else {}
    dead = sorted(owner for owner, life in lives.items() if not life.alive)
    of_dead_runs = _repeat(database, "abandon_of_dead_runs", {"owners": dead}, passed_over=passed_over) if dead else 0
    for owner, life in lives.items():
        if life.alive and life.dead_map_indexes:
            parameters = {"owner": owner, "map_indexes": sorted(life.dead_map_indexes)}
            of_dead_runs += _repeat(database, "abandon_dead_indexes", parameters, passed_over=passed_over)
    lost = find_unreported(silent, still_running=still_running)
    unreported = _abandon_unreported(database, lost, passed_over=passed_over)
    released = release_due(database, passed_over=passed_over)
    _fold_counters(database)
    return ReapReport(
        expired=expired,
        of_dead_runs=of_dead_runs,
        released=released,
        unreported=unreported,
        passed_over=len(passed_over),
    )


def _abandon_unreported(database: Database, lost: Sequence[Silent], *, passed_over: set[UUID]) -> int:
    """Take them back, but for those that somebody has taken up meanwhile."""
    if not lost:
        return 0
    parameters = {
        "workflow_ids": [one.workflow_id for one in lost],
        "stages": [one.stage.value for one in lost],
        "tokens": [one.token for one in lost],
    }
    return _repeat(database, "abandon_unreported", parameters, passed_over=passed_over)


def release_due(database: Database, *, passed_over: set[UUID] | None = None) -> int:
    """Queue every retry that is due and owned by nobody; return how many. Those that refuse join `passed_over`."""
    queries = load("reaper")
    total = 0
    while True:
        try:
            with database.begin() as connection:
                connection.execute(queries["say"], {"actor": ACTOR, "reason": "retry due"})
                count = connection.execute(queries["release_due"], {"batch_size": _BATCH}).rowcount
                connection.execute(queries["hush"])
        except Exception as error:
            if not is_refusal(error):
                raise
            return total + _release_singly(database, passed_over=set() if passed_over is None else passed_over)
        total += count
        if count < _BATCH:
            return total


def _release_singly(database: Database, *, passed_over: set[UUID]) -> int:
    queries = load("reaper")
    total = 0
    while True:
        parameters = {"batch_size": _BATCH, "passed_over": list(passed_over)}
        with database.begin() as connection:
            connection.execute(queries["say"], {"actor": ACTOR, "reason": "retry due"})
            rows = connection.execute(queries["release_singly"], parameters).all()
            connection.execute(queries["hush"])
        total += len(rows) - _pass_over(rows, passed_over=passed_over)
        if len(rows) < _BATCH:
            return total


def _fold_counters(database: Database) -> None:
    """Fold the counter deltas that are there now; those that come meanwhile are left for the next time."""
    with database.begin() as connection:
        connection.execute(load("reaper")["fold_counters"], {"batch_size": 20 * _BATCH})


def _repeat(database: Database, query: str, parameters: dict[str, Any], *, passed_over: set[UUID]) -> int:
    """Run a taking-back query in batches until nothing is left; return how many rows it took."""
    total = 0
    while True:
        with database.begin() as connection:
            rows = connection.execute(
                load("reaper")[query],
                {**parameters, "actor": ACTOR, "batch_size": _BATCH, "passed_over": list(passed_over)},
            ).all()
        total += len(rows) - _pass_over(rows, passed_over=passed_over)
        if len(rows) < _BATCH:
            return total


def _pass_over(rows: Sequence[Row[Any]], *, passed_over: set[UUID]) -> int:
    """Report the rows that refused and remember them; return how many."""
    refused = {row.queue_id: row.refusal for row in rows if row.refusal is not None}
    for workflow_id, refusal in refused.items():
        log.error("workflow %s cannot be brought back and was passed over: %s", workflow_id, refusal)
    passed_over.update(refused)
    return len(refused)
