"""Makes a database ready for work: the schema, and the scoring policies that ship with this version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squorflow.postgres import migrations
from squorflow.scoring.catalog import install_policies

if TYPE_CHECKING:
    from squorflow.postgres.database import Database


def upgrade(database: Database) -> list[str]:
    """Apply the missing migrations and publish the shipped scoring policies; return the migrations' names."""
    applied = migrations.upgrade(database)
    with database.begin() as connection:
        install_policies(connection)
    return applied
