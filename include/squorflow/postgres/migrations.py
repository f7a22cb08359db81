"""Applies the numbered migrations, each once, in order, under a lock; undoes one or all. Owns `schema_migration`.

A legacy queue, and tables of the old system with names of ours, are made ready by `migrations/legacy/before.sql` first;
`after.sql` beside it is the way back. Its rows are given their states by `workflow.legacy`.
"""

from __future__ import annotations

import hashlib
import re
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

_QUEUE = "processing_queue"
_MADE = re.compile(
    r"^CREATE (?:OR REPLACE )?(TABLE|VIEW|FUNCTION|SEQUENCE) (?:IF NOT EXISTS )?(?!pg_temp)(\w+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `migrations/`; `applied_at` is `None` while it waits."""

    name: str
    checksum: str
    path: Path
    applied_at: datetime | None = None

    @property
    def undo_path(self) -> Path:
        """Where the statements that undo it are, if there are any."""
        return self.path.parent / "down" / self.path.name


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


def upgrade(database: Database, *, legacy_zone: str = "UTC") -> list[str]:
    """Apply what is missing, all in one transaction, and make the coming months' partitions; return the names applied.

    A second upgrade at the same time waits for the first. `legacy_zone` is where the times of a legacy queue are from
    that have no zone. Raises `ConfigurationError` when an applied migration's file has changed since, when the database
    is newer than this package, or when it has tables of somebody else by names of ours.
    """
    queries = load("migrations")
    shipped = list_migrations()
    with database.begin() as connection:
        connection.execute(queries["lock_upgrade"])
        connection.execute(queries["pin_search_path"])
        applied = _applied(connection)
        _refuse_changed(shipped, applied)
        if not applied:
            _prepare(connection, shipped, legacy_zone=legacy_zone)
        connection.execute(queries["create_table"])
        missing = [one for one in shipped if one.name not in applied]
        for migration in missing:
            _run(connection, migration.path)
            connection.execute(queries["record_applied"], {"name": migration.name, "checksum": migration.checksum})
        connection.execute(queries["ensure_partitions"])
    return [one.name for one in missing]


def list_moved(database: Database) -> list[str]:
    """Return the tables of the old system that the first upgrade would move to the schema `legacy`."""
    queries = load("migrations")
    names = _names(list_migrations())["tables"].split(",")
    with database.begin() as connection:
        if _applied(connection) or not connection.execute(queries["find_queue"]).one().legacy:
            return []
        taken = connection.execute(queries["list_taken"], {"names": names}).scalars().all()
    return [name for name in taken if name != _QUEUE]


def undo_newest(database: Database) -> str | None:
    """Undo the newest migration by its file in `migrations/down/`; return its name, `None` when nothing was applied.

    Raises `ConfigurationError` where it has no such file, or was applied from another one.
    """
    queries = load("migrations")
    shipped = list_migrations()
    with database.begin() as connection:
        connection.execute(queries["lock_upgrade"])
        connection.execute(queries["pin_search_path"])
        applied = _applied(connection)
        if not applied:
            return None
        _refuse_changed(shipped, applied)
        newest = [one for one in shipped if one.name in applied][-1]
        if not newest.undo_path.exists():
            raise ConfigurationError(
                f"migration {newest.name} has no file in migrations/down that undoes it; the database can be taken "
                "back as a whole, with `downgrade --to base`"
            )
        _run(connection, newest.undo_path)
        connection.execute(queries["forget_applied"], {"name": newest.name})
    return newest.name


def undo_all(database: Database) -> list[str]:
    """Take squorflow out of the database; return what of the old queue could not be given back, in words.

    Everything the migrations made is gone then, the audit trail included. A legacy queue stays, with each row's old
    status in step, its old columns, checks and keys, and the rows that came since.
    """
    with database.begin() as connection:
        queries = load("migrations")
        connection.execute(queries["lock_upgrade"])
        connection.execute(queries["pin_search_path"])
        if not _applied(connection):
            return []
        connection.execute(queries["set_names"], {**_names(list_migrations()), "legacy_zone": "UTC"})
        _run(connection, sql_folder() / "migrations" / "legacy" / "after.sql")
        failed: str = connection.execute(queries["get_not_undone"]).scalar_one()
    return failed.splitlines()


def _prepare(connection: Connection, shipped: Iterable[Migration], *, legacy_zone: str) -> None:
    """Make a database that was never upgraded ready for the first migration."""
    queries = load("migrations")
    names = _names(shipped)
    queue = connection.execute(queries["find_queue"]).one()
    taken = connection.execute(queries["list_taken"], {"names": names["tables"].split(",")}).scalars().all()
    others = [name for name in taken if name != _QUEUE]
    if others and not queue.legacy:
        raise ConfigurationError(
            f"this schema has tables of somebody else by the names squorflow uses ({', '.join(others)}): "
            "give squorflow a database or a schema of its own"
        )
    if queue.exists:
        if not connection.execute(queries["is_zone"], {"zone": legacy_zone}).scalar_one():
            raise ConfigurationError(f"Postgres knows no time zone {legacy_zone!r}")
        connection.execute(queries["set_names"], {**names, "legacy_zone": legacy_zone})
        _run(connection, sql_folder() / "migrations" / "legacy" / "before.sql")


def _names(migrations: Iterable[Migration]) -> dict[str, str]:
    """Return what the migrations make, by kind; views among the tables, whose names they share."""
    made: dict[str, set[str]] = {"TABLE": set(), "VIEW": set(), "FUNCTION": set(), "SEQUENCE": set()}
    for one in migrations:
        for kind, name in _MADE.findall(one.path.read_text(encoding="utf-8")):
            made[kind].add(name)
    return {
        "tables": ",".join(sorted(made["TABLE"] | made["VIEW"])),
        "functions": ",".join(sorted(made["FUNCTION"])),
        "sequences": ",".join(sorted(made["SEQUENCE"])),
    }


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


def _run(connection: Connection, path: Path) -> None:
    """Run a file straight through the driver: SQLAlchemy would read colons and percent signs as parameters."""
    import psycopg
    from sqlalchemy.exc import DBAPIError

    driver: Any = connection.connection.driver_connection
    try:
        driver.execute(path.read_text(encoding="utf-8"))
    except psycopg.Error as error:
        # So that whoever asked hears it in words, like everything else the database refuses.
        raise DBAPIError.instance(f"({path.name})", None, error, psycopg.Error) from error
