"""Makes a database ready for work: the schema, and the scoring policies that ship with this version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squorflow.errors import ConfigurationError
from squorflow.postgres import migrations
from squorflow.scoring.catalog import install_policies

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

_NAMED = 3
"""Missing migrations up to here are named one by one."""


def upgrade(database: Database, *, legacy_zone: str = "UTC") -> list[str]:
    """Apply the missing migrations and publish the shipped scoring policies; return the migrations' names.

    `legacy_zone` is where the times of a legacy queue are from that have no zone.
    """
    applied = migrations.upgrade(database, legacy_zone=legacy_zone)
    with database.begin() as connection:
        install_policies(connection)
    return applied


def check_schema(database: Database) -> None:
    """Make sure that no migration is missing; raises `ConfigurationError` that names those that are."""
    from squorflow.postgres.addresses import render_url

    missing = [one.name for one in migrations.status(database) if one.applied_at is None]
    if missing:
        place = render_url(database.url, with_secrets=False)
        named = ", ".join(missing) if len(missing) <= _NAMED else f"{len(missing)}, from {missing[0]} to {missing[-1]}"
        raise ConfigurationError(f"the database {place} lacks migrations ({named}): run `squorflow db upgrade`")
