"""The bell that says there may be work. Owns the channel, who rings it and how.

Who listens is `squorflow.airflow.wake`. A ring may be lost or say nothing new: whoever hears one looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import Connection

CHANNEL = "squorflow_work"


def announce(connection: Connection) -> None:
    """Ring when the caller's transaction commits; once per batch, never per row."""
    connection.execute(load("waking")["announce"], {"channel": CHANNEL})
