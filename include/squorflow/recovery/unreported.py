"""Finds stages that are written and whose task Airflow still believes to be running: its worker died before it said so.

Between two stages no worker holds a row, so no lease runs out, and Airflow itself waits for a heartbeat (five minutes
by default). Owns when such a row counts as lost; taking it back is `squorflow.recovery.reaper`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.config import WorkflowConfig

LEASES_OF_SILENCE = 2
SHORTEST_SILENCE = timedelta(seconds=10)
"""What a task may take to end after its stage is written, however short the leases: a full machine is slow."""

DOUBT = timedelta(seconds=5)
"""After so long Airflow is asked again: a next try of a stage that is done runs too, until it sees that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """A product between two stages for longer than usual; most of them wait for a place in Airflow."""

    workflow_id: UUID
    owner: str
    map_index: int
    stage: Stage
    """The one that is done."""
    token: int


StillRunning = Callable[[Sequence[Silent]], Sequence[Silent]]
"""Tells whose done stage Airflow believes to be running; those nothing is known of are not among them."""


def nothing_runs(_silent: Sequence[Silent]) -> Sequence[Silent]:
    """Know of no task: for callers outside Airflow."""
    return ()


def list_silent(connection: Connection, *, config: WorkflowConfig) -> list[Silent]:
    """List the products of this instance's runs whose stage has been done for two leases, oldest first."""
    silence = max(LEASES_OF_SILENCE * config.lock_timeout, SHORTEST_SILENCE)
    found = connection.execute(load("unreported")["list_silent"], {"instance": config.instance, "silence": silence})
    return [
        Silent(
            workflow_id=row.queue_id,
            owner=row.locked_by,
            map_index=row.map_index,
            stage=Stage(row.stage),
            token=row.lease_token,
        )
        for row in found
    ]


def find_unreported(silent: Sequence[Silent], *, still_running: StillRunning) -> Sequence[Silent]:
    """Return those whose done stage runs in Airflow and still does a few seconds later; blocks as long if one does."""
    suspects = still_running(silent) if silent else ()
    if not suspects:
        return ()
    time.sleep(DOUBT.total_seconds())
    return still_running(suspects)
