"""Finds stages that are written and whose task Airflow still believes to be running: its worker died before it said so.

Between two stages no worker holds a row, so no lease runs out, and Airflow itself waits for a heartbeat (five minutes
by default). Owns when such a row counts as lost; taking it back is `squorflow.recovery.reaper`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.config import WorkflowConfig
    from squorflow.recovery.reaper import OwnerLife

SHORTEST_SILENCE = timedelta(seconds=10)
"""What a task may take to end after its stage is written, however short the leases: a full machine is slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """A product between two stages for longer than a lease; most of them wait for a place in Airflow."""

    workflow_id: UUID
    owner: str
    map_index: int
    stage: Stage
    """The one that is done."""
    token: int


def list_silent(connection: Connection, *, config: WorkflowConfig) -> list[Silent]:
    """List the products of this instance's runs whose stage has been done for longer than a lease, oldest first."""
    silence = max(config.lock_timeout, SHORTEST_SILENCE)
    found = connection.execute(load("reaper")["list_silent"], {"instance": config.instance, "silence": silence})
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


def find_unreported(silent: Sequence[Silent], *, lives: Mapping[str, OwnerLife]) -> list[Silent]:
    """Return those whose done stage still runs in Airflow; owners nothing is known of are left alone."""
    return [one for one in silent if one.owner in lives and (one.map_index, one.stage) in lives[one.owner].running]


def find_lost(silent: Sequence[Silent], *, lives: Mapping[str, OwnerLife]) -> list[Silent]:
    """Return those the reaper would take back: the unreported, and those whose run or tasks are over."""
    unreported = find_unreported(silent, lives=lives)
    return unreported + [
        one
        for one in silent
        if (life := lives.get(one.owner)) is not None and (not life.alive or one.map_index in life.dead_map_indexes)
    ]
