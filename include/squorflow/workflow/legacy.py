"""Imports the rows of a legacy queue: which state an old status is, in batches, each row once.

Owns the mapping. Making the old table fit is the migrations' business; a row enters through `workflow_import`, which
writes its one audit row, and through nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.errors import ConfigurationError
from squorflow.postgres.queries import load
from squorflow.states import WorkflowState
from squorflow.workflow.transitions import transition

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

ACTOR = "migration"
BATCH = 2000
_FIRST_ID = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What becomes of rows with some old status; `reason` goes into their trails."""

    state: WorkflowState
    reason: str


_MAPPED = {
    "pending": Mapped(state=WorkflowState.QUEUED, reason="imported: it was pending"),
    "processing": Mapped(
        state=WorkflowState.QUEUED, reason="imported: it was processing, and nobody lives who holds it"
    ),
    "completed": Mapped(state=WorkflowState.COMPLETED, reason="imported: it was completed"),
    "failed": Mapped(state=WorkflowState.FAILED, reason="imported: it had failed"),
    "skipped": Mapped(state=WorkflowState.CANCELLED, reason="imported: it was skipped"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How many rows of an old status and stage get which state."""

    status: str | None
    stage: str | None
    state: WorkflowState
    workflows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did: rows by the state they got, rows an old crawler had added since, and rows that refused."""

    imported: dict[WorkflowState, int]
    added: int
    refused: dict[UUID, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _LegacyRow:
    workflow_id: UUID
    status: str | None
    stage: str | None
    may_retry: bool


def map_status(status: str | None, *, may_retry: bool) -> Mapped:
    """Return what an old status is now; `may_retry` says that tries and a time for the next one are left."""
    if status == "failed" and may_retry:
        return Mapped(state=WorkflowState.RETRYING, reason="imported: it had failed, with tries and a retry time left")
    if status in _MAPPED:
        return _MAPPED[status]
    unknown = "it had no status" if status is None else f"nobody knows its status {status!r}"
    return Mapped(state=WorkflowState.SUSPENDED, reason=f"imported: {unknown}; a person has to decide")


def count_waiting(database: Database) -> list[Share]:
    """Say what an import would do, also before the schema is upgraded; empty when nothing waits. Changes nothing."""
    queries = load("legacy")
    with database.begin() as connection:
        if not connection.execute(queries["find_queue"]).one().legacy:
            return []
        rows = connection.execute(queries["count_waiting"]).all()
    return [
        Share(
            status=row.status,
            stage=row.stage,
            state=map_status(row.status, may_retry=row.may_retry).state,
            workflows=row.workflows,
        )
        for row in rows
    ]


def import_rows(
    database: Database, *, batch_size: int = BATCH, on_progress: Callable[[int], None] | None = None
) -> ImportReport:
    """Give every legacy row its state, a transaction a batch; go on where an import was stopped, and do none twice.

    A row that refuses the change is passed over and reported. What an old crawler has added since the upgrade is
    queued. `on_progress` is told how many rows are done.
    """
    queries = load("legacy")
    imported: Counter[WorkflowState] = Counter()
    refused: dict[UUID, str] = {}
    added = 0
    with database.begin() as connection:
        found = connection.execute(queries["find_queue"]).one()
    if not found.legacy:
        return ImportReport(imported={}, added=0, refused={})
    if not found.upgraded:
        raise ConfigurationError("the legacy queue waits for its schema: run `squorflow db upgrade`")
    after: UUID | None = _FIRST_ID
    while after is not None:
        try:
            with database.begin() as connection:
                counts, following = _import_batch(connection, after=after, batch_size=batch_size)
        except Exception as error:
            from squorflow.postgres.database import is_refusal

            if not is_refusal(error):
                raise
            with database.begin() as connection:
                counts, failures, following = _import_singly(connection, after=after, batch_size=batch_size)
            refused |= failures
        imported += counts
        after = following
        if on_progress:
            on_progress(imported.total())
    while True:
        with database.begin() as connection:
            count = _queue_added(connection, batch_size=batch_size)
        added += count
        if count < batch_size:
            return ImportReport(imported=dict(imported), added=added, refused=refused)


def finalize(database: Database) -> bool:
    """Stop keeping the old status in step, once nobody reads it; return `False` when there is none.

    Raises `ConfigurationError` while rows wait for their import.
    """
    waiting = sum(share.workflows for share in count_waiting(database))
    if waiting:
        raise ConfigurationError(f"{waiting} legacy rows still wait for their import: run `squorflow migrate upgrade`")
    with database.begin() as connection:
        done: bool = connection.execute(load("legacy")["finalize"]).scalar_one()
    return done


def _import_batch(
    connection: Connection, *, after: UUID, batch_size: int
) -> tuple[Counter[WorkflowState], UUID | None]:
    """Import the next batch; return the counts and the last key, `None` after the last batch."""
    rows = _list_batch(connection, after=after, batch_size=batch_size)
    return _give_states(connection, rows), rows[-1].workflow_id if len(rows) == batch_size else None


def _import_singly(
    connection: Connection, *, after: UUID, batch_size: int
) -> tuple[Counter[WorkflowState], dict[UUID, str], UUID | None]:
    """Do what `_import_batch` does row by row, where one of them refuses; return also which and why."""
    from squorflow.postgres.database import explain, is_refusal

    rows = _list_batch(connection, after=after, batch_size=batch_size)
    counts: Counter[WorkflowState] = Counter()
    refused: dict[UUID, str] = {}
    for row in rows:
        try:
            with connection.begin_nested():
                counts += _give_states(connection, [row])
        except Exception as error:
            if not is_refusal(error):
                raise
            refused[row.workflow_id] = explain(error) or str(error)
    return counts, refused, rows[-1].workflow_id if len(rows) == batch_size else None


def _list_batch(connection: Connection, *, after: UUID, batch_size: int) -> list[_LegacyRow]:
    queries = load("legacy")
    connection.execute(queries["lock_import"])
    return [
        _LegacyRow(workflow_id=row.queue_id, status=row.status, stage=row.stage, may_retry=row.may_retry)
        for row in connection.execute(queries["list_batch"], {"after": after, "batch_size": batch_size})
    ]


def _give_states(connection: Connection, rows: Sequence[_LegacyRow]) -> Counter[WorkflowState]:
    queries = load("legacy")
    groups: dict[tuple[str | None, str | None, bool], list[UUID]] = {}
    for row in rows:
        groups.setdefault((row.status, row.stage, row.may_retry and row.status == "failed"), []).append(row.workflow_id)
    counts: Counter[WorkflowState] = Counter()
    for (status, stage, may_retry), workflow_ids in groups.items():
        mapped = map_status(status, may_retry=may_retry)
        parameters: dict[str, Any] = {
            "workflow_ids": workflow_ids,
            "state": mapped.state.value,
            "reason": mapped.reason,
            "status": status,
            "stage": stage,
        }
        counts[mapped.state] += connection.execute(queries["import_rows"], parameters).scalar_one()
    if rows:
        connection.execute(queries["describe_rows"], {"workflow_ids": [row.workflow_id for row in rows]})
    return counts


def _queue_added(connection: Connection, *, batch_size: int) -> int:
    """Queue what an old crawler has inserted; return how many."""
    queries = load("legacy")
    connection.execute(queries["lock_import"])
    added = list(connection.execute(queries["list_added"], {"batch_size": batch_size}).scalars())
    if added:
        connection.execute(queries["describe_rows"], {"workflow_ids": added})
    for workflow_id in added:
        transition(
            connection,
            workflow_id,
            WorkflowState.QUEUED,
            actor=ACTOR,
            reason="imported: an old crawler had added it",
            expect=[WorkflowState.CREATED],
        )
    return len(added)
