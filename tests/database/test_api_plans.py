"""How Postgres carries out what the API asks of a queue that is no longer small.

Lists by a stage, bulk operations, duplicates, and the stream's steps. The other lists are in test_queries.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from squorflow.config import WorkflowConfig
from squorflow.errors import ErrorCategory
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import bulk
from squorflow.workflow.actions import PersonAction
from squorflow.workflow.listing import WorkflowFilter
from support import workflows
from support.plans import explain, read_by
from support.workflows import rows, value

ROWS = 10_000
FAILED = 100

BY_FILTER: dict[str, tuple[WorkflowFilter, set[str]]] = {
    "a brand": (WorkflowFilter(states=list(WorkflowState), brand="BRAND 77"), {"queue_by_brand"}),
    "a state": (WorkflowFilter(states=[WorkflowState.FAILED]), {"queue_listing"}),
    "a state of a brand": (WorkflowFilter(states=[WorkflowState.QUEUED], brand="brand 77"), {"queue_by_brand"}),
    "an error": (
        WorkflowFilter(states=[WorkflowState.FAILED, WorkflowState.SUSPENDED], error_category=ErrorCategory.DATA),
        {"queue_by_error", "queue_listing"},
    ),
    "a stage": (WorkflowFilter(states=list(WorkflowState), stage=Stage.SCORING), {"queue_by_stage"}),
    "a state in a stage": (WorkflowFilter(states=[WorkflowState.FAILED], stage=Stage.SCORING), {"queue_by_stage"}),
    "words": (WorkflowFilter(states=list(WorkflowState), search="oat 4711"), {"processing_queue_pkey"}),
}
"""Filters that few workflows pass, and the indexes these may be found by."""


@pytest.fixture(scope="module")
def crowded(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """A database with 10,000 workflows that have brand, dedupe key and payload: a few failed, the others queued."""
    with workflows.cloned(postgres, template, name="api_plans") as url:
        database = Database(url, config=WorkflowConfig())
        with database.begin() as connection:
            rows(
                connection,
                "INSERT INTO processing_queue (product_name, brand_name, source_url, dedupe_key)"
                " SELECT 'Oat ' || i, 'Brand ' || i % 1000, 'https://shop.example/' || i, decode(md5(i::text), 'hex')"
                " FROM generate_series(1, :n) AS i",
                n=ROWS,
            )
            rows(
                connection,
                "INSERT INTO workflow_payload SELECT queue_id, jsonb_build_object('name', product_name,"
                " 'url', source_url) FROM processing_queue",
            )
            rows(connection, "UPDATE processing_queue SET workflow_state = 'queued'")
            for state in ("processing", "failed"):
                rows(
                    connection,
                    "UPDATE processing_queue SET workflow_state = :state"
                    " WHERE CAST(substring(product_name FROM 5) AS int) % CAST(:nth AS int) = 0",
                    state=state,
                    nth=ROWS // FAILED,
                )
        with database.session() as session:
            session.execute(text("VACUUM ANALYZE processing_queue, workflow_payload"))
            session.execute(text("ANALYZE workflow_transitions"))
        yield database
        database.close()


@pytest.fixture(scope="module")
def operation_id(crowded: Database) -> UUID:
    """An operation on 10,000 items, beside as many of ten others."""
    with crowded.begin() as connection:
        made = [
            bulk.create(
                connection,
                PersonAction.RETRY,
                wanted=WorkflowFilter(states=[WorkflowState.FAILED]),
                actor="api:anna",
                reason="r",
            ).operation_id
            for _ in range(11)
        ]
        rows(
            connection,
            "INSERT INTO bulk_operation_item (operation_id, workflow_id)"
            " SELECT o.operation_id, q.queue_id FROM bulk_operation AS o CROSS JOIN"
            " (SELECT queue_id FROM processing_queue WHERE workflow_state = 'queued' LIMIT 10000) AS q",
        )
    with crowded.session() as session:
        session.execute(text("ANALYZE bulk_operation, bulk_operation_item"))
    return made[-1]


@pytest.mark.parametrize("states", [[], [WorkflowState.QUEUED]], ids=["of all states", "of a state"])
@pytest.mark.parametrize("stage", [Stage.SCORING, Stage.DISCOVERY], ids=["nothing is in", "all is in"])
def test_a_page_and_the_total_of_a_stage_are_read_by_its_index(
    crowded: Database, stage: Stage, states: list[WorkflowState]
) -> None:
    wanted = WorkflowFilter(states=states, stage=stage)
    first = {"before": UUID(int=(1 << 128) - 1), "page_size": 20}
    plan = explain(crowded, "listing", "list_workflows", **first, **wanted.parameters())
    assert read_by(plan, "processing_queue") <= {"queue_by_stage", "queue_listing"}
    assert not any(node["Node Type"] == "Sort" and node["Plan Rows"] > 1000 for node in plan)
    if stage == Stage.SCORING:
        assert read_by(plan, "processing_queue") == {"queue_by_stage"}
        counted = explain(crowded, "listing", "count_workflows", most=10_000, **wanted.parameters())
        assert read_by(counted, "processing_queue") == {"queue_by_stage"}


@pytest.mark.parametrize("name", BY_FILTER)
@pytest.mark.parametrize("query", ["count_matching", "insert_operation"])
def test_what_an_operation_covers_is_found_by_index(crowded: Database, query: str, name: str) -> None:
    wanted, indexes = BY_FILTER[name]
    new = {"action": "retry", "filter": "{}", "reason": "r", "actor": "a"} if query == "insert_operation" else {}
    plan = explain(crowded, "bulk", query, **wanted.parameters(), **new)
    used = read_by([node for node in plan if node["Node Type"] != "ModifyTable"], "processing_queue")
    assert used - {"payload_words"} <= indexes
    assert used
    assert ("payload_words" in used) == (wanted.search is not None)


def test_a_batch_is_settled_by_the_keys_of_its_items(crowded: Database, operation_id: UUID) -> None:
    ids = [row.queue_id for row in rows(crowded, "SELECT queue_id FROM processing_queue ORDER BY queue_id LIMIT 500")]
    plan = explain(
        crowded,
        "bulk",
        "settle_batch",
        operation_id=operation_id,
        workflow_ids=ids,
        outcomes=["done"] * len(ids),
        messages=[""] * len(ids),
    )
    items = [node for node in plan if node["Node Type"] != "ModifyTable"]
    assert read_by(items, "bulk_operation_item") - {"Seq Scan"} == {"bulk_operation_item_pkey"}


@pytest.mark.parametrize("count", [1, 500])
def test_copies_of_a_batch_are_found_by_their_dedupe_keys(crowded: Database, count: int) -> None:
    found = rows(crowded, "SELECT encode(dedupe_key, 'hex') AS key FROM processing_queue LIMIT :n", n=count)
    plan = explain(crowded, "queue", "list_copies", dedupe_keys=[row.key for row in found])
    assert read_by(plan, "processing_queue") == {"queue_dedupe"}


@pytest.mark.parametrize("age", [timedelta(seconds=5), timedelta(days=1)])
def test_the_latest_steps_are_read_from_the_newest_end_of_the_trail(crowded: Database, age: timedelta) -> None:
    after = value(crowded, "SELECT uuid_v7_floor(clock_timestamp() - CAST(:age AS interval))", age=age)
    plan = explain(crowded, "audit", "list_latest", after=after, most=500)
    # A partition of no row may be read as it is.
    steps = read_by([node for node in plan if node["Plan Rows"] > 1], "workflow_transitions")
    assert all(name.startswith("workflow_transitions") and name.endswith("_pkey") for name in steps)
    assert not any(node["Node Type"] == "Seq Scan" and node["Plan Rows"] > 100 for node in plan)
    assert read_by(plan, "processing_queue") == {"processing_queue_pkey"}
    assert not any("Sort" in node["Node Type"] and node["Plan Rows"] > 1000 for node in plan)
