"""Taking the workflow database away from a running server, for nothing or an empty one, and giving it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine, text

from squorflow.postgres import migrations
from support.api_server import ApiServer


@contextmanager
def renamed(server: ApiServer) -> Iterator[None]:
    """Take the workflow database away: its connections are ended and its name leads nowhere."""
    server.database.close()
    engine = create_engine(server.airflow.postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        end = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'squorflow'")
        connection.execute(text("ALTER DATABASE squorflow WITH ALLOW_CONNECTIONS false"))
        connection.execute(end)
        try:
            yield
        finally:
            connection.execute(text("ALTER DATABASE squorflow WITH ALLOW_CONNECTIONS true"))
    engine.dispose()


@contextmanager
def emptied(server: ApiServer) -> Iterator[None]:
    """Put a database in the workflow database's place that was upgraded and never used."""
    with renamed(server):
        _administer(server, "ALTER DATABASE squorflow RENAME TO squorflow_aside")
        try:
            server.airflow.postgres.ensure_database("squorflow")
            migrations.upgrade(server.database)
            yield
        finally:
            server.database.close()
            _administer(server, "DROP DATABASE squorflow WITH (FORCE)")
            _administer(server, "ALTER DATABASE squorflow_aside RENAME TO squorflow")


def _administer(server: ApiServer, statement: str) -> None:
    engine = create_engine(server.airflow.postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
