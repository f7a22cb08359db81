"""Into the queue and out of it: enqueue, claim, give back. Owns who holds which row; stages are leases' business.

Nothing here commits: the caller owns the transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.errors import StaleState, WorkflowNotFound
from squorflow.postgres.queries import load
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import waking
from squorflow.workflow.transitions import clean, to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)

LARGEST_CLAIM = 1024
"""More rows are never handed to one map: Airflow fails the mapping task above it."""

DEFAULT_PRIORITY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """A product to enqueue; `dedupe_key` is `None` where duplicates are wanted."""

    url: str
    name: str
    brand: str | None
    crawler_data: dict[str, Any]
    dedupe_key: bytes | None
    priority: int = DEFAULT_PRIORITY


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueReport:
    """What became of a batch: a workflow id per item in its order, `None` where it was a duplicate."""

    workflow_ids: tuple[UUID | None, ...]

    @property
    def created(self) -> int:
        """How many workflows are new."""
        return sum(one is not None for one in self.workflow_ids)

    @property
    def duplicates(self) -> int:
        """How many items a live workflow had already."""
        return len(self.workflow_ids) - self.created


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedItem:
    """A product of a run; state and later fields are as of the query, `None` when the row has been retired since."""

    map_index: int
    workflow_id: UUID
    product_name: str
    workflow_state: WorkflowState | None
    stage: Stage | None
    retry_count: int
    error_category: str | None
    last_error: str | None
    owned: bool
    """Whether the run still owns the row."""


def enqueue(connection: Connection, items: Sequence[NewItem], *, actor: str, max_retries: int) -> EnqueueReport:
    """Create and queue workflows, one batch in five statements; keep a batch below some thousand items.

    An item whose `dedupe_key` belongs to a workflow that is not cancelled is left out, also when both come at once.
    """
    queries = load("queue")
    rows = [
        {
            "ordinal": ordinal,
            "url": item.url,
            "name": item.name,
            "brand": item.brand,
            "priority": item.priority,
            "max_retries": max_retries,
            "dedupe": item.dedupe_key.hex() if item.dedupe_key else None,
            "crawler_data": item.crawler_data,
        }
        for ordinal, item in enumerate(items)
    ]
    workflow_ids: list[UUID | None] = [None] * len(rows)
    connection.execute(queries["say"], {"actor": clean(actor), "reason": "enqueued"})
    for created in connection.execute(queries["insert_items"], {"items": to_json(rows)}):
        workflow_ids[created.ordinal] = created.workflow_id
    connection.execute(queries["queue_created"], {"workflow_ids": [one for one in workflow_ids if one is not None]})
    connection.execute(queries["hush"])
    report = EnqueueReport(workflow_ids=tuple(workflow_ids))
    if report.created:
        waking.announce(connection)
    return report


def list_copies(connection: Connection, items: Sequence[NewItem]) -> list[UUID | None]:
    """Return for each item the workflow that keeps it out of the queue, in their order; `None` where none does."""
    found: list[UUID | None] = [None] * len(items)
    keys = [item.dedupe_key.hex() if item.dedupe_key else None for item in items]
    for row in connection.execute(load("queue")["list_copies"], {"dedupe_keys": keys}):
        found[row.place] = row.workflow_id
    return found


def refuse_second(connection: Connection, workflow_id: UUID) -> None:
    """Make sure that no workflow is under way for this one's page, until the transaction ends.

    Raises `WorkflowNotFound`, or `StaleState` that names the one under way, this one or another.
    """
    queries = load("queue")
    locked = connection.execute(queries["lock_item"], {"workflow_id": workflow_id}).one_or_none()
    if locked is None:
        raise WorkflowNotFound(f"workflow {workflow_id} does not exist", workflow_id=workflow_id)
    parameters = {"workflow_id": workflow_id, "source_url": locked.source_url}
    live = connection.execute(queries["find_live_copy"], parameters).one_or_none()
    if live is not None:
        raise StaleState(
            f"workflow {live.queue_id} is {live.workflow_state} and works on the same page; "
            "wait until it has ended, or cancel it",
            workflow_id=live.queue_id,
        )


def claim_for_run(
    connection: Connection,
    *,
    owner: str,
    limit: int,
    workflow_ids: Sequence[UUID] | None = None,
    priority_at_least: int = 1,
    only_tried: bool = False,
) -> list[ClaimedItem]:
    """Claim up to `limit` rows for a DAG run and number them; the same owner gets the same answer for ever.

    Finished rows stay in the answer, and an empty claim is remembered too. A row that refuses to be claimed is logged
    and left out. `workflow_ids` claims only among those; `only_tried` claims nothing fresh.
    """
    parameters: dict[str, Any] = {
        "owner": owner,
        "batch_size": min(limit, LARGEST_CLAIM),
        "priority_at_least": priority_at_least,
    }
    queries = load("queue")
    named = None if workflow_ids is None else list(workflow_ids)
    try:
        with connection.begin_nested():
            if named is not None:
                connection.execute(queries["claim_named"], {**parameters, "workflow_ids": named})
            else:
                connection.execute(queries["claim_tried" if only_tried else "claim_batch"], parameters)
    except Exception as error:
        from squorflow.postgres.database import is_refusal

        if not is_refusal(error):
            raise
    else:
        return list_run_items(connection, owner=owner)
    singly = {**parameters, "workflow_ids": named, "only_tried": only_tried}
    for row in connection.execute(queries["claim_run_singly"], singly):
        log.error("workflow %s cannot be claimed and was passed over: %s", row.queue_id, row.refusal)
    return list_run_items(connection, owner=owner)


def list_run_items(connection: Connection, *, owner: str) -> list[ClaimedItem]:
    """Return a run's products in map order, with where each stands now."""
    return [
        ClaimedItem(
            map_index=row.map_index,
            workflow_id=row.workflow_id,
            product_name=row.product_name or str(row.workflow_id),
            workflow_state=WorkflowState(row.workflow_state) if row.workflow_state else None,
            stage=Stage(row.stage) if row.stage else None,
            retry_count=row.retry_count or 0,
            error_category=row.error_category,
            last_error=row.last_error,
            owned=row.locked_by == owner,
        )
        for row in connection.execute(load("queue")["list_claimed"], {"owner": owner})
    ]


def claim_for_worker(
    connection: Connection, *, owner: str, limit: int, lease: timedelta, passed_over: Collection[UUID] = ()
) -> list[UUID]:
    """Claim up to `limit` rows for a worker process; it keeps them only as long as it extends the lease."""
    parameters = {"owner": owner, "batch_size": limit, "lease": lease, "passed_over": list(passed_over)}
    return [row.queue_id for row in connection.execute(load("queue")["claim_for_worker"], parameters)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleClaims:
    """What became of a claim row by row: the rows that are ours, and for each other one why it refused."""

    claimed: tuple[UUID, ...]
    refused: dict[UUID, str]


def claim_singly(
    connection: Connection, *, owner: str, limit: int, lease: timedelta, passed_over: Collection[UUID]
) -> SingleClaims:
    """Claim as `claim_for_worker` does where that failed: a row that refuses the change keeps no other from us."""
    parameters = {"owner": owner, "batch_size": limit, "lease": lease, "passed_over": list(passed_over)}
    rows = connection.execute(load("queue")["claim_singly"], parameters).all()
    return SingleClaims(
        claimed=tuple(row.queue_id for row in rows if row.refusal is None),
        refused={row.queue_id: row.refusal for row in rows if row.refusal is not None},
    )


def extend_owned(connection: Connection, *, owner: str, lease: timedelta) -> int:
    """Extend the lease of every row a worker process holds; return how many."""
    return connection.execute(load("queue")["extend_owned"], {"owner": owner, "lease": lease}).rowcount


def give_back(connection: Connection, *, owner: str) -> int:
    """Release the owner's rows that were not begun or wait for a retry; return how many."""
    return connection.execute(load("queue")["give_back"], {"owner": owner}).rowcount


def count_claimable(connection: Connection, *, most: int = 1000, passed_over: Collection[UUID] = ()) -> int:
    """Count the rows a run could claim now, at most `most`, without those it would pass over."""
    parameters = {"most": most, "passed_over": list(passed_over)}
    return int(connection.execute(load("queue")["count_claimable"], parameters).scalar_one())
