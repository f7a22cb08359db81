"""Upgrading: once, in order, under a lock; from nothing, from a legacy queue, and on older servers."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError, InvalidTransition
from squorflow.postgres import migrations
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import FOLDERS, EmbeddedPostgres, binaries
from squorflow.recovery.reaper import nothing_known, reap
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import audit, leases, listing, queue
from squorflow.workflow.listing import WorkflowFilter
from squorflow.workflow.transitions import transition
from support import workflows
from support.workflows import get_row, get_trail, is_allowed, reach, rows, value

NAMES = [one.name for one in migrations.list_migrations()]
_numbers = itertools.count(1)


@pytest.fixture
def blank(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """An empty database that has never been upgraded."""
    name = f"blank_{next(_numbers)}"
    postgres.ensure_database(name)
    database = Database(postgres.url(name), config=WorkflowConfig())
    yield database
    database.close()
    postgres.drop_database(name)


def test_an_empty_database_gets_every_migration_in_order_and_a_second_upgrade_does_nothing(blank: Database) -> None:
    assert migrations.upgrade(blank) == NAMES
    assert migrations.upgrade(blank) == []


def test_the_status_tells_what_was_applied_before_and_after(blank: Database) -> None:
    assert {one.applied_at for one in migrations.status(blank)} == {None}
    migrations.upgrade(blank)
    assert [one.name for one in migrations.status(blank) if one.applied_at is not None] == NAMES


def test_two_upgrades_at_once_apply_each_migration_once(blank: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        applied = [future.result() for future in [pool.submit(migrations.upgrade, blank) for _ in range(2)]]
    assert sorted(applied) == [[], NAMES]
    assert value(blank, "SELECT count(*) FROM schema_migration") == len(NAMES)


def test_a_migration_whose_file_has_changed_is_refused_by_name(blank: Database) -> None:
    migrations.upgrade(blank)
    rows(blank, "UPDATE schema_migration SET checksum = 'other' WHERE name = :name", name=NAMES[2])
    with pytest.raises(ConfigurationError, match=f"migration {NAMES[2]} was applied from another file"):
        migrations.upgrade(blank)


def test_a_database_that_is_newer_than_the_package_is_refused(blank: Database) -> None:
    migrations.upgrade(blank)
    rows(blank, "INSERT INTO schema_migration (name, checksum) VALUES ('9999_future', 'x')")
    with pytest.raises(ConfigurationError, match="9999_future, which this version of squorflow does not know"):
        migrations.upgrade(blank)


def test_an_upgrade_that_breaks_in_the_middle_leaves_nothing_behind(
    blank: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "9999_broken.sql"
    broken.write_text("CREATE TABLE half (id int); SELECT 1 / 0;", encoding="utf-8")
    shipped = [*migrations.list_migrations(), migrations.Migration(name="9999_broken", checksum="x", path=broken)]
    monkeypatch.setattr(migrations, "list_migrations", lambda: shipped)
    with pytest.raises(Exception, match="division by zero"):
        migrations.upgrade(blank)
    assert value(blank, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


def test_names_that_were_there_before_are_found_by_what_counts_as_a_word_now(
    blank: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = migrations.list_migrations()
    before = [one for one in shipped if one.name < "0026"]
    monkeypatch.setattr(migrations, "list_migrations", lambda: before)
    migrations.upgrade(blank)
    name = '<img src=x onerror="alert(1)">Oat<b>flakes</b>'
    item = queue.NewItem(
        url="https://shop.example/1", name=name, brand=None, crawler_data={"name": name}, dedupe_key=None
    )
    with blank.begin() as connection:
        queue.enqueue(connection, [item], actor="test", max_retries=3)
    monkeypatch.setattr(migrations, "list_migrations", lambda: shipped)
    migrations.upgrade(blank)
    with blank.begin() as connection:
        rows(connection, "SET LOCAL enable_seqscan = off")
        for words, found in {"onerror": 1, "oat flakes": 1, name: 1, "wheat": 0}.items():
            assert listing.count_workflows(connection, WorkflowFilter(search=words), most=5) == found, words


def test_everything_lives_in_the_schema_the_connection_begins_in(postgres: EmbeddedPostgres, blank: Database) -> None:
    assert isinstance(blank.url, URL)
    rows(blank, "CREATE SCHEMA food")
    rows(blank, f"ALTER DATABASE {blank.url.database} SET search_path = food")
    blank.close()
    inside = Database(blank.url, config=WorkflowConfig())
    migrations.upgrade(inside)
    with inside.begin() as connection:
        reach(connection, WorkflowState.COMPLETED)
    assert value(inside, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    assert audit.verify(inside).problems == ()
    inside.close()


# Partitions.


def _partitions(database: Database) -> dict[str, str]:
    found = rows(
        database,
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bounds FROM pg_inherits AS i"
        " JOIN pg_class AS c ON c.oid = i.inhrelid JOIN pg_class AS p ON p.oid = i.inhparent"
        " WHERE p.relkind = 'p' ORDER BY c.relname",
    )
    return {row.relname: row.bounds for row in found}


def test_each_history_has_this_month_three_more_and_a_default(database: Database) -> None:
    months = value(
        database,
        "SELECT array_agg(to_char(date_trunc('month', now()) + make_interval(months => i), 'YYYY_MM') ORDER BY i)"
        " FROM generate_series(0, 3) AS i",
    )
    assert sorted(_partitions(database)) == sorted(
        f"{table}_{part}"
        for table in ("workflow_transitions", "workflow_events", "workflow_metrics")
        for part in [*months, "default"]
    )


def test_months_meet_without_a_gap_and_a_row_lies_in_its_own(database: Database) -> None:
    bounds = [text for name, text in _partitions(database).items() if name.startswith("workflow_events_2")]
    assert [one.rpartition("(")[2] for one in bounds[:-1]] == [
        one.partition("FROM (")[2].partition(")")[0] + ")" for one in bounds[1:]
    ]
    with database.begin() as connection:
        reach(connection, WorkflowState.QUEUED)
    where = value(database, "SELECT DISTINCT tableoid::regclass::text FROM workflow_transitions")
    assert where == "workflow_transitions_" + value(database, "SELECT to_char(now(), 'YYYY_MM')")


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati", "Asia/Kathmandu"])
def test_partitions_do_not_depend_on_the_time_zone_of_who_makes_them(database: Database, zone: str) -> None:
    before = _partitions(database)
    dropped = [name for name in before if name.startswith("workflow_events_2")]
    with database.begin() as connection:
        for name in dropped:
            rows(connection, f"DROP TABLE {name}")
        rows(connection, "SELECT set_config('TimeZone', :zone, TRUE)", zone=zone)
        assert value(connection, "SELECT history_ensure_partitions()") == 4
    assert _partitions(database) == before


def test_rows_without_a_month_of_their_own_are_kept_and_later_months_can_still_be_made(database: Database) -> None:
    month = value(database, "SELECT 'workflow_transitions_' || to_char(now(), 'YYYY_MM')")
    rows(database, f"DROP TABLE {month}")
    with database.begin() as connection:
        workflow_id = reach(connection, WorkflowState.COMPLETED)
    assert value(database, "SELECT DISTINCT tableoid::regclass::text FROM workflow_transitions") == (
        "workflow_transitions_default"
    )
    assert migrations.upgrade(database) == []
    assert value(database, "SELECT history_ensure_partitions(5)") == 2 * 3
    assert audit.verify(database).problems == ()
    assert len(get_trail(database, workflow_id)) == 4


def test_partitions_made_later_are_append_only_too(database: Database) -> None:
    before = set(_partitions(database))
    value(database, "SELECT history_ensure_partitions(4)")
    (made,) = [name for name in set(_partitions(database)) - before if name.startswith("workflow_transitions")]
    for statement in ("TRUNCATE {}", "DELETE FROM {}", "UPDATE {} SET reason = ''", "INSERT INTO {} DEFAULT VALUES"):
        with pytest.raises(Exception, match="append-only"):
            rows(database, statement.format(made))


# A legacy queue.

LEGACY = """
CREATE TABLE processing_queue (
    queue_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    product_id uuid,
    source_page_id uuid,
    status varchar(20) DEFAULT 'pending' CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    priority int DEFAULT 5,
    retry_count int DEFAULT 0,
    max_retries int DEFAULT 3,
    stage varchar(30) CHECK (stage IN ('discovery', 'image_fetch', 'ocr', 'extraction', 'scoring')),
    stage_details jsonb DEFAULT '{}',
    last_error text,
    queued_at timestamptz DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    CONSTRAINT legacy_priority CHECK (priority >= 0)
)
"""
MAPPED = {"pending": "queued", "processing": "queued", "completed": "completed", "failed": "failed"}


@pytest.fixture
def legacy(blank: Database) -> Database:
    """A database with a legacy queue of forty rows, some with values we would not take."""
    rows(blank, LEGACY)
    for number, (status, stage) in enumerate(
        itertools.product(MAPPED, ["discovery", "image_fetch", "ocr", "extraction", None])
    ):
        for priority in (None, number * 5):
            rows(
                blank,
                "INSERT INTO processing_queue (status, stage, priority, retry_count, max_retries, stage_details)"
                " VALUES (:status, :stage, :priority, :tries, :tries, CAST(:details AS jsonb))",
                status=status,
                stage=stage,
                priority=priority,
                tries=None if priority is None else 7,
                details=json.dumps({"number": number}),
            )
    return blank


def _legacy_rows(database: Database) -> list[tuple[object, ...]]:
    found = rows(
        database,
        "SELECT queue_id, product_id, source_page_id, status, priority, retry_count, max_retries, stage,"
        " stage_details, last_error, queued_at, started_at, completed_at FROM processing_queue ORDER BY queue_id",
    )
    return [tuple(row) for row in found]


def test_a_legacy_queue_is_upgraded_without_losing_a_row_a_column_or_a_value(legacy: Database) -> None:
    before = _legacy_rows(legacy)
    assert len(before) == 40
    assert migrations.upgrade(legacy) == NAMES
    assert _legacy_rows(legacy) == before
    assert value(legacy, "SELECT count(*) FROM processing_queue WHERE workflow_state IS NULL") == 40
    assert value(legacy, "SELECT count(*) FROM processing_queue WHERE workflow_id = queue_id") == 40
    assert value(legacy, "SELECT count(*) FROM workflow_transitions") == 0


def test_rows_that_wait_for_their_import_are_not_claimed_nor_reaped(legacy: Database) -> None:
    migrations.upgrade(legacy)
    assert workflows.claim(legacy) == []
    report = reap(legacy, liveness=nothing_known, config=WorkflowConfig())
    assert (report.expired, report.released) == (0, 0)
    assert audit.verify(legacy) == audit.Verification(workflows=0, problems=())


def _import(database: Database) -> int:
    imported = 0
    for status, state in MAPPED.items():
        imported += value(
            database,
            "SELECT workflow_import(ARRAY(SELECT queue_id FROM processing_queue WHERE status = :status), :state,"
            " 'legacy status ' || :status, jsonb_build_object('status', CAST(:status AS text)))",
            status=status,
            state=state,
        )
    return imported


def test_an_import_gives_each_legacy_row_its_state_and_one_marked_audit_row(legacy: Database) -> None:
    migrations.upgrade(legacy)
    before = {row[0]: row for row in _legacy_rows(legacy)}
    assert _import(legacy) == 40
    assert _import(legacy) == 0
    trail = rows(
        legacy,
        "SELECT t.* FROM workflow_transitions AS t JOIN processing_queue AS q ON q.queue_id = t.workflow_id",
    )
    assert len(trail) == 40
    assert {(row.from_state, row.actor, row.db_user, row.sequence) for row in trail} == {
        (None, "migration", "postgres", 1)
    }
    statuses = {workflow_id: row[3] for workflow_id, row in before.items()}
    assert all(row.to_state == MAPPED[statuses[row.workflow_id]] for row in trail)
    assert all(row.metadata == {"status": statuses[row.workflow_id], "import": True} for row in trail)
    assert audit.verify(legacy) == audit.Verification(workflows=40, problems=())
    untouched = {0, 1, 2, 8, 9, 10, 11}
    assert all(
        [one for place, one in enumerate(row) if place in untouched]
        == [one for place, one in enumerate(before[row[0]]) if place in untouched]
        for row in _legacy_rows(legacy)
    )


def test_imported_rows_are_within_our_ranges_and_can_be_listed_claimed_and_worked_on(legacy: Database) -> None:
    migrations.upgrade(legacy)
    _import(legacy)
    with legacy.begin() as connection:
        listed = listing.list_workflows(connection, page_size=100)
    assert len(listed) == 40
    assert {one.current_stage for one in listed} == {Stage.DISCOVERY, Stage.IMAGE_FETCH, Stage.ENRICHMENT}
    assert all(1 <= one.priority <= 10 for one in listed)
    claimed = workflows.claim(legacy)
    assert len(claimed) == 20
    got = workflows.acquire(legacy, claimed[0])
    assert (got.outcome, got.crawler_data) == (leases.Outcome.ACQUIRED, {})


def test_times_that_nobody_could_read_are_left_behind_by_the_import(legacy: Database) -> None:
    rows(legacy, "UPDATE processing_queue SET queued_at = 'infinity', completed_at = '-infinity'")
    migrations.upgrade(legacy)
    assert _import(legacy) == 40
    assert value(
        legacy, "SELECT bool_and(coalesce(isfinite(queued_at) AND isfinite(completed_at), TRUE)) FROM processing_queue"
    )
    assert len(workflows.claim(legacy)) == 20


@pytest.mark.parametrize("state", list(WorkflowState))
def test_a_row_can_be_imported_at_any_state(legacy: Database, state: WorkflowState) -> None:
    migrations.upgrade(legacy)
    workflow_id = value(legacy, "SELECT queue_id FROM processing_queue LIMIT 1")
    assert value(legacy, "SELECT workflow_import(ARRAY[:id], :state, 'legacy')", id=workflow_id, state=state) == 1
    assert get_trail(legacy, workflow_id) == [(None, state)]
    assert audit.verify(legacy).problems == ()


@pytest.mark.parametrize("state", ["done", "", "Queued"])
def test_a_row_cannot_be_imported_at_a_state_nobody_knows(legacy: Database, state: str) -> None:
    migrations.upgrade(legacy)
    workflow_id = value(legacy, "SELECT queue_id FROM processing_queue LIMIT 1")
    with pytest.raises(InvalidTransition, match=r"\(nothing\) → "):
        rows(legacy, "SELECT workflow_import(ARRAY[:id], :state, 'legacy')", id=workflow_id, state=state)


def test_an_import_touches_no_row_that_has_a_state(legacy: Database) -> None:
    migrations.upgrade(legacy)
    with legacy.begin() as connection:
        workflow_id = reach(connection, WorkflowState.FAILED)
    assert value(legacy, "SELECT workflow_import(ARRAY[:id], 'completed', 'trick')", id=workflow_id) == 0
    assert get_row(legacy, workflow_id).workflow_state == "failed"


def test_a_legacy_row_cannot_be_given_a_state_without_the_import(legacy: Database) -> None:
    migrations.upgrade(legacy)
    for said in ("", '{"import": false}', '{"import": "true"}'):
        with legacy.engine.connect() as connection, connection.begin() as transaction:
            rows(connection, "SELECT set_config('squorflow.context', :said, TRUE)", said=said)
            with pytest.raises((InvalidTransition, DBAPIError)):
                rows(connection, "UPDATE processing_queue SET workflow_state = 'completed'")
            transaction.rollback()


def test_new_products_live_beside_legacy_rows(legacy: Database) -> None:
    migrations.upgrade(legacy)
    (workflow_id,) = workflows.enqueue(legacy)
    assert workflows.claim(legacy) == [workflow_id]


# Older servers.


def _server_programs(version: int) -> Path | None:
    if version in FOLDERS:
        newest = binaries(Path("/nonexistent"))
        return newest.parents[1] / FOLDERS[version] / "bin"
    debian = Path(f"/usr/lib/postgresql/{version}/bin")
    return debian if (debian / "initdb").exists() else None


@pytest.fixture(scope="module", params=[14, 15, 16, 17])
def older(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A database on an older server, which runs for this module."""
    programs = _server_programs(request.param)
    if programs is None:
        pytest.skip(f"not available here: Postgres {request.param}")
    # Postgres does not run as root; the session's own server has found somebody who may.
    owner = pwd.getpwuid(postgres.data.stat().st_uid)
    as_owner: dict[str, Any] = (
        {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory(prefix="squorflow-older-") as name:
        folder = Path(name)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c timezone=UTC"
        subprocess.run(
            [
                *(programs / "initdb", "-D", folder / "data", "-U", "postgres"),
                *("--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **as_owner,
        )
        control: list[str | Path] = [programs / "pg_ctl", "-w", "-D", folder / "data"]
        with (folder / "log").open("wb") as log:
            subprocess.run(
                [*control, "-o", settings, "start"],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                **as_owner,
            )
        try:
            url = URL.create("postgresql+psycopg", username="postgres", database="postgres", query={"host": name})
            database = Database(url, config=WorkflowConfig())
            migrations.upgrade(database)
            yield database
            database.close()
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder, **as_owner
            )


def test_an_older_server_answers_all_81_pairs_the_same(older: Database) -> None:
    wrong = []
    for pair in workflows.PAIRS:
        with older.begin() as connection:
            workflow_id = reach(connection, pair[0])
        try:
            with older.begin() as connection:
                transition(connection, workflow_id, pair[1], actor="cli:test", reason="because")
            made = True
        except InvalidTransition:
            made = False
        if made is not is_allowed(pair):
            wrong.append(pair)
    assert wrong == []
    assert audit.verify(older).problems == ()


def test_an_older_server_brings_a_product_through_all_stages(older: Database) -> None:
    held = workflows.hold_one(older, owner="airflow:a/b/older")
    workflows.fail(older, held, action="retry", delay=timedelta(0))
    token = workflows.acquire(older, held.workflow_id, owner=held.owner).token
    last = workflows.run_to(
        older, workflows.Held(workflow_id=held.workflow_id, token=token, owner=held.owner), stage=Stage.NOTIFICATION
    )
    assert workflows.finish(older, last, stage=Stage.NOTIFICATION) is None
    assert audit.verify(older).problems == ()


def test_an_older_server_protects_its_trail(older: Database) -> None:
    with older.begin() as connection:
        reach(connection, WorkflowState.QUEUED)
    for table in ["workflow_transitions", *(name for name in _partitions(older) if "transitions" in name)]:
        for statement in (
            "TRUNCATE {}",
            "DELETE FROM {}",
            "UPDATE {} SET reason = ''",
            "INSERT INTO {} DEFAULT VALUES",
        ):
            with older.begin() as connection:
                rows(connection, "SET LOCAL session_replication_role = replica")
                with pytest.raises(Exception, match="append-only"), connection.begin_nested():
                    rows(connection, statement.format(table))


def test_an_older_server_reaps_and_claims(older: Database) -> None:
    held = workflows.hold_one(older, owner="worker:host/1/older")
    rows(older, "UPDATE processing_queue SET lease_expires_at = clock_timestamp() WHERE locked_by LIKE 'worker:%'")
    assert reap(older, liveness=nothing_known, config=WorkflowConfig()).expired >= 1
    with older.begin() as connection:
        (item,) = queue.claim_for_run(
            connection, owner="airflow:a/b/next", limit=1, workflow_ids=[UUID(str(held.workflow_id))]
        )
    assert item.retry_count == 1
