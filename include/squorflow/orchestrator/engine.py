"""The state machine for programs that await: create a workflow, move it, see what needs a person.

Each coroutine runs one function of `squorflow.workflow` in a thread and in a transaction of its own. Owns no rule. The
database is that of this process's settings unless one is named.
"""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.config import get_config
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import listing, queue, transitions, waking
from squorflow.workflow.listing import WorkflowFilter, WorkflowStatus
from squorflow.workflow.transitions import Transition

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

__all__ = ["create_workflow_item", "get_suspended_workflows", "transition_state"]

PRIORITIES = range(1, 11)
TRIES = range(101)
"""What `max_retries` may be, by keyword as by setting."""

_PAGE = 500


async def transition_state(
    workflow_id: UUID | str,
    to: WorkflowState,
    *,
    reason: str = "moved by a program",
    stage: Stage | None = None,
    metadata: Mapping[str, Any] | None = None,
    actor: str | None = None,
    database: Database | None = None,
) -> Transition:
    """Move a workflow to another state, as far as the table allows; a worker that has it stops and writes nothing.

    The actor is `python:<user>` unless named. Raises `InvalidTransition` or `WorkflowNotFound` and writes nothing then.
    """
    which = read_id(workflow_id)

    def move() -> Transition:
        with open_database(database).begin() as connection:
            made = transitions.transition(
                connection,
                which,
                WorkflowState(to),
                actor=actor or name_actor("python"),
                reason=reason,
                stage=stage,
                metadata=metadata,
            )
            if made.to_state is WorkflowState.QUEUED:
                waking.announce(connection)
        return made

    return await asyncio.to_thread(move)


async def create_workflow_item(
    crawler_data: Mapping[str, Any],
    *,
    priority: int = queue.DEFAULT_PRIORITY,
    max_retries: int | None = None,
    actor: str | None = None,
    database: Database | None = None,
) -> UUID:
    """Queue what a crawler found and return the workflow's id: a new one, or that which has the same page and content.

    `priority` is 1 to 10, 10 is taken first; `max_retries` is at most 100. Raises `ValidationError` when the item
    cannot be used, `ValueError` for another priority or number of retries.
    """
    from squorflow.orchestrator.intake import make_item
    from squorflow.products.crawler import accept

    if priority not in PRIORITIES:
        raise ValueError(f"priority is {priority}: it has to be from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    item = make_item(accept(crawler_data), priority=priority)
    tries = get_config().max_retries if max_retries is None else max_retries
    if tries not in TRIES:
        raise ValueError(f"max_retries is {tries}: it has to be from {TRIES[0]} to {TRIES[-1]}")

    def create() -> UUID:
        while True:
            with open_database(database).begin() as connection:
                report = queue.enqueue(connection, [item], actor=actor or name_actor("python"), max_retries=tries)
                (found,) = report.workflow_ids if report.created else queue.list_copies(connection, [item])
            # None: the other one was cancelled in between, so there is room now.
            if found is not None:
                return found

    return await asyncio.to_thread(create)


async def get_suspended_workflows(
    *, limit: int | None = None, database: Database | None = None
) -> list[WorkflowStatus]:
    """Return the workflows that wait for a person, newest first; all of them unless there is a limit."""

    def read() -> list[WorkflowStatus]:
        wanted = WorkflowFilter(states=[WorkflowState.SUSPENDED])
        found: list[WorkflowStatus] = []
        while limit is None or len(found) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            with open_database(database).begin() as connection:
                before = found[-1].workflow_id if found else None
                page = listing.list_workflows(connection, wanted, before=before, page_size=size)
            found += page
            if len(page) < size:
                break
        return found

    return await asyncio.to_thread(read)


def read_id(workflow_id: UUID | str) -> UUID:
    """Return a workflow's id as a UUID; raises `ValueError` in words for a text that is none."""
    if isinstance(workflow_id, UUID):
        return workflow_id
    try:
        return UUID(str(workflow_id))
    except ValueError:
        raise ValueError(f"{str(workflow_id)[:100]!r} is no id of a workflow: that is a UUID") from None


def name_actor(kind: str) -> str:
    """Return who is named in the trail for what this process does: `<kind>:<user>`."""
    try:
        return f"{kind}:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"{kind}:unknown"


def open_database(named: Database | None) -> Database:
    """Return the database that was named, else this process's."""
    from squorflow.postgres.database import get_database

    return named or get_database()
