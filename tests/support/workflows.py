"""Workflows for tests, each factory one legal step further along than the one before it.

Rows get where they are only by the steps the state machine allows; nothing here writes a state behind its back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import URL, Connection, Row, create_engine, text

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.recovery.reaper import nothing_known, reap
from squorflow.states import STAGES, TRANSITIONS, Stage, WorkflowState
from squorflow.workflow import leases, queue
from squorflow.workflow.transitions import transition

ACTOR = "cli:test"
RUN = "airflow:airflow/product_workflow/run_1"
OTHER_RUN = "airflow:airflow/product_workflow/run_2"
LEASE = timedelta(seconds=30)

PAIRS: tuple[tuple[WorkflowState, WorkflowState], ...] = tuple(
    (from_state, to_state) for from_state in WorkflowState for to_state in WorkflowState
)
"""All 81 pairs of states, the diagonal included."""

_S = WorkflowState
PATHS: dict[WorkflowState, tuple[WorkflowState, ...]] = {
    _S.CREATED: (),
    _S.QUEUED: (_S.QUEUED,),
    _S.PROCESSING: (_S.QUEUED, _S.PROCESSING),
    _S.WAITING: (_S.QUEUED, _S.PROCESSING, _S.WAITING),
    _S.COMPLETED: (_S.QUEUED, _S.PROCESSING, _S.COMPLETED),
    _S.FAILED: (_S.QUEUED, _S.PROCESSING, _S.FAILED),
    _S.RETRYING: (_S.QUEUED, _S.PROCESSING, _S.FAILED, _S.RETRYING),
    _S.SUSPENDED: (_S.QUEUED, _S.SUSPENDED),
    _S.CANCELLED: (_S.CANCELLED,),
}
"""A shortest legal way from created to each state."""


def is_allowed(pair: tuple[WorkflowState, WorkflowState]) -> bool:
    """Say whether the table has this pair."""
    return pair[1] in TRANSITIONS[pair[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A workflow somebody holds, and the token it is held by."""

    workflow_id: UUID
    token: int
    owner: str


def rows(source: Database | Connection, statement: str, **parameters: Any) -> Sequence[Row[Any]]:
    """Run a statement and return its rows; on a database, in a transaction of its own."""
    if isinstance(source, Database):
        with source.begin() as connection:
            return rows(connection, statement, **parameters)
    result = source.execute(text(statement), parameters)
    return result.all() if result.returns_rows else []


def value(source: Database | Connection, statement: str, **parameters: Any) -> Any:
    """Run a statement and return the one value of its one row."""
    ((only,),) = rows(source, statement, **parameters)
    return only


def get_state(source: Database | Connection, workflow_id: UUID) -> str:
    """Return a workflow's state as the queue has it."""
    return str(value(source, "SELECT workflow_state FROM processing_queue WHERE queue_id = :id", id=workflow_id))


def get_row(source: Database | Connection, workflow_id: UUID) -> Row[Any]:
    """Return a workflow's queue row."""
    (row,) = rows(source, "SELECT * FROM processing_queue WHERE queue_id = :id", id=workflow_id)
    return row


def get_trail(source: Database | Connection, workflow_id: UUID) -> list[tuple[str | None, str]]:
    """Return a workflow's moves in order."""
    found = rows(
        source,
        "SELECT from_state, to_state FROM workflow_transitions WHERE workflow_id = :id ORDER BY sequence",
        id=workflow_id,
    )
    return [(row.from_state, row.to_state) for row in found]


def get_events(source: Database | Connection, workflow_id: UUID, *, event_type: str) -> list[dict[str, Any]]:
    """Return the data of a workflow's events of one type, in order."""
    found = rows(
        source,
        "SELECT event_data FROM workflow_events WHERE workflow_id = :id AND event_type = :type ORDER BY position",
        id=workflow_id,
        type=event_type,
    )
    return [row.event_data for row in found]


def create(connection: Connection, *, name: str = "Oat drink") -> UUID:
    """Make a workflow that is created, with its payload."""
    workflow_id = value(
        connection,
        "INSERT INTO processing_queue (product_name, source_url) VALUES (:name, 'https://shop.example/p')"
        " RETURNING queue_id",
        name=name,
    )
    rows(
        connection,
        "INSERT INTO workflow_payload (workflow_id, crawler_data)"
        " VALUES (:id, jsonb_build_object('name', CAST(:name AS text)))",
        id=workflow_id,
        name=name,
    )
    return UUID(str(workflow_id))


def reach(connection: Connection, state: WorkflowState) -> UUID:
    """Make a workflow and move it to `state` by legal steps."""
    workflow_id = create(connection)
    for step in PATHS[state]:
        transition(connection, workflow_id, step, actor=ACTOR, reason=f"on the way to {state}")
    return workflow_id


def enqueue(database: Database, *, count: int = 1, priority: int = 5, max_retries: int = 3) -> list[UUID]:
    """Queue `count` products as the crawler does."""
    items = [
        queue.NewItem(
            url=f"https://shop.example/{number}",
            name=f"Product {number}",
            brand=None,
            crawler_data={"name": f"Product {number}", "url": f"https://shop.example/{number}"},
            dedupe_key=None,
            priority=priority,
        )
        for number in range(count)
    ]
    with database.begin() as connection:
        report = queue.enqueue(connection, items, actor=ACTOR, max_retries=max_retries)
    return [one for one in report.workflow_ids if one is not None]


def claim(database: Database, *, owner: str = RUN, limit: int = 100) -> list[UUID]:
    """Claim what is queued for a run."""
    with database.begin() as connection:
        return [item.workflow_id for item in queue.claim_for_run(connection, owner=owner, limit=limit)]


def acquire(
    database: Database,
    workflow_id: UUID,
    *,
    stage: Stage = Stage.DISCOVERY,
    owner: str = RUN,
    lease: timedelta = LEASE,
    manual: bool = False,
) -> leases.Acquisition:
    """Try to take a stage."""
    with database.begin() as connection:
        return leases.acquire(
            connection, workflow_id, stage=stage, owner=owner, actor=ACTOR, lease=lease, manual=manual
        )


def hold_one(database: Database, *, owner: str = RUN, lease: timedelta = LEASE, max_retries: int = 3) -> Held:
    """Queue a product, claim it and acquire its first stage."""
    (workflow_id,) = enqueue(database, max_retries=max_retries)
    with database.begin() as connection:
        if owner.startswith("worker:"):
            queue.claim_for_worker(connection, owner=owner, limit=10_000, lease=lease)
        else:
            queue.claim_for_run(connection, owner=owner, limit=1, workflow_ids=[workflow_id])
    got = acquire(database, workflow_id, owner=owner, lease=lease)
    if got.outcome is not leases.Outcome.ACQUIRED:
        raise AssertionError(got.detail)
    return Held(workflow_id=workflow_id, token=got.token, owner=owner)


def lose_one(database: Database) -> UUID:
    """Queue a product, have it begun by a run of its own, lost by its worker, and queued again by the reaper."""
    held = hold_one(database, owner=f"airflow:airflow/product_workflow/lost_{uuid4()}", lease=timedelta(0))
    reap(database, liveness=nothing_known, config=WorkflowConfig())
    if get_row(database, held.workflow_id).locked_by is not None:
        raise AssertionError("the reaper has left it")
    return held.workflow_id


def finish(
    database: Database, held: Held, *, stage: Stage = Stage.DISCOVERY, keep_lease: timedelta | None = None
) -> Stage | None:
    """Finish the stage that is held."""
    with database.begin() as connection:
        return leases.finish(
            connection,
            held.workflow_id,
            stage=stage,
            token=held.token,
            actor=ACTOR,
            output={"from": stage.value},
            seconds=0.25,
            measures={},
            keep_lease=keep_lease,
        )


def fail(
    database: Database, held: Held, *, action: str, counts: bool = True, delay: timedelta | None = None, **other: Any
) -> WorkflowState:
    """Fail the stage that is held."""
    told = {
        "category": "transient",
        "reason": "discovery: it broke",
        "last_error": "NetworkError: it broke",
        "details": {"class": "NetworkError"},
    } | other
    with database.begin() as connection:
        return leases.fail(
            connection,
            held.workflow_id,
            token=held.token,
            actor=ACTOR,
            action=action,
            delay=delay,
            counts=counts,
            **told,
        )


def wait(
    database: Database, held: Held, *, delay: timedelta = timedelta(seconds=30), category: str = "rate_limit"
) -> None:
    """Let the stage that is held wait."""
    with database.begin() as connection:
        leases.wait(
            connection,
            held.workflow_id,
            token=held.token,
            actor=ACTOR,
            category=category,
            delay=delay,
            reason="discovery: slow down",
            last_error="RateLimitError: slow down",
            details={"class": "RateLimitError"},
        )


def run_to(database: Database, held: Held, *, stage: Stage) -> Held:
    """Finish the stages before `stage` and acquire it."""
    token = held.token
    for before in STAGES[: STAGES.index(stage)]:
        finish(database, Held(workflow_id=held.workflow_id, token=token, owner=held.owner), stage=before)
        following = STAGES[STAGES.index(before) + 1]
        token = acquire(database, held.workflow_id, stage=following, owner=held.owner).token
    return Held(workflow_id=held.workflow_id, token=token, owner=held.owner)


def administer(server: EmbeddedPostgres, statement: str) -> None:
    """Run a statement that stands outside transactions and databases."""
    engine = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@contextmanager
def cloned(server: EmbeddedPostgres, template: str, *, name: str) -> Iterator[URL]:
    """Make a database from the migrated template for a whole module of tests, and drop it afterwards."""
    administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.url(name)
    finally:
        administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def login(server: EmbeddedPostgres, *, role: str) -> Iterator[str]:
    """Make a database role that may log in and nothing else; its databases have to be dropped before it."""
    administer(server, f"CREATE ROLE {role} LOGIN")
    try:
        yield role
    finally:
        administer(server, f"DROP ROLE {role}")
