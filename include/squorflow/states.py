"""States, stages and the transitions between states: the one source every other part is tested against.

Owns the names and the table of allowed moves. Does not move anything: that is `squorflow.workflow.transitions`,
and Postgres refuses whatever this table does not allow.
"""

from __future__ import annotations

from enum import StrEnum


class WorkflowState(StrEnum):
    """Where a workflow stands. Each comment says how a row gets in and how it gets out."""

    CREATED = "created"
    """In by being inserted. Out when its crawler data is stored and it is queued, or by cancel."""

    QUEUED = "queued"
    """In from created, or back from retrying or suspended. Out when its first (or next) stage begins."""

    PROCESSING = "processing"
    """In when a worker acquires a stage. Out by the last stage, a failure, a wait, or a person."""

    WAITING = "waiting"
    """In from processing, while something outside (a rate limit, an open breaker) has to pass. Out by resuming."""

    COMPLETED = "completed"
    """In when the last stage commits. Never out."""

    FAILED = "failed"
    """In when a stage fails. Out to retrying when tries are left, to suspended when a person has to look."""

    RETRYING = "retrying"
    """In from failed, with `next_retry_at`. Out to queued when that time has come."""

    SUSPENDED = "suspended"
    """In when only a person can decide. Out to queued by retry, or by cancel."""

    CANCELLED = "cancelled"
    """In by a person, from any state that is not terminal. Never out."""


class Stage(StrEnum):
    """The seven stages of one product, in the order they run."""

    DISCOVERY = "discovery"
    IMAGE_FETCH = "image_fetch"
    ENRICHMENT = "enrichment"
    DATA_MAPPING = "data_mapping"
    SCORING = "scoring"
    INDEXING = "indexing"
    NOTIFICATION = "notification"


STAGES: tuple[Stage, ...] = tuple(Stage)
"""All stages in running order."""

FIRST_STAGE, LAST_STAGE = STAGES[0], STAGES[-1]

INITIAL_STATE = WorkflowState.CREATED
"""The state every trail begins with (imported legacy rows excepted)."""

TRANSITIONS: dict[WorkflowState, frozenset[WorkflowState]] = {
    WorkflowState.CREATED: frozenset({WorkflowState.QUEUED, WorkflowState.CANCELLED}),
    WorkflowState.QUEUED: frozenset({WorkflowState.PROCESSING, WorkflowState.SUSPENDED, WorkflowState.CANCELLED}),
    WorkflowState.PROCESSING: frozenset(
        {
            WorkflowState.COMPLETED,
            WorkflowState.FAILED,
            WorkflowState.WAITING,
            WorkflowState.SUSPENDED,
            WorkflowState.CANCELLED,
        }
    ),
    WorkflowState.WAITING: frozenset(
        {WorkflowState.PROCESSING, WorkflowState.FAILED, WorkflowState.SUSPENDED, WorkflowState.CANCELLED}
    ),
    WorkflowState.FAILED: frozenset({WorkflowState.RETRYING, WorkflowState.SUSPENDED, WorkflowState.CANCELLED}),
    WorkflowState.RETRYING: frozenset({WorkflowState.QUEUED, WorkflowState.CANCELLED}),
    WorkflowState.SUSPENDED: frozenset({WorkflowState.QUEUED, WorkflowState.CANCELLED}),
    WorkflowState.COMPLETED: frozenset(),
    WorkflowState.CANCELLED: frozenset(),
}
"""What each state may become. Read as `to in TRANSITIONS[from]`."""

TERMINAL_STATES: frozenset[WorkflowState] = frozenset(state for state, targets in TRANSITIONS.items() if not targets)


def can_transition(from_state: WorkflowState, to_state: WorkflowState) -> bool:
    """Say whether the table allows this move; the diagonal is never allowed."""
    return to_state in TRANSITIONS[from_state]


def next_stage(stage: Stage) -> Stage | None:
    """Return the stage after this one; `None` means it was the last."""
    position = STAGES.index(stage) + 1
    return STAGES[position] if position < len(STAGES) else None
