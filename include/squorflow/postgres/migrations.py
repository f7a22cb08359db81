"""Applies the numbered migrations, each once, in order, under a lock. Owns `schema_migration`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squorflow.errors import ConfigurationError
from squorflow.postgres.queries import load, sql_folder

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `migrations/`; `applied_at` is `None` while it waits."""

    name: str
    checksum: str
    path: Path
    applied_at: datetime | None = None


def list_migrations() -> list[Migration]:
    """Return the migrations that ship with this version, in order."""
    return [
        Migration(name=path.stem, checksum=hashlib.sha256(path.read_bytes()).hexdigest(), path=path)
        for path in sorted((sql_folder() / "migrations").glob("[0-9]*.sql"))
    ]


def _applied(connection: Connection) -> dict[str, Any]:
    queries = load("migrations")
    if connection.execute(queries["find_table"]).scalar_one() is None:
        return {}
    return {row.name: row for row in connection.execute(queries["list_applied"])}


def status(database: Database) -> list[Migration]:
    """Return every migration with the time it was applied."""
    with database.begin() as connection:
        applied = _applied(connection)
    return [
        Migration(
            name=one.name,
            checksum=one.checksum,
            path=one.path,
            applied_at=applied[one.name].applied_at if one.name in applied else None,
        )
        for one in list_migrations()
    ]


def upgrade(database: Database) -> list[str]:
    """Apply what is missing, all in one transaction, and make the coming months' partitions; return the names applied.

    A second upgrade at the same time waits for the first. Raises `ConfigurationError` when an applied migration's
    file has changed since, or when the database is newer than this package.
    """
    queries = load("migrations")
    shipped = list_migrations()
    with database.begin() as connection:
        connection.execute(queries["lock_upgrade"])
        connection.execute(queries["create_table"])
        connection.execute(queries["pin_search_path"])
        applied = _applied(connection)
        _refuse_changed(shipped, applied)
        missing = [one for one in shipped if one.name not in applied]
        for migration in missing:
            # Straight to the driver: SQLAlchemy would read colons and percent signs as parameters.
            _driver(connection).execute(migration.path.read_text(encoding="utf-8"))
            connection.execute(queries["record_applied"], {"name": migration.name, "checksum": migration.checksum})
        connection.execute(queries["ensure_partitions"])
    return [one.name for one in missing]


def _refuse_changed(shipped: Iterable[Migration], applied: dict[str, Any]) -> None:
    checksums = {one.name: one.checksum for one in shipped}
    for name, row in applied.items():
        if name not in checksums:
            raise ConfigurationError(
                f"the database has migration {name}, which this version of squorflow does not know: install a newer one"
            )
        if checksums[name] != row.checksum:
            raise ConfigurationError(
                f"migration {name} was applied from another file than this version ships; "
                "restore the file, or start from a new database"
            )


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
