"""Incidents: what operators have to hear of once, however many products run into it.

Owns opening them; they end in Postgres, a fault of the installation when a stage it stopped succeeds, an open breaker
when it closes. Who is told, and how, is `squorflow.events`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from squorflow.postgres.queries import load
from squorflow.workflow.transitions import clean

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

SYSTEM_FAULT = "system_fault"
"""The installation is at fault: a key, a disk, a missing migration. Its subject is the error's code or class."""


def open_incident(database: Database, *, alert: str, subject: str, message: str) -> None:
    """Open an incident, committed on its own; does nothing while one of this alert and subject is open."""
    with database.begin() as connection:
        connection.execute(
            load("incidents")["open_incident"],
            {"alert": alert, "subject": clean(subject), "message": clean(message)},
        )
