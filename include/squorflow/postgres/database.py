"""The only place that opens connections to Postgres.

Owns engines, their options, and what Postgres' refusals are in our errors and in words. Runs no query of its own but
the one that sets a pooled transaction's options. Where the database is, `addresses.py` says.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from squorflow.config import WorkflowConfig, get_config
from squorflow.errors import (
    ConfigurationError,
    InvalidTransition,
    LeaseLost,
    ProtectedRecord,
    SquorflowError,
    StaleState,
    StateError,
    WorkflowNotFound,
)
from squorflow.postgres.addresses import CONNECTION_ID, POOLED, find_url, is_pooled
from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.engine import ExceptionContext

_REFUSALS: dict[str, type[StateError]] = {
    "SQ001": InvalidTransition,
    "SQ002": StaleState,
    "SQ003": LeaseLost,
    "SQ004": ProtectedRecord,
    "SQ005": WorkflowNotFound,
}
"""SQLSTATEs of our own (migration 0005) and the error each becomes."""

UNDEFINED = frozenset({"42P01", "42883", "42703"})
"""SQLSTATEs of a table, function or column that is not there."""


def explain(error: Exception) -> str | None:
    """Return as a sentence for people what the set-up or the database is at fault for; `None` for a bug."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    if isinstance(error, SquorflowError | OSError):
        return str(error)
    if not isinstance(error, DBAPIError):
        return None
    first_line = str(error.orig).strip().partition("\n")[0]
    if getattr(error.orig, "sqlstate", None) in UNDEFINED:
        return f"the database does not fit this version of squorflow ({first_line}): run `squorflow db upgrade`"
    if error.connection_invalidated or isinstance(error, OperationalError):
        return (
            f"the database cannot be reached: {first_line}. Check that it is up and that AIRFLOW_CONN_WORKFLOW_DB "
            "names it, or unset that to use the embedded Postgres"
        )
    return f"the database refused: {first_line}"


def is_refusal(error: Exception) -> bool:
    """Say whether Postgres refused the change itself, so that other rows may well be changed; an outage is none."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    return isinstance(error, StateError) or (isinstance(error, DBAPIError) and not isinstance(error, OperationalError))


def is_outage(error: BaseException) -> bool:
    """Say whether the database was out of reach, so that the same call may work a little later."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, OperationalError | InterfaceError | PoolTimeout)


def _translate_refusal(context: ExceptionContext) -> StateError | None:
    """Turn one of our SQLSTATEs into its error; `None` leaves the exception as it is."""
    original: Any = context.original_exception
    refusal = _REFUSALS.get(getattr(original, "sqlstate", None) or "")
    return refusal(original.diag.message_primary) if refusal else None


class Database:
    """One Postgres database, with a pool of connections for work and one for advisory locks."""

    def __init__(
        self, url: URL | str, *, config: WorkflowConfig | None = None, patience: timedelta | None = None
    ) -> None:
        """Name the database; `patience` is for servers that answer people: how long a statement may run.

        Then it also waits for a lock no longer than a third of that, connections are tried before use, so that nothing
        is left of an outage once it is over, and every statement is planned for its own parameters: a filter that is
        there or not needs another plan.
        """
        self._config = config or get_config()
        self._patience = patience
        self.url = url
        self._engine: Engine | None = None
        self._sessions: Engine | None = None
        # Two threads that begin at once must not make an engine each: one of them would never be closed.
        self._making = threading.Lock()

    @classmethod
    def from_environment(
        cls, config: WorkflowConfig, *, direct: bool = False, patience: timedelta | None = None
    ) -> Database:
        """Open the configured database; `direct` prefers `workflow_db_direct` (migrations, LISTEN)."""
        return cls(find_url(config, direct=direct), config=config, patience=patience)

    def _settings(self) -> dict[str, str]:
        """Return what holds in every transaction of ours, by Postgres' names."""
        # A process that is stopped inside a transaction must not hold its locks for ever.
        idle_milliseconds = int(self._config.processing_timeout.total_seconds() * 1000)
        settings = {
            "TimeZone": "UTC",
            "DateStyle": "ISO",
            "idle_in_transaction_session_timeout": str(idle_milliseconds),
            # No query here runs long enough to earn its compilation back.
            "jit": "off",
        }
        if not self._config.enable_metrics:
            settings["squorflow.metrics"] = "off"
        if self._patience is not None:
            milliseconds = int(self._patience.total_seconds() * 1000)
            settings |= {"statement_timeout": str(milliseconds), "lock_timeout": str(milliseconds // 3)}
            settings["plan_cache_mode"] = "force_custom_plan"
        return settings

    def _create_engine(self, address: URL | str, **options: Any) -> Engine:
        from sqlalchemy import create_engine, event, make_url

        url = make_url(address)
        arguments: dict[str, Any] = {"application_name": url.query.get("application_name", "squorflow")}
        if is_pooled(url):
            # What is prepared, or set for a session, would be in somebody else's session the next time.
            arguments["prepare_threshold"] = None
        else:
            # Whoever named the database may have set more, a search_path for one. What comes last holds.
            theirs = url.query.get("options") or os.environ.get("PGOPTIONS", "")
            given = theirs if isinstance(theirs, str) else " ".join(theirs)
            ours = " ".join(f"-c {name}={value}" for name, value in self._settings().items())
            arguments["options"] = f"{given} {ours}".lstrip()
        engine = create_engine(
            url.difference_update_query([POOLED]),
            connect_args=arguments,
            use_native_hstore=False,
            pool_size=self._config.num_workers + 1,
            max_overflow=16,
            **options,
        )
        event.listen(engine, "handle_error", _translate_refusal, retval=True)
        if is_pooled(url):
            event.listen(engine, "begin", self._settle)
        return engine

    def _settle(self, connection: Connection) -> None:
        connection.execute(load("database")["settle"], {"settings": json.dumps(self._settings())})

    @property
    def engine(self) -> Engine:
        """The engine for work."""
        with self._making:
            if self._engine is None:
                self._engine = self._create_engine(self.url, pool_pre_ping=self._patience is not None)
            return self._engine

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction: committed at the end, rolled back by any exception."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Open an autocommitting connection of its own, for what lives in the session (advisory locks, heartbeats).

        Where a transaction pooler stands between it goes past that: there, sessions are shared, and so would locks be.
        Raises `ConfigurationError` where nothing says how.
        """
        with self._making:
            if self._sessions is None:
                self._sessions = self._create_engine(
                    self._address_of_sessions(), isolation_level="AUTOCOMMIT", pool_pre_ping=True
                )
        with self._sessions.connect() as connection:
            yield connection

    def _address_of_sessions(self) -> URL | str:
        if not is_pooled(self.url):
            return self.url
        address = find_url(self._config, direct=True)
        if is_pooled(address):
            raise ConfigurationError(
                f"the Airflow connection {CONNECTION_ID!r} goes through a transaction pooler, so "
                f"{CONNECTION_ID}_direct has to name the way past it: locks need sessions of their own"
            )
        return address

    def close(self) -> None:
        """Close all idle connections."""
        for engine in (self._engine, self._sessions):
            if engine is not None:
                engine.dispose()


@cache
def _database_of(_process_id: int) -> Database:
    return Database.from_environment(get_config())


def get_database() -> Database:
    """Return this process's database; a forked child gets its own, because connections do not survive a fork."""
    return _database_of(os.getpid())
