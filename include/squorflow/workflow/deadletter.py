"""The parked workflows: those whose tries are used up, with all it takes to replay them. Changes nothing.

Replaying one is `actions.act` with RETRY: it goes on at the first stage without a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

_AFTER_ALL = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedWorkflow:
    """A workflow that failed for good: `tries` is how often it was begun, `trail` the last 20 steps, oldest first."""

    workflow_id: UUID
    product_name: str | None
    brand_name: str | None
    source_url: str | None
    stage: Stage
    retry_count: int
    max_retries: int
    priority: int
    error_category: str | None
    last_error: str | None
    error_details: dict[str, Any] | None
    queued_at: datetime | None
    failed_at: datetime
    tries: int
    trail: list[dict[str, Any]]
    crawler_data: dict[str, Any] | None


def list_parked(connection: Connection, *, before: UUID | None = None, page_size: int = 100) -> list[ParkedWorkflow]:
    """Return a page of parked workflows, newest first; pass the last one's id as `before` for the next page."""
    rows = connection.execute(
        load("deadletter")["list_parked"], {"before": before or _AFTER_ALL, "page_size": page_size}
    )
    return [
        ParkedWorkflow(**{**row, "stage": Stage(row["stage"]), "trail": row["trail"] or []}) for row in rows.mappings()
    ]
