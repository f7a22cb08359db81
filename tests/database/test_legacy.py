"""The legacy queue becomes ours: nothing lost, each row once, whatever stops it, and all the way back."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError, ProtectedRecord
from squorflow.orchestrator.preparing import upgrade
from squorflow.postgres import migrations
from squorflow.postgres.addresses import render_url
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.products.crawler import parse_crawler_data
from squorflow.states import WorkflowState
from squorflow.workflow import audit, legacy, listing
from support import workflows
from support.legacy import catalog, count_by, make_legacy
from support.processes import wait_until
from support.results import record
from support.workflows import get_row, get_trail, rows, value

COUNT = 600
_numbers = itertools.count(1)


@pytest.fixture
def blank(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """An empty database that has never been upgraded."""
    name = f"legacy_{next(_numbers)}"
    postgres.ensure_database(name)
    database = Database(postgres.url(name), config=WorkflowConfig())
    yield database
    database.close()
    postgres.drop_database(name)


@pytest.fixture
def old(blank: Database) -> Database:
    """A legacy database with rows of every kind."""
    make_legacy(blank, count=COUNT)
    return blank


EXPECTED = {"queued": 240, "completed": 120, "failed": 102, "retrying": 18, "cancelled": 120}
"""What 600 rows become: of the 24 failed with a retry time, six have no try left."""


def test_every_status_gets_its_state_and_every_trail_holds(old: Database) -> None:
    upgrade(old)
    report = legacy.import_rows(old)
    assert {state.value: count for state, count in report.imported.items()} == EXPECTED
    assert (report.added, report.refused) == (0, {})
    assert count_by(old, "workflow_state") == EXPECTED
    assert audit.verify(old) == audit.Verification(workflows=COUNT, problems=())
    assert (
        value(old, "SELECT count(*) FROM workflow_transitions WHERE actor = 'migration' AND from_state IS NULL")
        == COUNT
    )
    assert count_by(old, "stage") == {
        "discovery": 100, "image_fetch": 100, "enrichment": 200, "scoring": 100, "indexing": 100,
    }  # fmt: skip


def test_a_second_upgrade_and_a_second_import_change_nothing(old: Database) -> None:
    upgrade(old)
    legacy.import_rows(old)
    before = rows(old, "SELECT * FROM processing_queue ORDER BY queue_id")
    assert upgrade(old) == []
    report = legacy.import_rows(old)
    assert (report.imported, report.added, report.refused) == ({}, 0, {})
    assert rows(old, "SELECT * FROM processing_queue ORDER BY queue_id") == before


def test_a_plan_says_before_the_upgrade_what_the_import_then_does(old: Database) -> None:
    before = catalog(old)
    plan = legacy.count_waiting(old)
    assert migrations.list_moved(old) == ["brand", "product", "source_page"]
    assert catalog(old) == before
    upgrade(old)
    assert legacy.count_waiting(old) == plan
    totals: dict[str, int] = {}
    for share in plan:
        totals[share.state.value] = totals.get(share.state.value, 0) + share.workflows
    assert totals == EXPECTED
    legacy.import_rows(old)
    assert legacy.count_waiting(old) == []


def test_no_value_is_lost_and_times_without_a_zone_get_the_one_that_was_named(old: Database) -> None:
    read = (
        "SELECT queue_id, product_id, source_page_id, last_error, stage_details, retry_count, max_retries"
        " FROM processing_queue ORDER BY queue_id"
    )
    before = rows(old, read)
    upgrade(old, legacy_zone="Europe/Berlin")
    legacy.import_rows(old)
    assert rows(old, read) == before
    completed = rows(old, "SELECT DISTINCT completed_at FROM processing_queue WHERE workflow_state = 'completed'")
    assert [row.completed_at for row in completed] == [datetime(2026, 2, 1, 7, 5, tzinfo=UTC)]
    retries = rows(old, "SELECT DISTINCT next_retry_at FROM processing_queue WHERE workflow_state = 'retrying'")
    assert [row.next_retry_at for row in retries] == [datetime(2026, 2, 2, 8, 0, tzinfo=UTC)]
    assert value(old, "SELECT count(*) FROM processing_queue WHERE error_details = '\"at line 3\"'") == 120
    assert value(old, "SELECT count(*) FROM legacy.product AS p JOIN legacy.brand AS b ON b.id = p.brand_id") == COUNT
    assert value(old, "SELECT count(*) FROM legacy.source_page") == COUNT


def test_a_time_zone_nobody_knows_is_refused_before_anything_is_changed(old: Database) -> None:
    before = catalog(old)
    with pytest.raises(ConfigurationError, match="no time zone 'Mars/Olympus'"):
        upgrade(old, legacy_zone="Mars/Olympus")
    assert catalog(old) == before


def test_a_status_nobody_knows_is_held_for_a_person_and_says_so(old: Database) -> None:
    rows(old, "ALTER TABLE processing_queue ALTER COLUMN status DROP NOT NULL")
    rows(old, "UPDATE processing_queue SET status = 'held', last_error = NULL WHERE product_id = md5('product1')::uuid")
    rows(old, "UPDATE processing_queue SET status = NULL WHERE product_id = md5('product2')::uuid")
    upgrade(old)
    legacy.import_rows(old)
    held = rows(
        old,
        "SELECT status, suspend_kind, last_error FROM processing_queue WHERE workflow_state = 'suspended' ORDER BY 1",
    )
    assert [tuple(row) for row in held] == [
        ("held", "data", "imported: nobody knows its status 'held'; a person has to decide"),
        (None, "data", "imported: it had no status; a person has to decide"),
    ]
    metadata = value(
        old, "SELECT metadata FROM workflow_transitions WHERE to_state = 'suspended' AND reason LIKE '%held%'"
    )
    assert metadata == {"import": True, "status": "held", "stage": "discovery"}


def test_what_the_old_system_knew_of_a_product_is_what_discovery_reads(old: Database) -> None:
    upgrade(old)
    legacy.import_rows(old)
    payloads = rows(
        old,
        "SELECT p.crawler_data FROM workflow_payload AS p JOIN processing_queue AS q ON q.queue_id = p.workflow_id"
        " WHERE q.workflow_state = 'queued'",
    )
    assert len(payloads) == 240
    names = {parse_crawler_data(row.crawler_data).data.name.split()[0] for row in payloads}
    assert names == {"Seen", "Page"}
    with old.begin() as connection:
        listed = listing.list_workflows(connection, page_size=5)
    assert all(one.product_name and one.source_url for one in listed)


def test_json_that_jsonb_cannot_hold_stops_nothing(blank: Database) -> None:
    make_legacy(blank, count=30)
    rows(
        blank, "ALTER TABLE processing_queue ALTER stage_details TYPE json, ALTER stage_details SET DEFAULT '{}'::json"
    )
    rows(blank, "ALTER TABLE source_page ADD COLUMN raw_data json")
    (seen, paged) = [
        row.queue_id for row in rows(blank, "SELECT queue_id FROM processing_queue WHERE status = 'pending' LIMIT 2")
    ]
    escaped = '{"name": "Oat\\u0000 \\\\u0000", "url": "https://shop.example/oat"}'
    rows(
        blank,
        "UPDATE processing_queue SET stage_details = CAST(:json AS json) WHERE queue_id = :id",
        json=escaped,
        id=seen,
    )
    rows(blank, "UPDATE processing_queue SET stage_details = '{}' WHERE queue_id = :id", id=paged)
    rows(blank, "UPDATE source_page SET raw_data = CAST(:json AS json)", json=escaped)
    before = catalog(blank)
    assert sum(share.workflows for share in legacy.count_waiting(blank)) == 30
    upgrade(blank)
    assert legacy.import_rows(blank).refused == {}
    names = value(
        blank,
        "SELECT array_agg(crawler_data ->> 'name') FROM workflow_payload WHERE workflow_id = ANY (:ids)",
        ids=[seen, paged],
    )
    assert names == ["Oat\ufffd \\u0000"] * 2
    assert migrations.undo_all(blank) == []
    assert catalog(blank) == before


def test_an_import_is_no_news_and_no_alarm(old: Database) -> None:
    upgrade(old)
    legacy.import_rows(old)
    assert value(old, "SELECT count(*) FROM workflow_events WHERE NOT processed") == 0


def test_imported_work_is_claimed_and_new_work_lives_beside_it(old: Database) -> None:
    upgrade(old)
    legacy.import_rows(old)
    (new,) = workflows.enqueue(old, priority=10)
    claimed = workflows.claim(old, limit=1000)
    assert len(claimed) == 241
    assert new in claimed
    assert get_row(old, new).status == "pending"


# The old status, for whoever still reads it.


def test_the_old_status_follows_every_state_and_only_pending_means_that_it_may_be_taken(old: Database) -> None:
    upgrade(old)
    legacy.import_rows(old)
    found = {}
    for state in WorkflowState:
        with old.begin() as connection:
            workflow_id = workflows.reach(connection, state)
        found[state.value] = get_row(old, workflow_id).status
    assert found == {
        "created": "pending", "queued": "pending", "processing": "processing", "waiting": "processing",
        "completed": "completed", "cancelled": "skipped",
        "failed": "failed", "retrying": "failed", "suspended": "failed",
    }  # fmt: skip


def test_an_old_worker_reads_the_status_and_cannot_take_work_by_it(old: Database) -> None:
    upgrade(old)
    taking = "UPDATE processing_queue SET status = 'processing' WHERE status = 'pending'"
    with pytest.raises(ProtectedRecord, match="may be read, but no longer written"):
        rows(old, taking)
    legacy.import_rows(old)
    with pytest.raises(ProtectedRecord, match="it follows workflow_state, which is queued"):
        rows(old, taking)
    assert count_by(old, "status") == {"pending": 240, "completed": 120, "failed": 120, "skipped": 120}


def test_what_an_old_crawler_still_adds_is_queued_by_the_next_import(old: Database) -> None:
    upgrade(old)
    legacy.import_rows(old)
    added = value(
        old,
        "INSERT INTO processing_queue (product_id, source_page_id, status)"
        " VALUES (md5('product1')::uuid, md5('page1')::uuid, 'pending') RETURNING queue_id",
    )
    report = legacy.import_rows(old)
    assert (report.added, report.imported) == (1, {})
    assert get_trail(old, added) == [(None, "created"), ("created", "queued")]
    assert get_row(old, added).source_url == "https://shop.example/1"
    assert legacy.import_rows(old).added == 0


def test_finalize_waits_for_the_import_and_then_lets_the_status_go(old: Database) -> None:
    upgrade(old)
    with pytest.raises(ConfigurationError, match="600 legacy rows still wait"):
        legacy.finalize(old)
    legacy.import_rows(old)
    assert legacy.finalize(old) is True
    assert legacy.finalize(old) is True
    (new,) = workflows.enqueue(old)
    assert get_row(old, new).status is None
    assert count_by(old, "status")["completed"] == 120
    assert value(old, "SELECT count(*) FROM pg_constraint WHERE NOT convalidated AND conname LIKE 'queue%'") == 0


def test_a_database_without_a_legacy_queue_has_nothing_to_import_or_finalize(database: Database) -> None:
    assert legacy.count_waiting(database) == []
    assert legacy.import_rows(database) == legacy.ImportReport(imported={}, added=0, refused={})
    assert legacy.finalize(database) is False


# Trouble.


def test_a_row_that_refuses_keeps_no_other_from_being_imported_and_comes_with_the_next_run(old: Database) -> None:
    upgrade(old)
    bad = value(old, "SELECT queue_id FROM processing_queue WHERE status = 'pending' LIMIT 1")
    rows(
        old,
        f"CREATE FUNCTION grumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.queue_id = '{bad}' THEN"
        " RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$",
    )
    rows(old, "CREATE TRIGGER grumble BEFORE UPDATE ON processing_queue FOR EACH ROW EXECUTE FUNCTION grumble()")
    report = legacy.import_rows(old, batch_size=100)
    assert sum(report.imported.values()) == COUNT - 1
    ((refused, why),) = report.refused.items()
    assert refused == bad
    assert "not this one" in why
    rows(old, "DROP TRIGGER grumble ON processing_queue")
    assert legacy.import_rows(old).imported == {WorkflowState.QUEUED: 1}
    assert audit.verify(old).problems == ()


def test_tables_of_somebody_else_are_left_alone_where_there_is_no_legacy_queue(blank: Database) -> None:
    rows(blank, "CREATE TABLE product (id int)")
    before = catalog(blank)
    with pytest.raises(ConfigurationError, match=r"tables of somebody else by the names squorflow uses \(product\)"):
        upgrade(blank)
    assert catalog(blank) == before


def test_a_key_that_is_no_uuid_is_refused_in_words_and_leaves_everything_as_it_was(blank: Database) -> None:
    rows(blank, "CREATE TABLE processing_queue (queue_id serial PRIMARY KEY, status text)")
    before = catalog(blank)
    with pytest.raises(
        DBAPIError, match=r"legacy column processing_queue\.queue_id is of type integer, and squorflow needs uuid"
    ):
        upgrade(blank)
    assert catalog(blank) == before


@pytest.mark.timeout(1800)
def test_an_import_killed_half_way_goes_on_where_it_was(blank: Database) -> None:
    count = int(os.environ.get("SQUORFLOW_TEST_LEGACY_ROWS", "10000"))
    make_legacy(blank, count=count)
    before = count_by(blank, "status")
    environment = os.environ | {"AIRFLOW_CONN_WORKFLOW_DB": render_url(blank.url, with_secrets=True)}
    program = Path(sys.executable).with_name("squorflow")
    importer = subprocess.Popen(
        [program, "migrate", "upgrade", "--batch-size", "500"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert importer.stdout is not None
    try:
        assert "applied 0001" in importer.stdout.readline()
        wait_until(lambda: _imported(blank) >= count // 5, patience_seconds=1200)
    finally:
        importer.kill()
        importer.communicate()
    done = _imported(blank)
    assert count // 5 <= done < count
    assert done % 500 == 0
    assert audit.verify(blank).problems == ()
    started = time.monotonic()
    report = legacy.import_rows(blank)
    seconds = time.monotonic() - started
    proof = audit.verify(blank)
    entered = int(value(blank, "SELECT count(DISTINCT workflow_id) FROM workflow_transitions"))
    record(
        "`make legacy`",
        {
            "rows": count,
            "imported before the kill": done,
            "after it": sum(report.imported.values()),
            "lost": count - entered,
            "twice": _imported(blank) - entered,
            "trails that do not hold": len(proof.problems),
            "rows a second": round((count - done) / seconds),
        },
    )
    assert sum(report.imported.values()) == count - done
    assert count_by(blank, "workflow_state") == {
        "queued": before["pending"] + before["processing"],
        "completed": before["completed"],
        "failed": before["failed"] - count // 25 * 3 // 4,
        "retrying": count // 25 * 3 // 4,
        "cancelled": before["skipped"],
    }
    assert proof == audit.Verification(workflows=count, problems=())
    assert (entered, _imported(blank)) == (count, count)
    assert sum(legacy.import_rows(blank).imported.values()) == 0
    assert _imported(blank) == count


def _imported(database: Database) -> int:
    return int(value(database, "SELECT count(*) FROM workflow_transitions"))


# And back.


@pytest.mark.timeout(1800)
def test_downgrade_gives_the_old_queue_back_and_up_again_imports_it_anew(blank: Database) -> None:
    old, size = blank, int(os.environ.get("SQUORFLOW_TEST_LEGACY_ROWS", COUNT))
    make_legacy(old, count=size)
    before, counts = catalog(old), count_by(old, "status")
    upgrade(old)
    legacy.import_rows(old)
    legacy.finalize(old)
    with old.begin() as connection:
        held = value(connection, "SELECT queue_id FROM processing_queue WHERE workflow_state = 'queued' LIMIT 1")
        rows(connection, "UPDATE processing_queue SET workflow_state = 'cancelled' WHERE queue_id = :id", id=held)
    assert migrations.undo_all(old) == []
    assert catalog(old) == before
    with pytest.raises(DBAPIError, match="processing_queue_status_check"):
        rows(old, "UPDATE processing_queue SET status = 'nonsense'")
    expected = {"pending": counts["pending"] + counts["processing"] - 1, "skipped": counts["skipped"] + 1}
    assert count_by(old, "status") == {"completed": counts["completed"], "failed": counts["failed"], **expected}
    upgrade(old)
    legacy.import_rows(old)
    due = size // 25 * 3 // 4
    assert count_by(old, "workflow_state") == {
        "queued": counts["pending"] + counts["processing"] - 1,
        "completed": counts["completed"],
        "failed": counts["failed"] - due,
        "retrying": due,
        "cancelled": counts["skipped"] + 1,
    }
    assert audit.verify(old) == audit.Verification(workflows=size, problems=())


def test_downgrade_says_what_it_cannot_give_back(old: Database) -> None:
    upgrade(old)
    legacy.import_rows(old)
    workflows.enqueue(old)
    (first, second) = migrations.undo_all(old)
    assert "source_page_id" in first + second
    assert "product_id" in first + second
    assert value(old, "SELECT count(*) FROM processing_queue") == COUNT + 1


def test_downgrade_leaves_nothing_of_a_database_that_was_ours_alone(blank: Database) -> None:
    before = catalog(blank)
    upgrade(blank)
    with blank.begin() as connection:
        workflows.reach(connection, WorkflowState.COMPLETED)
    assert migrations.undo_all(blank) == []
    assert catalog(blank) == before
    assert migrations.undo_all(blank) == []
    assert upgrade(blank) == [one.name for one in migrations.list_migrations()]
