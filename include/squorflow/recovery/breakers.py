"""Circuit breakers: who failed too often is not called until one probe has succeeded; shared through Postgres.

Owns closed, open and half open. Every call commits on its own. A dependency without failures costs one read every few
seconds and process. Which errors count is `squorflow.recovery.dependency`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4
from weakref import WeakKeyDictionary

from squorflow.errors import CircuitOpen
from squorflow.postgres.queries import load
from squorflow.workflow.transitions import clean

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

PROBE_LASTS = timedelta(minutes=2)
"""How long a probe may take; then its prober counts as dead and the next caller probes."""

LONGEST_PAUSE = timedelta(minutes=15)
"""However many probes fail, the next one comes no later."""

_TRUSTED_SECONDS = 5.0
"""How long a process believes that a dependency without failures has none."""

_MOST_TRUSTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Leave to call a dependency; `probe` says that everybody waits for how it ends."""

    dependency: str
    caller: str
    probe: bool
    troubled: bool
    """Whether the breaker remembers failures, so that a success has to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """How a breaker stands; `probe_at` is when the next probe is due."""

    dependency: str
    state: str
    failures: int
    failed_probes: int
    opened_at: datetime | None
    probe_at: datetime | None
    last_error: str | None
    updated_at: datetime


class _Trust:
    """Remembers for a moment which dependencies had no failures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: WeakKeyDictionary[Database, dict[str, float]] = WeakKeyDictionary()

    def has(self, database: Database, dependency: str) -> bool:
        with self._lock:
            return self._until.get(database, {}).get(dependency, 0.0) > time.monotonic()

    def keep(self, database: Database, dependency: str) -> None:
        with self._lock:
            known = self._until.setdefault(database, {})
            if len(known) >= _MOST_TRUSTED:
                known.clear()
            known[dependency] = time.monotonic() + _TRUSTED_SECONDS

    def drop(self, database: Database, dependency: str) -> None:
        with self._lock:
            self._until.get(database, {}).pop(dependency, None)


_trust = _Trust()


def admit(database: Database, dependency: str) -> Admission:
    """Ask for leave to call a dependency, and end it with `succeed`, `fail` or `drop`.

    Raises `CircuitOpen` whose `retry_after` says when the next probe is due, or when to ask again how the present one
    ended.
    """
    caller = str(uuid4())
    if _trust.has(database, dependency):
        return Admission(dependency=dependency, caller=caller, probe=False, troubled=False)
    with database.begin() as connection:
        row = connection.execute(
            load("breakers")["enter"], {"dependency": dependency, "caller": caller, "probe_lasts": PROBE_LASTS}
        ).one()
    if row.verdict == "open":
        raise CircuitOpen(
            f"{dependency} is not called for now, it failed too often; the last time: {row.last_error}",
            dependency=dependency,
            retry_after=max(row.wait, timedelta(seconds=1)),
        )
    if row.verdict == "closed" and row.failures == 0:
        _trust.keep(database, dependency)
    return Admission(dependency=dependency, caller=caller, probe=row.verdict == "probe", troubled=row.failures > 0)


def succeed(database: Database, admission: Admission) -> None:
    """Say that the dependency answered: its failures are forgotten, a probe closes the breaker."""
    if admission.troubled:
        with database.begin() as connection:
            connection.execute(
                load("breakers")["succeed"], {"dependency": admission.dependency, "caller": admission.caller}
            )


def fail(
    database: Database, admission: Admission, *, error: str, pause: timedelta, at_once: bool, config: WorkflowConfig
) -> None:
    """Count a failure; at the threshold, with `at_once`, or when it was the probe, the breaker opens for `pause`.

    Opening leaves an incident (`breaker_open`), which ends when it closes; `error` is what people read there.
    """
    _trust.drop(database, admission.dependency)
    with database.begin() as connection:
        connection.execute(
            load("breakers")["fail"],
            {
                "dependency": admission.dependency,
                "caller": admission.caller,
                "error": clean(error),
                "threshold": config.breaker_threshold,
                "pause": pause,
                "longest_pause": LONGEST_PAUSE,
                "at_once": at_once,
            },
        )


def drop(database: Database, admission: Admission) -> None:
    """End a call that says nothing about the dependency; where it was the probe, the next caller is."""
    if admission.probe:
        with database.begin() as connection:
            connection.execute(
                load("breakers")["drop_probe"], {"dependency": admission.dependency, "caller": admission.caller}
            )


def list_breakers(connection: Connection) -> list[Breaker]:
    """Return every breaker that ever counted a failure, those not closed first."""
    return [
        Breaker(
            dependency=row.dependency,
            state=row.breaker_state,
            failures=row.failures,
            failed_probes=row.failed_probes,
            opened_at=row.opened_at,
            probe_at=row.probe_at,
            last_error=row.last_error,
            updated_at=row.updated_at,
        )
        for row in connection.execute(load("breakers")["list_breakers"])
    ]
