"""The shapes on the wire. Times are ISO 8601 with offset, durations seconds, ids UUIDs.

Owns names and limits; the rows they are made from are `squorflow.workflow`'s.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from squorflow.api import examples
from squorflow.errors import ErrorCategory
from squorflow.monitoring.metrics import TimeRange
from squorflow.states import Stage, WorkflowState
from squorflow.workflow.actions import PersonAction
from squorflow.workflow.bulk import OperationStatus
from squorflow.workflow.transitions import clean

LARGEST_PAGE = 200
LARGEST_TRAIL = 1000
COUNTED_AT_MOST = 10_000

Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    BeforeValidator(lambda value: clean(value) if isinstance(value, str) else value),
]

WorkflowId = Annotated[UUID, Path(examples=[examples.WORKFLOW_ID])]
OperationId = Annotated[UUID, Path(examples=[examples.OPERATION_ID])]


class ItemOutcome(StrEnum):
    """What may become of a product that is sent in."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


class Wire(BaseModel):
    """What we send: made from a row's attributes."""

    model_config = ConfigDict(from_attributes=True)


class Asked(BaseModel):
    """What we are sent: unknown members are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class Status(Wire):
    """Where one workflow stands; `lock_duration` is the seconds since its owner took the present stage."""

    workflow_id: UUID
    current_state: WorkflowState
    current_stage: Stage
    retry_count: int
    max_retries: int
    priority: int
    product_id: UUID | None
    product_name: str | None
    locked_by: str | None
    lock_duration: float | None
    queued_at: datetime | None
    processing_started_at: datetime | None
    completed_at: datetime | None
    next_retry_at: datetime | None
    last_error: str | None
    allowed_transitions: list[WorkflowState]
    metadata: dict[str, Any] = Field(description="source_url, error_category and suspend_kind, where there are any")


class StatusPage(Wire):
    """A page of workflows, newest first."""

    items: list[Status]
    total: int = Field(description="how many there are in all; counting stops at 10,000")
    total_is_capped: bool
    next_cursor: UUID | None = Field(description="the `cursor` of the next page; null: this was the last")


class Step(Wire):
    """One row of the audit trail; `duration_in_state` is the seconds spent in `from_state`."""

    transition_id: UUID
    sequence: int
    from_state: WorkflowState | None
    to_state: WorkflowState
    stage: Stage | None
    reason: str
    metadata: dict[str, Any]
    actor: str
    created_at: datetime
    duration_in_state: float | None


class History(Wire):
    """A workflow's audit trail, oldest first."""

    workflow_id: UUID
    transitions: list[Step]
    next_cursor: int | None = Field(description="the `cursor` of the next page; null: this was the last")


class LiveStep(Wire):
    """A step of any workflow, as it happens."""

    transition_id: UUID
    workflow_id: UUID
    sequence: int
    from_state: WorkflowState | None
    to_state: WorkflowState
    stage: Stage | None
    reason: str
    actor: str
    created_at: datetime
    product_name: str | None


class Why(Asked):
    """Why something is done; it goes into the audit trail."""

    reason: Text


class Durations(Wire):
    """Seconds that something took."""

    count: int
    avg: float
    p50: float
    p95: float


class AiUsage(Wire):
    """What models were asked; cost in US dollars."""

    requests: int
    tokens: int
    cost: float


class Metrics(Wire):
    """What a window up to now was like."""

    time_range: TimeRange
    state_durations: dict[str, Durations]
    stage_durations: dict[str, Durations]
    error_breakdown: dict[str, int]
    retry_counts: dict[str, int] = Field(description="the 100 workflows that were retried most often")
    throughput_per_hour: float
    ai: AiUsage


class Breaker(Wire):
    """A dependency that is not called at present, or being probed."""

    dependency: str
    state: str
    failures: int
    opened_at: datetime | None
    probe_at: datetime | None
    last_error: str | None


class Quota(Wire):
    """What is used of a quota; `share` is a fraction, null where there is no limit."""

    dependency: str
    quota: str
    used: int
    allowed: int | None
    share: float | None
    exhausted_until: datetime | None


class Dashboard(Wire):
    """How things stand; pace and processing time are those of the last 24 hours."""

    active_workflows: int
    state_distribution: dict[WorkflowState, int]
    avg_processing_time: float | None
    error_rate: float = Field(description="percentage of failed among processing, completed and failed")
    throughput: float = Field(description="completed per hour")
    oldest_queued_seconds: float | None
    stuck: int
    breakers: list[Breaker]
    quotas: list[Quota]


class Snippet(Wire):
    """A piece of text and whether it is a hit. It comes from a crawled page: escape it where it is shown."""

    text: str
    hit: bool


class Product(Wire):
    """A product that was found."""

    product_id: UUID
    name: str
    brand: str | None
    category: str | None
    grade: str | None
    overall: float | None
    allergens: list[str]
    rank: float
    snippet: list[Snippet]


class Facets(Wire):
    """How many of the first 10,000 hits have each value; the 20 most frequent of each."""

    grade: dict[str, int]
    brand: dict[str, int]
    category: dict[str, int]
    allergen: dict[str, int]


class SearchPage(Wire):
    """A page of products, best first."""

    items: list[Product]
    facets: Facets | None = Field(description="of the whole search, without its filters; on the first page only")
    next_cursor: str | None = Field(description="the `cursor` of the next page; null: this was the last")


class NewWorkflows(Asked):
    """Products as a crawler sends them, each with at least `url` and `name`."""

    items: list[dict[str, Any]] = Field(min_length=1, max_length=500)
    priority: int = Field(5, ge=1, le=10, description="10 is taken first")
    force: bool = Field(default=False, description="make workflows also for products that have one already")


class NewWorkflow(Wire):
    """What became of an item; of a duplicate, the workflow that has it already."""

    outcome: ItemOutcome
    workflow_id: UUID | None
    reason: str | None = Field(description="why it was refused, or what was repaired in it")


class CreatedWorkflows(Wire):
    """What became of the items, in their order."""

    created: int
    duplicates: int
    refused: int
    items: list[NewWorkflow]


class BulkFilter(Asked):
    """Which workflows; something has to be given, and what is not given lets all pass."""

    state: list[WorkflowState] = Field(
        default_factory=list, max_length=len(WorkflowState), description="none: all that the action applies to"
    )
    stage: Stage | None = None
    brand: str | None = Field(None, max_length=200, description="the whole name, in any case")
    error_category: ErrorCategory | None = None
    last_error: str | None = Field(None, max_length=400, description="exactly this one, as a status has it")
    text: str | None = Field(None, max_length=200, description="beginnings of words in product name or page address")


class NewBulkOperation(Asked):
    """One thing to do to all workflows that match now."""

    filter: BulkFilter
    reason: Text
    dry_run: bool = Field(default=False, description="only count what it would be done to")


class BulkCount(Wire):
    """What an operation would be done to; nothing was changed."""

    dry_run: Literal[True] = True
    action: PersonAction
    total: int


class BulkOperation(Wire):
    """An operation and how far it is; `total` is `succeeded`, `refused` and `pending` together."""

    operation_id: UUID
    action: PersonAction
    filter: BulkFilter
    reason: str
    actor: str
    status: OperationStatus
    total: int
    succeeded: int
    refused: int
    pending: int
    created_at: datetime
    finished_at: datetime | None


class BulkPage(Wire):
    """A page of operations, newest first."""

    items: list[BulkOperation]
    next_cursor: UUID | None


class RefusedItem(Wire):
    """A workflow that an operation could not be done to, and why."""

    workflow_id: UUID
    message: str


class RefusedPage(Wire):
    """A page of workflows that an operation could not be done to, by their ids."""

    items: list[RefusedItem]
    next_cursor: UUID | None
