"""The shapes on the wire. Times are ISO 8601 with offset, durations seconds, ids UUIDs.

Owns names and limits; the rows they are made from are `squorflow.workflow`'s.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from squorflow.states import Stage, WorkflowState

LARGEST_PAGE = 200
COUNTED_AT_MOST = 10_000

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]

EXAMPLE_ID = "0193a8c4-7a10-7cc3-9d1e-6f2b8a4c5e01"


class Wire(BaseModel):
    """What we send: made from a row's attributes."""

    model_config = ConfigDict(from_attributes=True)


class Asked(BaseModel):
    """What we are sent: unknown members are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class Status(Wire):
    """Where one workflow stands; `lock_duration` is the seconds since its owner took the present stage."""

    workflow_id: UUID = Field(examples=[EXAMPLE_ID])
    current_state: WorkflowState
    current_stage: Stage
    retry_count: int
    max_retries: int
    priority: int
    product_id: UUID | None
    product_name: str | None = Field(examples=["English Muffins"])
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
    actor: str = Field(examples=["api:admin"])
    created_at: datetime
    duration_in_state: float | None


class History(Wire):
    """A workflow's audit trail, oldest first."""

    workflow_id: UUID
    transitions: list[Step]


class Why(Asked):
    """Why something is done; it goes into the audit trail."""

    reason: Text = Field(examples=["Suspicious content detected"])


class ProblemAnswer(BaseModel):
    """Why a request was not carried out (RFC 9457)."""

    type: str = Field(examples=["urn:squorflow:problem/invalid-transition"])
    title: str
    status: int
    detail: str


class ConflictAnswer(ProblemAnswer):
    """The 409 of an action: what the state is, and what it may become."""

    current_state: str | None = None
    allowed_transitions: list[str] = Field(default_factory=list)


class InvalidAnswer(ProblemAnswer):
    """The 422: where the request is wrong, and how."""

    errors: list[dict[str, str]] = Field(default_factory=list)
