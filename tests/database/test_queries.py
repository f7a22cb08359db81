# ruff: noqa: E501 - the documented queries stand here as they are written
"""Every named query against the migrated schema, the documented SQL as written, and the plans of the hot ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from squorflow.config import WorkflowConfig
from squorflow.errors import ErrorCategory
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.postgres.queries import load, read_queries, sql_folder
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import leases, listing
from squorflow.workflow.listing import WorkflowFilter
from support import workflows
from support.plans import explain
from support.workflows import RUN, rows, value

FILES = sorted(path.stem for path in (sql_folder() / "queries").glob("*.sql"))
QUERIES = [(file, name) for file in FILES for name in read_queries(file)]
NOT_PLANNED = re.compile(r"\s*(?:--.*\n\s*)*(create|alter|listen|notify|set|vacuum|analyze)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """A migrated, empty database."""
    with workflows.cloned(postgres, template, name="queries") as url:
        database = Database(url, config=WorkflowConfig())
        yield database
        database.close()


@pytest.mark.parametrize(("file", "name"), QUERIES, ids=[f"{file}.{name}" for file, name in QUERIES])
def test_every_named_query_fits_the_schema(shared: Database, file: str, name: str) -> None:
    query = load(file)[name]
    explained = "" if NOT_PLANNED.match(query.text) else "EXPLAIN "
    with shared.engine.connect() as connection, connection.begin() as transaction:
        statement = text(explained + query.text)
        result = connection.execute(statement, dict.fromkeys(query.compile().params))
        assert result.returns_rows == bool(explained)
        transaction.rollback()


# Design, section 6, and the charter's troubleshooting page, word for word.
AS_WRITTEN = {
    "stuck": """SELECT * FROM processing_queue WHERE workflow_state = 'processing' AND locked_at < NOW() - INTERVAL '10 minutes';""",
    "errors": """SELECT last_error, COUNT(*) FROM processing_queue WHERE retry_count > 0 GROUP BY last_error;""",
    "bottlenecks": """SELECT stage, AVG(duration), COUNT(*) FROM workflow_metrics WHERE metric_type = 'stage_duration' GROUP BY stage ORDER BY AVG(duration) DESC;""",
    "status": """SELECT workflow_id, workflow_state, stage, locked_by, lock_duration, retry_count, last_error FROM vw_workflow_status;""",
    "performance": """SELECT hour, workflow_state, count, avg_duration, p95_duration FROM vw_workflow_performance;""",
    "charter-stale-locks": """
   -- Check for stale locks
   SELECT * FROM processing_queue
   WHERE workflow_state = 'processing'
   AND locked_at < NOW() - INTERVAL '10 minutes';
   """,
    "charter-failure-patterns": """
   -- Analyze failure patterns
   SELECT last_error, COUNT(*)
   FROM processing_queue
   WHERE retry_count > 0
   GROUP BY last_error;
   """,
    "charter-bottlenecks": """
   -- Check stage bottlenecks
   SELECT stage, AVG(duration), COUNT(*)
   FROM workflow_metrics
   WHERE metric_type = 'stage_duration'
   GROUP BY stage
   ORDER BY AVG(duration) DESC;
   """,
    "charter-trail": """
SELECT transition_id, workflow_id, from_state, to_state, reason, metadata, created_at, actor, stage
FROM workflow_transitions;""",
    "charter-events": "SELECT event_id, workflow_id, event_type, event_data, created_at, processed FROM workflow_events;",
    "charter-metrics": (
        "SELECT metric_id, workflow_id, metric_type, metric_name, metric_value, metadata, created_at"
        " FROM workflow_metrics;"
    ),
}
# How many rows each answers after one product has stopped an hour ago in its second stage and once been retried.
ANSWERS = {
    "stuck": 1,
    "errors": 1,
    "bottlenecks": 1,
    "status": 1,
    "performance": 5,
    "charter-stale-locks": 1,
    "charter-failure-patterns": 1,
    "charter-bottlenecks": 1,
    "charter-trail": 7,
    "charter-events": 8,
    "charter-metrics": 9,
}


@pytest.fixture(scope="module")
def stuck(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """A database with one product that was retried once and then got stuck in its second stage."""
    with workflows.cloned(postgres, template, name="stuck") as url:
        database = Database(url, config=WorkflowConfig())
        held = workflows.hold_one(database)
        workflows.fail(database, held, action="retry", delay=timedelta(0))
        token = workflows.acquire(database, held.workflow_id).token
        workflows.run_to(
            database,
            workflows.Held(workflow_id=held.workflow_id, token=token, owner=RUN),
            stage=Stage.IMAGE_FETCH,
        )
        rows(database, "UPDATE processing_queue SET locked_at = locked_at - interval '1 hour'")
        yield database
        database.close()


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_documented_sql_runs_as_written(stuck: Database, name: str) -> None:
    connection = stuck.engine.raw_connection()
    cursor = connection.cursor()
    cursor.execute(AS_WRITTEN[name])
    found = cursor.fetchall()
    cursor.close()
    connection.close()
    assert len(found) == ANSWERS[name]


def test_the_stuck_query_does_not_show_a_stage_that_has_just_begun(stuck: Database) -> None:
    with stuck.engine.connect() as connection, connection.begin() as transaction:
        workflow_id = value(connection, "SELECT queue_id FROM processing_queue")
        leases.acquire(
            connection,
            workflow_id,
            stage=Stage.IMAGE_FETCH,
            owner=RUN,
            actor="test",
            lease=workflows.LEASE,
            manual=False,
        )
        assert rows(connection, AS_WRITTEN["stuck"].rstrip(";")) == []
        transaction.rollback()


def test_parked_workflows_are_listed_with_what_is_needed_to_replay_them(database: Database) -> None:
    held = workflows.hold_one(database)
    workflows.fail(database, held, action="fail", counts=False)
    (row,) = rows(database, "SELECT workflow_id, last_error, crawler_data, failed_at FROM workflow_deadletter")
    assert (row.workflow_id, row.last_error) == (held.workflow_id, "NetworkError: it broke")
    assert row.crawler_data["name"] == "Product 0"


# Plans at 100,000 rows.

ROWS = 100_000


@pytest.fixture(scope="module")
def crowded(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """A database with 100,000 workflows, most of them queued, brought there in bulk by legal steps."""
    with workflows.cloned(postgres, template, name="crowded") as url:
        database = Database(url, config=WorkflowConfig())
        with database.begin() as connection:
            rows(
                connection,
                "INSERT INTO processing_queue (product_name, source_url, priority)"
                " SELECT 'Product ' || i, 'https://shop.example/' || i, 1 + i % 10 FROM generate_series(1, :n) AS i",
                n=ROWS,
            )
        with database.begin() as connection:
            rows(connection, "UPDATE processing_queue SET workflow_state = 'queued'")
        with database.begin() as connection:
            rows(
                connection,
                "UPDATE processing_queue SET locked_by = :run WHERE queue_id IN"
                " (SELECT queue_id FROM processing_queue LIMIT 200)",
                run=RUN,
            )
            rows(connection, "UPDATE processing_queue SET workflow_state = 'processing' WHERE locked_by IS NOT NULL")
            rows(
                connection,
                "UPDATE processing_queue SET workflow_state = 'failed' WHERE queue_id IN"
                " (SELECT queue_id FROM processing_queue WHERE locked_by = :run LIMIT 100)",
                run=RUN,
            )
            rows(connection, "UPDATE processing_queue SET workflow_state = 'retrying' WHERE workflow_state = 'failed'")
        with database.session() as session:
            session.execute(text("VACUUM ANALYZE processing_queue"))
            session.execute(text("ANALYZE workflow_transitions"))
        yield database
        database.close()


BY_KEY = {"processing_queue_pkey", "queue_listing"}
BY_STATE = {"queue_listing", "queue_by_stage"}
"""Both begin with the state: where the statistics know of no row in it, they cost the same."""
"""Both lead to a row whose id (and state) is known."""


def _scans(plan: list[dict[str, Any]], table: str) -> set[str]:
    """Return how a plan reads a table: the index's name, or the kind of scan."""
    found = set()
    for node in plan:
        if node.get("Relation Name", "").startswith(table) and "Scan" in node["Node Type"]:
            found.add(node.get("Index Name", node["Node Type"]))
        if node["Node Type"] == "Bitmap Index Scan" and not node["Index Name"].startswith("run_claim"):
            found.add(node["Index Name"])
    return found - {"Bitmap Heap Scan"}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("claim_batch", {"owner": "airflow:a/b/c", "batch_size": 25, "priority_at_least": 1}),
        ("claim_tried", {"owner": "airflow:a/b/c", "batch_size": 25, "priority_at_least": 1}),
        (
            "claim_for_worker",
            {"owner": "worker:a", "batch_size": 25, "lease": timedelta(seconds=30), "passed_over": []},
        ),
    ],
)
def test_a_claim_walks_the_index_of_claimable_rows_and_sorts_nothing(
    crowded: Database, name: str, parameters: dict[str, Any]
) -> None:
    plan = explain(crowded, "queue", name, **parameters)
    index = "queue_tried_before" if name == "claim_tried" else "queue_claimable"
    assert _scans(plan, "processing_queue") == {index, "processing_queue_pkey"}
    picked = next(node for node in plan if node["Node Type"] == "LockRows")
    assert [below["Node Type"] for below in picked["Plans"]] in (["Index Scan"], ["Result"])
    assert not any(
        node["Node Type"] == "Sort" and any("priority" in key and "q." in key for key in node["Sort Key"])
        for node in plan
    )


@pytest.mark.parametrize(
    ("file", "name", "parameters", "index"),
    [
        ("queue", "extend_owned", {"owner": RUN, "lease": timedelta(seconds=30)}, {"queue_owned", *BY_KEY}),
        ("queue", "give_back", {"owner": RUN}, {"queue_owned"}),
        ("queue", "list_claimed", {"owner": RUN}, BY_KEY),
        (
            "heartbeat",
            "extend",
            {"workflow_id": UUID(int=1), "token": 1, "lease": timedelta(1)},
            BY_KEY,
        ),
        ("listing", "get_status", {"workflow_id": UUID(int=1)}, BY_KEY),
        (
            "reaper",
            "abandon_expired",
            {"actor": "reaper", "batch_size": 500, "instance": "airflow", "passed_over": []},
            {"queue_owned"},
        ),
        ("reaper", "list_owners", {"instance": "airflow"}, {"queue_owned"}),
        (
            "unreported",
            "list_silent",
            {"instance": "airflow", "silence": timedelta(seconds=30)},
            {"queue_owned", *BY_KEY, *BY_STATE},
        ),
        (
            "reaper",
            "abandon_unreported",
            {
                "actor": "reaper",
                "batch_size": 500,
                "workflow_ids": [UUID(int=1)],
                "stages": ["discovery"],
                "tokens": [1],
                "passed_over": [],
            },
            {"queue_owned", *BY_KEY},
        ),
        (
            "series",
            "count_completions",
            {"time_range": timedelta(days=1), "slice_seconds": 1800},
            {"queue_completed", *BY_STATE},
        ),
        ("dossier", "get_standing", {"workflow_id": UUID(int=1)}, BY_KEY),
        ("dossier", "find_latest_workflow", {"product_id": UUID(int=1)}, {"queue_product"}),
        (
            "lookout",
            "find_left",
            {"owners": [RUN], "passed_over": []},
            {"queue_claimable", "queue_retry_due", "queue_owned"},
        ),
        ("queue", "count_claimable", {"most": 1, "passed_over": []}, {"queue_claimable"}),
        ("queue", "count_claimable", {"most": 1000, "passed_over": []}, {"queue_claimable"}),
        ("lookout", "count_left", {"owners": [RUN]}, {"queue_owned", *BY_STATE}),
        (
            "waking",
            "look",
            {"since": None, "fresh": True, "tried": True},
            {"queue_claimable", "queue_tried_before", "queue_retry_due", "queue_owned"},
        ),
        (
            "waking",
            "look",
            {"since": None, "fresh": False, "tried": True},
            {"queue_tried_before", "queue_retry_due", "queue_owned"},
        ),
        ("waking", "count_in_hand", {"instance": "airflow"}, {"queue_owned"}),
        ("marks", "release_begun", {"owner": RUN, "actor": "a", "reason": "r"}, {"queue_owned", *BY_STATE}),
        (
            "reaper",
            "abandon_of_dead_runs",
            {"actor": "reaper", "batch_size": 500, "owners": [RUN], "passed_over": []},
            {"queue_owned"},
        ),
        ("reaper", "release_due", {"batch_size": 500}, {"queue_retry_due", *BY_KEY, *BY_STATE}),
        (
            "reaper",
            "release_singly",
            {"batch_size": 500, "passed_over": []},
            {"queue_retry_due", *BY_KEY, *BY_STATE},
        ),
    ],
)
def test_a_hot_query_reads_the_queue_by_its_index_only(
    crowded: Database, file: str, name: str, parameters: dict[str, Any], index: set[str]
) -> None:
    assert _scans(explain(crowded, file, name, **parameters), "processing_queue") <= index


ANSWER = {"content_key": "key 5", "prompt_version": "p", "model": "m"}


@pytest.mark.parametrize(
    ("name", "table", "parameters"),
    [
        ("get_answer", "analysis_cache", {}),
        ("extend_claim", "analysis_claim", {"claimant": UUID(int=1), "lease": timedelta(seconds=15)}),
        ("release_claim", "analysis_claim", {"claimant": UUID(int=1)}),
    ],
)
def test_an_answer_and_its_claim_are_found_by_their_key(
    crowded: Database, name: str, table: str, parameters: dict[str, Any]
) -> None:
    with crowded.begin() as connection:
        rows(
            connection,
            "INSERT INTO analysis_cache (content_key, prompt_version, model, answer)"
            " SELECT 'key ' || i, 'p', 'm', '{}' FROM generate_series(1, 5000) AS i ON CONFLICT DO NOTHING",
        )
        rows(
            connection,
            "INSERT INTO analysis_claim (content_key, prompt_version, model, claimant, expires_at)"
            " SELECT 'key ' || i, 'p', 'm', uuid_v7(), now() FROM generate_series(1, 5000) AS i ON CONFLICT DO NOTHING",
        )
    with crowded.session() as session:
        session.execute(text("ANALYZE analysis_cache, analysis_claim"))
    assert _scans(explain(crowded, "answers", name, **ANSWER, **parameters), table) == {f"{table}_pkey"}


FILTERS: dict[str, tuple[WorkflowFilter, set[str]]] = {
    "everything": (WorkflowFilter(), {"queue_listing"}),
    "two states": (WorkflowFilter(states=[WorkflowState.RETRYING, WorkflowState.PROCESSING]), {"queue_listing"}),
    "a state that few have": (WorkflowFilter(states=[WorkflowState.RETRYING]), {"queue_listing"}),
    "a state that none has": (WorkflowFilter(states=[WorkflowState.SUSPENDED]), {"queue_listing"}),
    "brand": (WorkflowFilter(brand="BRAND 77"), {"queue_by_brand"}),
    "a state of a brand": (WorkflowFilter(states=[WorkflowState.QUEUED], brand="brand 77"), {"queue_by_brand"}),
    "error": (WorkflowFilter(error_category=ErrorCategory.DATA), {"queue_by_error", "queue_listing"}),
    "words": (WorkflowFilter(search="oat 4711"), {"payload_words", "processing_queue_pkey"}),
    "words that most have": (WorkflowFilter(search="oat"), {"workflow_payload_pkey", "processing_queue_pkey"}),
    "all at once": (
        WorkflowFilter(states=[WorkflowState.QUEUED], stage=Stage.DISCOVERY, brand="brand 77", search="oat 77"),
        {"payload_words", "processing_queue_pkey", "queue_by_brand", "workflow_payload_pkey"},
    ),
}
"""What a list may ask for, and the indexes that its page is read by."""


@pytest.fixture(scope="module")
def branded(crowded: Database) -> Database:
    """The crowded database, with a brand on every row and a payload for it."""
    with crowded.begin() as connection:
        rows(
            connection,
            "UPDATE processing_queue SET brand_name = 'Brand ' || CAST(split_part(product_name, ' ', 2) AS int) % 1000",
        )
        rows(
            connection,
            "INSERT INTO workflow_payload SELECT queue_id, jsonb_build_object('name', replace(product_name, 'Product',"
            " 'Oat'), 'url', source_url) FROM processing_queue",
        )
    with crowded.session() as session:
        session.execute(text("VACUUM ANALYZE processing_queue, workflow_payload"))
    return crowded


@pytest.mark.parametrize("name", FILTERS)
def test_a_page_of_the_list_is_read_by_index_whatever_it_is_filtered_by(branded: Database, name: str) -> None:
    wanted, indexes = FILTERS[name]
    first = {"before": UUID(int=(1 << 128) - 1), "page_size": 20}
    query = "list_workflows_by_words" if wanted.search else "list_workflows"
    plan = explain(branded, "listing", query, **first, **wanted.parameters())
    assert {node["Index Name"] for node in plan if "Index Name" in node} <= indexes
    assert not any(node["Node Type"] == "Seq Scan" for node in plan)
    assert wanted.search or not any(node["Node Type"] == "Sort" and node["Plan Rows"] > 1000 for node in plan)


@pytest.mark.parametrize("name", FILTERS)
def test_a_list_and_its_total_agree(branded: Database, name: str) -> None:
    wanted, _ = FILTERS[name]
    with branded.begin() as connection:
        found = listing.list_workflows(connection, wanted, page_size=200)
        total = listing.count_workflows(connection, wanted, most=200)
    assert len(found) == total
    assert [one.workflow_id for one in found] == sorted((one.workflow_id for one in found), reverse=True)
    exactly = {"everything": 200, "two states": 200, "words": 11, "error": 0, "a state that none has": 0}
    assert total == exactly.get(name, total)
    assert total > 0 or name in exactly


def test_a_trail_is_read_by_its_index_in_every_partition(crowded: Database) -> None:
    for name, parameters in (("list_history", {"after": 0, "most": 1001}), ("find_last_sequence", {})):
        plan = explain(crowded, "audit", name, workflow_id=UUID(int=1), **parameters)
        assert not any(node["Node Type"] == "Seq Scan" and node["Plan Rows"] > 1 for node in plan), name


def test_a_batch_of_trails_is_verified_without_reading_all_of_them(crowded: Database) -> None:
    ids = [row.queue_id for row in rows(crowded, "SELECT queue_id FROM processing_queue ORDER BY queue_id LIMIT 100")]
    plan = explain(crowded, "audit", "verify_trails", workflow_ids=ids)
    assert not any(
        node["Node Type"] == "Seq Scan" and node["Plan Rows"] > 1000 for node in plan if "Relation Name" in node
    )


def test_the_hot_table_keeps_room_for_heartbeats_and_no_index_mentions_them(crowded: Database) -> None:
    options = value(crowded, "SELECT reloptions FROM pg_class WHERE oid = 'processing_queue'::regclass")
    assert "fillfactor=70" in options
    definitions = rows(crowded, "SELECT indexdef FROM pg_indexes WHERE tablename = 'processing_queue'")
    assert [row for row in definitions if "lease_expires_at" in row.indexdef] == []


def test_heartbeats_are_heap_only_updates(database: Database) -> None:
    workflows.enqueue(database, count=40)
    tokens = {one: workflows.acquire(database, one).token for one in workflows.claim(database)}
    counted = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'processing_queue'"
    with database.session() as session:
        session.execute(text("VACUUM processing_queue"))
        session.execute(text("SELECT pg_stat_force_next_flush()"))
        before = session.execute(text(counted)).one()
        for _ in range(5):
            for workflow_id, token in tokens.items():
                extended = session.execute(
                    load("heartbeat")["extend"],
                    {"workflow_id": workflow_id, "token": token, "lease": timedelta(seconds=30)},
                )
                assert extended.rowcount == 1
        session.execute(text("SELECT pg_stat_force_next_flush()"))
        after = session.execute(text(counted)).one()
    assert after.n_tup_upd - before.n_tup_upd == 200
    assert after.n_tup_hot_upd - before.n_tup_hot_upd == 200


def test_all_states_are_counted_including_those_without_rows(crowded: Database) -> None:
    from squorflow.workflow.listing import count_states

    with crowded.begin() as connection:
        counts = count_states(connection)
    assert (counts[WorkflowState.QUEUED], counts[WorkflowState.PROCESSING]) == (ROWS - 200, 100)
    assert (counts[WorkflowState.RETRYING], counts[WorkflowState.COMPLETED]) == (100, 0)
