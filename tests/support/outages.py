"""Taking the workflow database away from a running server, and giving it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine, text

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
