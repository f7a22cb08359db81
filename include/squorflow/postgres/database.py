"""The only place that opens connections: to Airflow's connection `workflow_db`, else to the embedded Postgres.

Owns engines, their options, and what Postgres' refusals are in our errors and in words. Runs no query of its own but
the one that sets a pooled transaction's options.
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
from urllib.parse import quote_plus

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
from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.engine import ExceptionContext

CONNECTION_ID = "workflow_db"
"""The Airflow connection to squorflow's database; `workflow_db_direct` beside it bypasses a transaction pooler."""

_POOLED = "pooled"
"""The extra of `workflow_db`, and the parameter of its address, that says a transaction pooler stands between."""

_STARS = "***"

_FORM = "postgresql://user:password@host/database"
"""How a connection is written, for people who wrote it otherwise."""

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
        if _is_pooled(url):
            # What is prepared, or set for a session, would be in somebody else's session the next time.
            arguments["prepare_threshold"] = None
        else:
            # Whoever named the database may have set more, a search_path for one. What comes last holds.
            theirs = url.query.get("options") or os.environ.get("PGOPTIONS", "")
            given = theirs if isinstance(theirs, str) else " ".join(theirs)
            ours = " ".join(f"-c {name}={value}" for name, value in self._settings().items())
            arguments["options"] = f"{given} {ours}".lstrip()
        engine = create_engine(
            url.difference_update_query([_POOLED]),
            connect_args=arguments,
            use_native_hstore=False,
            pool_size=self._config.num_workers + 1,
            max_overflow=16,
            **options,
        )
        event.listen(engine, "handle_error", _translate_refusal, retval=True)
        if _is_pooled(url):
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
        if not _is_pooled(self.url):
            return self.url
        address = find_url(self._config, direct=True)
        if _is_pooled(address):
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


def find_url(config: WorkflowConfig, *, direct: bool = False) -> URL:
    """Return where the database is: Airflow's connection, else the embedded Postgres under `config.home`.

    Raises `ConfigurationError` when there is neither.
    """
    for connection_id in (f"{CONNECTION_ID}_direct", CONNECTION_ID) if direct else (CONNECTION_ID,):
        connection = find_connection(connection_id)
        if connection is not None:
            return _url_of(connection)
    from squorflow.postgres.embedded import EmbeddedPostgres

    embedded = EmbeddedPostgres(config.home)
    if embedded.is_running():
        return embedded.url("squorflow")
    raise ConfigurationError(
        f"there is no Airflow connection {CONNECTION_ID!r} and no embedded Postgres runs in {config.home}: "
        f"set AIRFLOW_CONN_{CONNECTION_ID.upper()} or run `squorflow db start`"
    )


def find_connection(connection_id: str) -> Any | None:
    """Return the Airflow connection of this id; `None` when Airflow knows none.

    Where Airflow could only repeat what the environment says, it is not imported: that takes over a second.
    Raises `ConfigurationError` when the environment variable makes no sense.
    """
    from squorflow.postgres.environment import is_plain, needs_airflow, read_connection

    variable = f"AIRFLOW_CONN_{connection_id.upper()}"
    value = os.environ.get(variable)
    if not needs_airflow():
        if not value:
            return None
        if is_plain(value):
            try:
                return read_connection(connection_id, value)
            except ValueError as error:
                raise ConfigurationError(f"{variable} is no address of a connection: {error}. Write {_FORM}") from error
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(connection_id)
    except AirflowNotFoundException:
        return None


def render_url(url: URL | str, *, with_secrets: bool) -> str:
    """Write a database's address as psql takes it; secrets, in its parameters too, are stars unless asked for."""
    from sqlalchemy import make_url

    address = make_url(url).set(drivername="postgresql").difference_update_query([_POOLED])
    if with_secrets:
        return address.render_as_string(hide_password=False)
    secret = [key for key in address.query if "password" in key or "secret" in key]
    starred = address.update_query_dict(dict.fromkeys(secret, _STARS)).render_as_string(hide_password=True)
    return starred.replace(quote_plus(_STARS), _STARS)


def _is_pooled(url: URL | str) -> bool:
    from sqlalchemy import make_url

    return _POOLED in make_url(url).query


def _url_of(connection: Any) -> URL:
    """Build the URL of an Airflow connection; extras that libpq knows (sslmode, host, …) become its parameters.

    So does our own, `pooled`.

    Raises `ConfigurationError` for a connection to something that is not Postgres.
    """
    from psycopg import pq
    from sqlalchemy import URL

    kind = connection.conn_type or ""
    if kind.partition("+")[0] not in {"postgres", "postgresql"}:
        raise ConfigurationError(
            f"the Airflow connection {connection.conn_id!r} is of type {kind!r}: "
            f"squorflow works on Postgres only, so its type must be 'postgres', as in {_FORM}"
        )
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    extras = connection.extra_dejson
    pooled = {_POOLED: "true"} if str(extras.get(_POOLED, "")).lower() in {"true", "1", "yes"} else {}
    return URL.create(
        "postgresql+psycopg",
        username=connection.login or None,
        password=connection.password or None,
        host=connection.host or None,
        port=connection.port or None,
        database=connection.schema or None,
        query={key: str(value) for key, value in extras.items() if key in known} | pooled,
    )


@cache
def _database_of(_process_id: int) -> Database:
    return Database.from_environment(get_config())


def get_database() -> Database:
    """Return this process's database; a forked child gets its own, because connections do not survive a fork."""
    return _database_of(os.getpid())
