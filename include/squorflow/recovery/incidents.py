"""Incidents: what operators have to hear of once, however many products run into it.

Owns opening them; they end in Postgres, a fault of the installation when a stage it stopped succeeds, an open breaker
when it closes. Who is told, and how, is `squorflow.events`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from squorflow.postgres.queries import load
from squorflow.workflow.transitions import clean

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

_MOST = 50

SYSTEM_FAULT = "system_fault"
"""The installation is at fault: a key, a disk, a missing migration. Its subject is the error's code or class."""


def open_incident(database: Database, *, alert: str, subject: str, message: str) -> None:
    """Open an incident, committed on its own; does nothing while one of this alert and subject is open."""
    with database.begin() as connection:
        connection.execute(
            load("incidents")["open_incident"],
            {"alert": alert, "subject": clean(subject), "message": clean(message)},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that has been wrong since `opened_at`."""

    alert: str
    subject: str
    message: str
    opened_at: datetime


def list_open(connection: Connection) -> list[Incident]:
    """Return what is wrong now, the newest first."""
    rows = connection.execute(load("incidents")["list_incidents"], {"most": _MOST})
    return [
        Incident(alert=row.alert, subject=row.subject, message=row.message, opened_at=row.opened_at) for row in rows
    ]
