# ruff: noqa: S608 - these tests build statements from their own literals
"""One row that refuses every change must not stop the others, and no login can make one of times nobody can read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from squorflow.config import WorkflowConfig
from squorflow.orchestrator import drain
from squorflow.postgres import migrations
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.recovery.reaper import OwnerLife, nothing_known, reap, release_due
from squorflow.stages import make_clients
from squorflow.states import WorkflowState
from squorflow.workflow import audit, queue
from support import workflows
from support.workflows import LEASE, RUN, enqueue, get_row, get_state, hold_one, reach, rows, value

WORKER = "worker:host/7/0c9d"
UNREADABLE = ("infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "10000-01-01 00:00:00+00")
COLUMNS = {
    "created_at": WorkflowState.QUEUED,
    "queued_at": WorkflowState.QUEUED,
    "processing_started_at": WorkflowState.PROCESSING,
    "completed_at": WorkflowState.COMPLETED,
    "next_retry_at": WorkflowState.RETRYING,
    "waiting_until": WorkflowState.WAITING,
    "locked_at": WorkflowState.PROCESSING,
    "lease_expires_at": WorkflowState.PROCESSING,
}


def _poison(database: Database, workflow_id: UUID) -> None:
    """Have every change of one row refused, as after a constraint that was added behind our back."""
    rows(
        database,
        f"ALTER TABLE processing_queue ADD CONSTRAINT poison CHECK (queue_id <> '{workflow_id}') NOT VALID",
    )


def _expire(database: Database) -> None:
    rows(database, "UPDATE processing_queue SET lease_expires_at = clock_timestamp() - interval '1 s'")


@pytest.mark.parametrize("time", UNREADABLE)
@pytest.mark.parametrize("column", COLUMNS)
def test_a_time_that_no_worker_could_read_is_refused(database: Database, column: str, time: str) -> None:
    with database.begin() as connection:
        reach(connection, COLUMNS[column])
    with pytest.raises(IntegrityError, match=f"queue_{column}_is_readable"):
        rows(database, f"UPDATE processing_queue SET {column} = '{time}'")


@pytest.mark.parametrize("time", UNREADABLE)
def test_a_workflow_cannot_begin_with_such_a_time(database: Database, time: str) -> None:
    with pytest.raises(IntegrityError, match="queue_queued_at_is_readable"):
        rows(
            database,
            f"INSERT INTO processing_queue (product_name, queued_at) VALUES ('x', '{time}')",
        )


def test_times_as_far_as_they_can_be_read_are_taken(database: Database) -> None:
    enqueue(database)
    for time in ("0001-01-02 00:00:00+00", "9999-12-30 00:00:00+00"):
        rows(database, f"UPDATE processing_queue SET queued_at = '{time}'")
        rows(database, "SELECT queued_at FROM processing_queue")


def test_rows_that_have_such_times_already_are_mended_by_the_upgrade(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflows.administer(postgres, "CREATE DATABASE poisoned")
    database = Database(postgres.url("poisoned"), config=WorkflowConfig())
    shipped = migrations.list_migrations()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "list_migrations", lambda: shipped[:8])
            migrations.upgrade(database)
        with database.begin() as connection:
            found = {column: reach(connection, state) for column, state in COLUMNS.items()}
            for column, workflow_id in found.items():
                rows(
                    connection,
                    f"UPDATE processing_queue SET {column} = 'infinity' WHERE queue_id = :id",
                    id=workflow_id,
                )
        assert "0009_readable_times" in migrations.upgrade(database)
        for column, workflow_id in found.items():
            # psycopg raises on what it cannot read.
            row = get_row(database, workflow_id)
            assert (row.workflow_state, getattr(row, column) is None) == (COLUMNS[column], False)
        assert audit.verify(database).problems == ()
    finally:
        database.close()
        workflows.administer(postgres, "DROP DATABASE poisoned WITH (FORCE)")


def test_a_lease_beyond_what_a_time_out_can_hold_does_not_stop_the_reaper(
    database: Database, config: WorkflowConfig
) -> None:
    held = hold_one(database, owner="airflow:elsewhere/product_workflow/run_9")
    rows(
        database,
        "UPDATE processing_queue SET workflow_state = 'waiting', waiting_until = clock_timestamp() - interval '1 hour'",
    )
    rows(database, "UPDATE processing_queue SET lease_expires_at = '9000-01-01'")
    assert reap(database, liveness=nothing_known, config=config).expired == 1
    assert get_state(database, held.workflow_id) == "queued"


def test_a_row_that_refuses_to_be_taken_back_does_not_keep_the_others(
    database: Database, config: WorkflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    enqueue(database, count=5)
    claimed = workflows.claim(database)
    for one in claimed:
        workflows.acquire(database, one)
    _expire(database)
    _poison(database, claimed[2])
    with caplog.at_level(logging.ERROR, logger="squorflow"):
        report = reap(database, liveness=nothing_known, config=config)
    assert (report.expired, report.released, report.passed_over) == (4, 4, 1)
    states = [get_state(database, one) for one in claimed]
    assert states == ["queued", "queued", "processing", "queued", "queued"]
    assert "1 rows refused" in report.summary()
    (told,) = [record.getMessage() for record in caplog.records]
    assert str(claimed[2]) in told
    assert "poison" in told
    assert audit.verify(database).problems == ()


def test_rows_of_dead_runs_and_indexes_that_refuse_do_not_keep_the_others(
    database: Database, config: WorkflowConfig
) -> None:
    enqueue(database, count=3)
    claimed = workflows.claim(database)
    _poison(database, claimed[0])

    def knows(life: OwnerLife) -> int:
        def liveness(_owners: Sequence[str]) -> Mapping[str, OwnerLife]:
            return {RUN: life}

        report = reap(database, liveness=liveness, config=config)
        assert report.passed_over == 1
        return report.of_dead_runs

    assert knows(OwnerLife(alive=True, dead_map_indexes=frozenset({0, 1}))) == 1
    assert knows(OwnerLife(alive=False)) == 1
    assert [get_row(database, one).locked_by for one in claimed] == [RUN, None, None]


def test_more_refusing_rows_than_one_batch_are_gone_through_once(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squorflow.recovery.reaper._BATCH", 2)
    enqueue(database, count=7)
    workflows.claim(database)
    _expire(database)
    rows(database, "ALTER TABLE processing_queue ADD CONSTRAINT poison CHECK (product_name !~ '[0-4]') NOT VALID")
    report = reap(database, liveness=nothing_known, config=config)
    assert (report.expired, report.passed_over) == (2, 5)


def test_a_retry_that_refuses_to_be_queued_does_not_keep_the_others(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    held = [hold_one(database, owner=f"{RUN}{number}") for number in range(3)]
    for one in held:
        workflows.fail(database, one, action="release", delay=timedelta(0))
    _poison(database, held[0].workflow_id)
    with caplog.at_level(logging.ERROR, logger="squorflow"):
        assert release_due(database) == 2
    assert [get_state(database, one.workflow_id) for one in held] == ["retrying", "queued", "queued"]
    assert str(held[0].workflow_id) in caplog.text
    signed = rows(database, "SELECT actor, reason FROM workflow_transitions WHERE from_state = 'retrying'")
    assert {tuple(row) for row in signed} == {("reaper", "retry due")}


def test_an_outage_is_no_refusal_of_a_row(database: Database, config: WorkflowConfig) -> None:
    hold_one(database)
    _expire(database)
    rows(
        database,
        "CREATE FUNCTION fall_ill() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no room left' USING ERRCODE = '53100'; END $$",
    )
    rows(database, "CREATE TRIGGER a BEFORE UPDATE ON processing_queue FOR EACH ROW EXECUTE FUNCTION fall_ill()")
    with pytest.raises(DBAPIError, match="no room left"):
        reap(database, liveness=nothing_known, config=config)


def test_a_queued_row_that_refuses_to_be_claimed_does_not_keep_the_others(database: Database) -> None:
    ids = enqueue(database, count=4)
    _poison(database, ids[0])
    with pytest.raises(IntegrityError), database.begin() as connection:
        queue.claim_for_worker(connection, owner=WORKER, limit=3, lease=LEASE)
    with database.begin() as connection:
        claims = queue.claim_singly(connection, owner=WORKER, limit=3, lease=LEASE, passed_over=())
        assert claims.claimed == (ids[1], ids[2])
        assert list(claims.refused) == [ids[0]]
        assert (queue.count_claimable(connection), queue.count_claimable(connection, passed_over=ids[:1])) == (2, 1)
    with database.begin() as connection:
        assert queue.claim_for_worker(connection, owner=WORKER, limit=3, lease=LEASE, passed_over=ids[:1]) == ids[3:]
    owned = rows(
        database, "SELECT lease_expires_at > clock_timestamp() FROM processing_queue WHERE locked_by IS NOT NULL"
    )
    assert [row[0] for row in owned] == [True] * 3


@pytest.mark.parametrize("named", [None, slice(3)], ids=["any", "named"])
def test_a_run_gets_all_but_the_row_that_refuses_and_the_same_ones_for_ever(
    database: Database, caplog: pytest.LogCaptureFixture, named: slice | None
) -> None:
    ids = enqueue(database, count=4)
    _poison(database, ids[1])

    def claim() -> list[tuple[int, UUID, bool]]:
        with database.begin() as connection:
            items = queue.claim_for_run(connection, owner=RUN, limit=3, workflow_ids=ids[named] if named else None)
        return [(item.map_index, item.workflow_id, item.owned) for item in items]

    with caplog.at_level(logging.ERROR, logger="squorflow"):
        assert claim() == [(0, ids[0], True), (1, ids[2], True)]
    assert str(ids[1]) in caplog.text
    assert claim() == [(0, ids[0], True), (1, ids[2], True)]
    assert get_row(database, ids[0]).lease_expires_at is None
    assert get_row(database, ids[3]).locked_by is None


def test_a_run_that_takes_only_what_was_tried_takes_nothing_fresh_though_a_row_refuses(database: Database) -> None:
    lost = [workflows.lose_one(database) for _ in range(2)]
    enqueue(database, count=3)
    _poison(database, lost[0])
    with database.begin() as connection:
        items = queue.claim_for_run(connection, owner=RUN, limit=10, only_tried=True)
    assert [item.workflow_id for item in items] == lost[1:]


def test_a_drain_finishes_everything_but_the_row_that_refuses_and_says_so(
    database: Database, config: WorkflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    ids = enqueue(database, count=6)
    _poison(database, ids[1])
    with caplog.at_level(logging.ERROR, logger="squorflow"):
        report = drain(database, config=config, clients=make_clients(config), num_workers=2)
    assert (report.suspended, report.passed_over, report.stopped) == (5, 1, None)
    assert str(ids[1]) in caplog.text
    assert [get_state(database, one) for one in ids].count("queued") == 1
    assert value(database, "SELECT count(*) FROM processing_queue WHERE locked_by IS NOT NULL") == 0
