# ruff: noqa: S608 - these tests build statements from their own literals
"""Old history leaves for the archive without a gap in any proof, whenever upkeep is stopped and whoever meddles."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, text

from squorflow.config import WorkflowConfig
from squorflow.monitoring import metrics
from squorflow.monitoring.archive import verify_archive
from squorflow.monitoring.heads import compare_heads, export_heads
from squorflow.monitoring.upkeep import UpkeepReport, run_upkeep
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from squorflow.workflow import audit
from squorflow.workflow.listing import count_states
from squorflow.workflow.transitions import transition
from support import workflows
from support.aging import make_months, make_old
from support.workflows import ACTOR, rows, value

OLD = timedelta(days=430)
ROOT = Path(__file__).resolve().parents[2]


def _months(database: Database) -> list[str]:
    """Return the names of the months that are older than this one, attached or not."""
    found = rows(
        database,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^workflow_.*_[0-9]{4}_[0-9]{2}$'"
        " AND right(relname, 7) < to_char(now(), 'YYYY_MM') ORDER BY relname",
    )
    return [row.relname for row in found]


def _assert_proven(database: Database, config: WorkflowConfig) -> None:
    assert audit.verify(database).problems == ()
    assert compare_heads(database, config=config)[1] == []
    assert verify_archive(database, config=config)[1] == []
    with database.begin() as connection:
        counted = count_states(connection)
        assert metrics.count_states(metrics.read_counters(connection)) == counted


def _archived(config: WorkflowConfig, history: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for file in sorted((config.home / "archive" / history).iterdir()):
        lines += [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    return lines


def _report(**fields: Any) -> UpkeepReport:
    return UpkeepReport(**fields)


def test_an_old_month_is_archived_and_its_finished_workflows_leave(database: Database, config: WorkflowConfig) -> None:
    finished = make_old(database, WorkflowState.COMPLETED, age=OLD)
    running = make_old(database, WorkflowState.PROCESSING, age=OLD, upto=2)
    parked = make_old(database, WorkflowState.SUSPENDED, age=OLD)
    young = make_old(database, WorkflowState.COMPLETED, age=timedelta(0))
    assert audit.verify(database).problems == ()
    report = run_upkeep(database, config=config)
    assert report.problems == report.postponed == []
    assert [one[:-8] for one in report.archived] == ["workflow_events", "workflow_metrics", "workflow_transitions"]
    assert (report.retired, report.heads_exported) == (1, 4)
    assert _months(database) == []
    left = {row.queue_id for row in rows(database, "SELECT queue_id FROM processing_queue")}
    assert left == {running, parked, young}
    lines = _archived(config, "workflow_transitions")
    assert [line["to_state"] for line in lines if line["workflow_id"] == str(finished)] == [
        "created",
        "queued",
        "processing",
        "completed",
    ]
    _assert_proven(database, config)


def test_an_archived_workflow_goes_on_and_still_verifies_from_its_anchor(
    database: Database, config: WorkflowConfig
) -> None:
    parked = make_old(database, WorkflowState.SUSPENDED, age=OLD)
    run_upkeep(database, config=config)
    assert workflows.get_trail(database, parked) == []
    with database.begin() as connection:
        transition(connection, parked, WorkflowState.QUEUED, actor=ACTOR, reason="looked at")
    assert workflows.get_trail(database, parked) == [("suspended", "queued")]
    _assert_proven(database, config)


def test_an_archive_may_lie_in_any_store_airflow_knows_and_half_a_file_in_it_is_mended(
    database: Database, config: WorkflowConfig
) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    elsewhere = config.model_copy(update={"archive_store": f"file://{config.home}/elsewhere"})
    for first in (True, False):
        with database.begin() as reader:
            rows(reader, "SELECT count(*) FROM workflow_transitions")
            run_upkeep(database, config=elsewhere)
        (file,) = (config.home / "elsewhere" / "workflow_transitions").iterdir()
        if first:
            file.write_bytes(file.read_bytes()[:40])
            rows(database, "DELETE FROM history_archive WHERE history = 'workflow_transitions'")
    report = run_upkeep(database, config=elsewhere)
    assert (report.problems, report.retired) == ([], 1)
    _assert_proven(database, elsewhere)


def test_a_forged_anchor_is_found(database: Database, config: WorkflowConfig) -> None:
    parked = make_old(database, WorkflowState.SUSPENDED, age=OLD)
    run_upkeep(database, config=config)
    rows(database, "UPDATE workflow_anchor SET hash = sha256('x')")
    assert [one.workflow_id for one in audit.verify(database).problems] == [parked]


def test_a_second_upkeep_finds_nothing_to_do(database: Database, config: WorkflowConfig) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    run_upkeep(database, config=config)
    again = run_upkeep(database, config=config)
    assert (again, again.summary()) == (_report(), "nothing was due")
    assert value(database, "SELECT count(*) FROM upkeep_run") == 1


def test_months_leave_one_after_the_other_and_anchors_move_on(database: Database, config: WorkflowConfig) -> None:
    older, old = OLD + timedelta(days=62), OLD
    make_months(database, age=older)
    workflow_id = make_old(database, WorkflowState.SUSPENDED, age=older, upto=1)
    make_old(database, WorkflowState.SUSPENDED, age=old)
    patient = config.model_copy(update={"retention_trail_days": 470})
    run_upkeep(database, config=patient)
    first = value(database, "SELECT sequence FROM workflow_anchor WHERE workflow_id = :id", id=workflow_id)
    report = run_upkeep(database, config=config)
    assert first == 1
    assert report.problems == []
    assert value(database, "SELECT count(*) FROM workflow_anchor") == 2
    _assert_proven(database, config)


def test_a_month_with_an_altered_row_stays_and_is_reported(database: Database, config: WorkflowConfig) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    with database.begin() as connection:
        for trigger in ("refuse", "refuse_row"):
            rows(connection, f"ALTER TABLE workflow_transitions DISABLE TRIGGER {trigger}")
        rows(connection, "UPDATE workflow_transitions SET reason = 'nicer' WHERE sequence = 2")
        for trigger in ("refuse", "refuse_row"):
            rows(connection, f"ALTER TABLE workflow_transitions ENABLE ALWAYS TRIGGER {trigger}")
    report = run_upkeep(database, config=config)
    (problem,) = report.problems
    assert "1 rows do not hold" in problem
    assert report.retired == 0
    assert [one for one in _months(database) if "transitions" in one] != []
    assert value(database, "SELECT count(*) FROM workflow_anchor") == 0


def test_older_rows_in_the_default_partition_hold_back_what_comes_after_them(
    database: Database, config: WorkflowConfig
) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    rows(database, "ALTER TABLE workflow_transitions DETACH PARTITION workflow_transitions_default")
    old = next(one for one in _months(database) if "transitions" in one)
    rows(database, f"ALTER TABLE workflow_transitions DETACH PARTITION {old}")
    rows(database, "DROP TABLE workflow_transitions_default")
    rows(database, f"ALTER TABLE {old} RENAME TO workflow_transitions_default")
    rows(database, "ALTER TABLE workflow_transitions ATTACH PARTITION workflow_transitions_default DEFAULT")
    make_old(database, WorkflowState.COMPLETED, age=OLD - timedelta(days=35))
    report = run_upkeep(database, config=config)
    assert [one for one in report.postponed if "older rows of the trail are still attached" in one] != []
    assert report.retired == 0
    assert audit.verify(database).problems == ()


def test_events_that_somebody_has_not_got_keep_their_month(database: Database, config: WorkflowConfig) -> None:
    make_months(database, age=OLD)
    event_id = value(
        database,
        "INSERT INTO workflow_events (event_id, event_type, processed)"
        " VALUES (uuid_v7(now() - CAST(:age AS interval)), 'news', TRUE) RETURNING event_id",
        age=OLD,
    )
    rows(
        database,
        "INSERT INTO event_delivery (event_id, handler, stream_id, position, status)"
        " VALUES (:id, 'log', :id, 1, 'pending')",
        id=event_id,
    )
    (postponed,) = run_upkeep(database, config=config).postponed
    assert "not delivered" in postponed
    rows(database, "UPDATE event_delivery SET status = 'delivered', delivered_at = now()")
    report = run_upkeep(database, config=config)
    assert [one for one in report.archived if "events" in one] != []
    assert report.deliveries_thinned == 1
    assert _archived(config, "workflow_events")[0]["event_id"] == str(event_id)


def test_young_deliveries_and_dead_ones_of_events_that_exist_stay(database: Database, config: WorkflowConfig) -> None:
    for days, status in ((1, "delivered"), (20, "delivered"), (20, "dead")):
        rows(
            database,
            "INSERT INTO event_delivery (event_id, handler, stream_id, position, status)"
            " VALUES (uuid_v7(now() - make_interval(days => :days)), 'log', uuid_v7(), 1, :status)",
            days=days,
            status=status,
        )
    assert run_upkeep(database, config=config).deliveries_thinned == 1
    assert value(database, "SELECT count(*) FROM event_delivery") == 2


def test_an_archive_that_cannot_be_written_keeps_everything_and_the_rest_is_done(
    database: Database, config: WorkflowConfig, tmp_path: Path
) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    (tmp_path / "file").write_text("no folder")
    away = config.model_copy(update={"archive_store": str(tmp_path / "file" / "archive")})
    rows(
        database,
        "INSERT INTO event_delivery (event_id, handler, stream_id, position, status)"
        " VALUES (uuid_v7(now() - interval '20 days'), 'log', uuid_v7(), 1, 'delivered')",
    )
    report = run_upkeep(database, config=away)
    assert report.problems != []
    assert (report.archived, report.retired, report.deliveries_thinned) == ([], 0, 1)
    assert len(_months(database)) == 3


def test_only_one_upkeep_works_at_a_time(database: Database, config: WorkflowConfig) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    with database.session() as session:
        session.execute(text("SELECT pg_advisory_lock(21332, 1)"))
        assert run_upkeep(database, config=config) == _report(postponed=["another upkeep is at work"])
        session.execute(text("SELECT pg_advisory_unlock(21332, 1)"))
    assert run_upkeep(database, config=config).retired == 1


def test_a_busy_trail_is_not_waited_for(database: Database, config: WorkflowConfig) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    with database.begin() as reader:
        rows(reader, "SELECT count(*) FROM workflow_transitions")
        report = run_upkeep(database, config=config)
        assert [one for one in report.postponed if "busy" in one] != []
    run_upkeep(database, config=config)
    assert _months(database) == []
    _assert_proven(database, config)


def _kill_upkeep(url: URL, config: WorkflowConfig, *, words: str, when: str) -> subprocess.CompletedProcess[bytes]:
    """Run an upkeep in a process that dies at some statement; only the trail is old to it, so it dies there."""
    patience = {"WORKFLOW_RETENTION_EVENTS_DAYS": "5000", "WORKFLOW_RETENTION_METRICS_DAYS": "5000"}
    address = url.render_as_string(hide_password=False)
    return subprocess.run(
        [sys.executable, "-m", "support.upkeep_process", address, str(config.home), words, when],
        cwd=ROOT / "tests",
        env=os.environ | patience,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "when"),
    [
        ("Read where each trail stood", "inside"),
        ("Read the next rows of a month of the trail", "after"),
        ("Count the archived rows", "after"),
        ("Say that a month is in the archive", "inside"),
        ("Say that a month is in the archive", "after"),
        ("Take an archived month out", "inside"),
        ("Take an archived month out", "after"),
        ("Drop a detached month", "inside"),
        ("Drop a detached month", "after"),
        ("Remove the next finished workflows", "inside"),
    ],
)
def test_upkeep_may_be_killed_anywhere_and_the_next_one_ends_what_it_began(
    database: Database, database_url: URL, config: WorkflowConfig, words: str, when: str
) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    parked = make_old(database, WorkflowState.SUSPENDED, age=OLD)
    killed = _kill_upkeep(database_url, config, words=words, when=when)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert audit.verify(database).problems == ()
    run_upkeep(database, config=config)
    assert _months(database) == []
    assert [row.queue_id for row in rows(database, "SELECT queue_id FROM processing_queue")] == [parked]
    assert len(_archived(config, "workflow_transitions")) == 7
    _assert_proven(database, config)


def _stop_before_the_drop(database: Database, database_url: URL, config: WorkflowConfig) -> str:
    """Leave a month of the trail detached, as an upkeep that was killed does; return its name."""
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    _kill_upkeep(database_url, config, words="Take an archived month out", when="after")
    (name,) = [one for one in _months(database) if "transitions" in one]
    assert value(database, "SELECT detached_at IS NOT NULL FROM history_archive WHERE partition = :name", name=name)
    return name


def test_what_was_altered_after_it_was_archived_is_not_dropped(
    database: Database, database_url: URL, config: WorkflowConfig
) -> None:
    name = _stop_before_the_drop(database, database_url, config)
    rows(database, f"ALTER TABLE {name} DISABLE TRIGGER ALL")
    rows(database, f"UPDATE {name} SET reason = 'nicer' WHERE sequence = 2")
    report = run_upkeep(database, config=config)
    assert [one for one in report.problems if "altered after it was archived" in one] != []
    assert (name in _months(database), report.retired) == (True, 0)


def test_a_month_whose_archive_was_damaged_is_not_dropped(
    database: Database, database_url: URL, config: WorkflowConfig
) -> None:
    name = _stop_before_the_drop(database, database_url, config)
    (file,) = (config.home / "archive" / "workflow_transitions").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    report = run_upkeep(database, config=config)
    assert [one for one in report.problems if "cannot be read" in one] != []
    assert (name in _months(database), report.retired) == (True, 0)
    assert verify_archive(database, config=config)[1] != []


def test_a_chain_that_was_rewritten_as_a_whole_is_found_by_its_exported_head(
    database: Database, config: WorkflowConfig
) -> None:
    workflow_id = make_old(database, WorkflowState.COMPLETED, age=timedelta(0))
    assert export_heads(database, config=config) == 1
    assert export_heads(database, config=config) is None
    with database.begin() as connection:
        for table in ("workflow_transitions", "processing_queue"):
            rows(connection, f"ALTER TABLE {table} DISABLE TRIGGER USER")
        rows(connection, "UPDATE workflow_transitions SET reason = 'nicer' WHERE sequence = 4")
        rows(
            connection,
            "UPDATE workflow_transitions AS t SET hash = workflow_trail_hash(p.hash, t.workflow_id, t.sequence,"
            " t.from_state, t.to_state, t.stage, t.reason, t.metadata, t.actor, t.db_user, t.created_at)"
            " FROM workflow_transitions AS p WHERE t.sequence = 4 AND p.sequence = 3",
        )
        rows(
            connection,
            "UPDATE processing_queue SET trail_hash = (SELECT hash FROM workflow_transitions WHERE sequence = 4)",
        )
    assert audit.verify(database).problems == ()
    compared, problems = compare_heads(database, config=config)
    assert compared == 1
    assert [(one.workflow_id, "was rewritten" in one.problem) for one in problems] == [(workflow_id, True)]


def test_operations_and_answers_that_have_had_their_time_leave(database: Database, config: WorkflowConfig) -> None:
    for age in ("1 hour", "3 years"):
        rows(
            database,
            "WITH made AS (INSERT INTO bulk_operation (action, filter, reason, actor, status, finished_at)"
            " VALUES ('cancel', '{}', 'r', 'a', 'done', now() - CAST(:age AS interval)) RETURNING operation_id)"
            " INSERT INTO bulk_operation_item (operation_id, workflow_id) SELECT operation_id, uuid_v7() FROM made",
            age=age,
        )
        rows(
            database,
            "INSERT INTO api_request (actor, idempotency_key, fingerprint, created_at)"
            " VALUES ('a', CAST(:age AS text), '', now() - CAST(CAST(:age AS text) AS interval))",
            age=age,
        )
    report = run_upkeep(database, config=config)
    assert (report.operations_thinned, report.requests_thinned) == (1, 1)
    assert value(database, "SELECT count(*) FROM bulk_operation_item") == 1
    assert value(database, "SELECT idempotency_key FROM api_request") == "1 hour"


def test_a_flipped_bit_in_the_archive_is_reported_and_not_died_of(database: Database, config: WorkflowConfig) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    run_upkeep(database, config=config)
    (file,) = (config.home / "archive" / "workflow_transitions").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))
    months, (problem,) = verify_archive(database, config=config)
    assert (months, "cannot be read" in problem) == (3, True)


def test_a_bulk_load_is_analyzed(database: Database, config: WorkflowConfig) -> None:
    with database.session() as session:
        session.execute(
            text(
                "INSERT INTO workflow_metrics (metric_type, metric_name, metric_value)"
                " SELECT 'stage_duration', 'scoring', 1 FROM generate_series(1, 12000)"
            )
        )
        session.execute(text("SELECT pg_stat_force_next_flush()"))
    analyzed = run_upkeep(database, config=config).analyzed
    assert "workflow_metrics" in analyzed
    assert len(analyzed) == 2


@pytest.mark.parametrize(
    "function",
    [
        "history_detach(text)",
        "history_drop(text)",
        "history_ensure_partitions(int)",
        "history_fingerprint(text)",
        "metrics_fold(int)",
        "upkeep_analyze(bigint, double precision)",
        "workflow_retire(uuid[])",
    ],
)
def test_the_rewriting_of_history_is_granted_to_nobody(database: Database, function: str) -> None:
    allowed = "SELECT has_function_privilege('pg_monitor', to_regprocedure(:function), 'EXECUTE')"
    assert value(database, allowed, function=function) is False
