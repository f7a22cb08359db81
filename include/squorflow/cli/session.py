"""Opens the database a verb works on: Airflow's connection `workflow_db`, else the embedded Postgres.

Owns which of the two it is, when a schema is made without being asked (only in an empty database of our own), and what
this process calls itself in the trail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

DATABASE = "squorflow"
"""The name of our database in the embedded Postgres."""


def read_config() -> WorkflowConfig:
    """Return the settings; raises `ConfigurationError` that names the variable at fault."""
    from squorflow.postgres import environment

    return environment.read_config()


def actor() -> str:
    """Return who is named in the trail for what this process does: `cli:<user>`."""
    from squorflow.orchestrator.engine import name_actor

    return name_actor("cli")


def uses_airflow_connection() -> bool:
    """Say whether Airflow knows the connection `workflow_db`."""
    from squorflow.postgres.addresses import CONNECTION_ID, find_connection

    return find_connection(CONNECTION_ID) is not None


@contextmanager
def open_database(config: WorkflowConfig) -> Iterator[Database]:
    """Open the database with its schema in place; the embedded server runs at least as long as the block.

    Raises `ConfigurationError` when the schema is missing or older than this version, but for an empty embedded
    database, which is upgraded.
    """
    from squorflow.orchestrator.preparing import check_schema, upgrade
    from squorflow.postgres import migrations

    with open_any_database(config) as database:
        if not uses_airflow_connection() and all(one.applied_at is None for one in migrations.status(database)):
            upgrade(database)
        else:
            check_schema(database)
        yield database


@contextmanager
def open_any_database(config: WorkflowConfig, *, direct: bool = False) -> Iterator[Database]:
    """Open the database whatever its schema; `direct` bypasses a transaction pooler."""
    from squorflow.postgres.database import Database

    if uses_airflow_connection():
        database = Database.from_environment(config, direct=direct)
        try:
            yield database
        finally:
            database.close()
        return
    from squorflow.postgres.embedded import EmbeddedPostgres

    with EmbeddedPostgres(config.home).running() as server:
        server.ensure_database(DATABASE)
        database = Database(server.url(DATABASE), config=config)
        try:
            yield database
        finally:
            database.close()


def place(database: Database) -> str:
    """Return a database's address without its secrets."""
    from squorflow.postgres.addresses import render_url

    return render_url(database.url, with_secrets=False)
