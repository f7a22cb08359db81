"""Reads where workflows stand: one, a page of them, the counts. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.errors import ErrorCategory, WorkflowNotFound
from squorflow.postgres.queries import load
from squorflow.states import TRANSITIONS, Stage, WorkflowState
from squorflow.workflow.transitions import clean

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

_WORD = re.compile(r"[^\W_]+")
_MOST_WORDS = 20
_AFTER_ALL = UUID(int=(1 << 128) - 1)
_TROUBLED = (WorkflowState.FAILED, WorkflowState.SUSPENDED, WorkflowState.RETRYING, WorkflowState.WAITING)
_MOST_GROUPED = 10_000
_MOST_GROUPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStatus:
    """Where a workflow stands; `lock_duration` is the seconds since its owner took the present stage."""

    workflow_id: UUID
    current_state: WorkflowState
    current_stage: Stage
    retry_count: int
    max_retries: int
    priority: int
    product_id: UUID | None
    product_name: str | None
    source_url: str | None
    locked_by: str | None
    lock_duration: float | None
    queued_at: datetime | None
    processing_started_at: datetime | None
    completed_at: datetime | None
    next_retry_at: datetime | None
    last_error: str | None
    error_category: str | None
    suspend_kind: str | None

    @property
    def id(self) -> UUID:
        """The workflow's id, as the column's short name has it."""
        return self.workflow_id

    @property
    def allowed_transitions(self) -> tuple[WorkflowState, ...]:
        """The states it may go to from here."""
        return tuple(sorted(TRANSITIONS[self.current_state]))

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape of the API: what has no column of its own there stands in `metadata`."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        metadata = {name: found.pop(name) for name in ("source_url", "error_category", "suspend_kind")}
        return {
            **found,
            "allowed_transitions": list(self.allowed_transitions),
            "metadata": {name: value for name, value in metadata.items() if value is not None},
        }


def _status(row: Row[Any]) -> WorkflowStatus:
    return WorkflowStatus(
        workflow_id=row.workflow_id,
        current_state=WorkflowState(row.workflow_state),
        current_stage=Stage(row.stage),
        retry_count=row.retry_count,
        max_retries=row.max_retries,
        priority=row.priority,
        product_id=row.product_id,
        product_name=row.product_name,
        source_url=row.source_url,
        locked_by=row.locked_by,
        lock_duration=float(row.lock_duration) if row.lock_duration is not None else None,
        queued_at=row.queued_at,
        processing_started_at=row.processing_started_at,
        completed_at=row.completed_at,
        next_retry_at=row.next_retry_at,
        last_error=row.last_error,
        error_category=row.error_category,
        suspend_kind=row.suspend_kind,
    )


def get_status(connection: Connection, workflow_id: UUID) -> WorkflowStatus:
    """Return where one workflow stands; raises `WorkflowNotFound`."""
    row = connection.execute(load("listing")["get_status"], {"workflow_id": workflow_id}).one_or_none()
    if row is None:
        raise WorkflowNotFound(f"workflow {workflow_id} does not exist", workflow_id=workflow_id)
    return _status(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFilter:
    """Which workflows a list is of; what is `None` or empty lets all pass.

    `search` looks for words that begin so in product name and page address, `brand` for the whole name in any case,
    `last_error` for exactly this one.
    """

    states: Collection[WorkflowState] = ()
    stage: Stage | None = None
    brand: str | None = None
    error_category: ErrorCategory | None = None
    last_error: str | None = None
    search: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return what the queries bind."""
        return {
            "states": [state.value for state in dict.fromkeys(self.states or WorkflowState)],
            "stage": self.stage.value if self.stage else None,
            "brand": clean(self.brand) if self.brand else None,
            "error_category": self.error_category.value if self.error_category else None,
            "last_error": clean(self.last_error) if self.last_error else None,
            "words": _tsquery(self.search) if self.search else None,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return what it narrows down by, as JSON values; nothing for a filter that lets all pass."""
        return {
            name: [state.value for state in value] if name == "states" else value
            for name, value in ((field.name, getattr(self, field.name)) for field in fields(self))
            if value
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> WorkflowFilter:
        """Return the filter that `as_dict` was asked of."""
        known: dict[str, Any] = {
            "states": lambda names: tuple(WorkflowState(name) for name in names),
            "stage": Stage,
            "error_category": ErrorCategory,
        }
        return cls(**{name: known.get(name, str)(value) for name, value in stored.items()})


def _tsquery(text: str) -> str:
    """Ask for all of these words, each as the beginning of one; text without any finds nothing."""
    return " & ".join(f"{word}:*" for word in _WORD.findall(text)[:_MOST_WORDS])


ALL_WORKFLOWS = WorkflowFilter()


def list_workflows(
    connection: Connection,
    wanted: WorkflowFilter = ALL_WORKFLOWS,
    *,
    before: UUID | None = None,
    page_size: int = 20,
) -> list[WorkflowStatus]:
    """Return a page of workflows, newest first; pass the last one's id as `before` for the next page."""
    rows = connection.execute(
        load("listing")["list_workflows_by_words" if wanted.search else "list_workflows"],
        {**wanted.parameters(), "before": before or _AFTER_ALL, "page_size": page_size},
    )
    return [_status(row) for row in rows]


def count_workflows(connection: Connection, wanted: WorkflowFilter = ALL_WORKFLOWS, *, most: int) -> int:
    """Count workflows, but stop at `most`."""
    parameters = {**wanted.parameters(), "most": most}
    query = load("listing")["count_workflows_by_words" if wanted.search else "count_workflows"]
    return int(connection.execute(query, parameters).scalar_one())


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Workflows with the same error, and in which states; `latest` is when the last of them got there."""

    error_category: str | None
    last_error: str
    workflows: int
    latest: datetime
    states: tuple[WorkflowState, ...]


def list_failure_groups(connection: Connection, wanted: WorkflowFilter = ALL_WORKFLOWS) -> list[FailureGroup]:
    """Return what keeps workflows from being completed, the most frequent error first; of the newest 10,000."""
    parameters = {
        **wanted.parameters(),
        "troubled": [state.value for state in _TROUBLED],
        "most": _MOST_GROUPED,
        "most_groups": _MOST_GROUPS,
    }
    return [
        FailureGroup(
            error_category=row.error_category,
            last_error=row.last_error,
            workflows=row.workflows,
            latest=row.latest,
            states=tuple(WorkflowState(state) for state in row.states),
        )
        for row in connection.execute(load("listing")["list_failure_groups"], parameters)
    ]


def count_states(connection: Connection) -> dict[WorkflowState, int]:
    """Return how many workflows each state has; counts the whole table, so it is for people, not for dashboards."""
    rows = connection.execute(load("listing")["count_states"])
    counts = {row.workflow_state: row.workflows for row in rows}
    return {state: counts.get(state.value, 0) for state in WorkflowState}


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What a workflow was made from."""

    crawler_data: dict[str, Any]
    url: str
    name: str
    brand: str | None
    priority: int


def get_payload(connection: Connection, workflow_id: UUID) -> Payload:
    """Return what a workflow was made from; raises `WorkflowNotFound`."""
    row = connection.execute(load("listing")["get_payload"], {"workflow_id": workflow_id}).one_or_none()
    if row is None:
        raise WorkflowNotFound(f"workflow {workflow_id} does not exist", workflow_id=workflow_id)
    return Payload(
        crawler_data=row.crawler_data,
        url=row.source_url,
        name=row.product_name,
        brand=row.brand_name,
        priority=row.priority,
    )
