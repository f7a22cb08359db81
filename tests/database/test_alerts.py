"""Alerts: each incident is told once when it opens and once when it ends."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from squorflow.config import WorkflowConfig
from squorflow.errors import DataError
from squorflow.events import inspection
from squorflow.monitoring import alerts
from squorflow.monitoring.upkeep import run_upkeep
from squorflow.postgres.database import Database
from squorflow.postgres.queries import load
from squorflow.recovery import quotas
from squorflow.states import WorkflowState
from squorflow.workflow.transitions import transition
from support import workflows
from support.event_handlers import Recorder, deliver, failing
from support.workflows import ACTOR, RUN, reach, rows, value

HOUR = "interval '1 hour'"


def look(database: Database, config: WorkflowConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    report = alerts.look(database, config=config)
    return report.opened, report.ended


def end(database: Database, *, completed: int = 0, failed: int = 0) -> None:
    """Have workflows end."""
    with database.begin() as connection:
        for state, count in ((WorkflowState.COMPLETED, completed), (WorkflowState.FAILED, failed)):
            for _ in range(count):
                reach(connection, state)


def test_nothing_is_told_of_an_empty_or_sound_installation(database: Database, config: WorkflowConfig) -> None:
    assert look(database, config) == ((), ())
    end(database, completed=25, failed=2)
    assert look(database, config) == ((), ())


def test_an_incident_is_told_once_when_it_opens_and_once_when_it_ends(
    database: Database, config: WorkflowConfig
) -> None:
    recorder = Recorder(topics=frozenset({"alert_opened", "alert_resolved"}))
    end(database, completed=15, failed=5)
    assert look(database, config) == (("failure_rate/all",), ())
    assert look(database, config) == ((), ())
    end(database, completed=40)
    assert look(database, config) == ((), ("failure_rate/all",))
    assert look(database, config) == ((), ())
    deliver(database, config, recorder)
    assert [event.event_type for event in recorder.taken] == ["alert_opened", "alert_resolved"]
    assert recorder.taken[0].data["message"] == "5 of the last 20 workflows that ended failed (25%)"


def test_an_incident_does_not_flicker_around_its_threshold(database: Database, config: WorkflowConfig) -> None:
    end(database, completed=16, failed=4)
    assert look(database, config)[0] == ("failure_rate/all",)
    end(database, completed=1)
    assert look(database, config) == ((), ())


def test_failures_that_are_tried_again_and_few_ends_make_no_rate(database: Database, config: WorkflowConfig) -> None:
    end(database, failed=19)
    assert look(database, config) == ((), ())
    for number in range(30):
        held = workflows.hold_one(database, owner=f"{RUN}{number}")
        workflows.fail(database, held, action="release", delay=timedelta(hours=1))
    assert look(database, config) == ((), ())


def test_a_workflow_that_stands_still_alerts_until_it_moves(database: Database, config: WorkflowConfig) -> None:
    held = workflows.hold_one(database)
    rows(database, f"UPDATE processing_queue SET locked_at = locked_at - {HOUR}")  # noqa: S608
    assert look(database, config) == (("stuck_workflows/all",), ())
    workflows.finish(database, held)
    with database.begin() as connection:
        transition(connection, held.workflow_id, WorkflowState.CANCELLED, actor=ACTOR, reason="over")
    assert look(database, config) == ((), ("stuck_workflows/all",))


def test_what_waits_too_long_in_the_queue_alerts(database: Database, config: WorkflowConfig) -> None:
    workflows.enqueue(database, priority=3)
    assert look(database, config) == ((), ())
    rows(database, f"UPDATE processing_queue SET queued_at = queued_at - 2 * {HOUR}")  # noqa: S608
    assert look(database, config) == (("oldest_queued/all",), ())
    workflows.claim(database)
    assert look(database, config) == ((), ("oldest_queued/all",))


def test_a_quota_alerts_at_four_fifths(database: Database, config: WorkflowConfig) -> None:
    limits = quotas.Limits(requests_per_day=10)
    for expected in [()] * 7 + [("quota/gemini requests_per_day",), ()]:
        quotas.reserve(database, "gemini", tokens=0, limits=limits)
        assert look(database, config) == (expected, ())


def test_events_that_are_given_up_alert_until_they_are_replayed(database: Database, config: WorkflowConfig) -> None:
    end(database, completed=1)
    crm = Recorder("crm", react=failing(DataError("no such channel"), when=lambda event: "to_state" in event.data))
    deliver(database, config, crm)
    assert look(database, config) == (("dead_deliveries/crm",), ())
    crm.react = lambda _event: None
    deliver(database, config, crm)
    assert crm.taken[-1].data["message"].startswith("4 events did not reach crm")
    assert look(database, config) == ((), ())
    inspection.replay(database, handler="crm")
    deliver(database, config, crm)
    assert look(database, config) == ((), ("dead_deliveries/crm",))


def test_a_handler_that_nobody_serves_any_more_alerts_and_one_whose_circuit_is_open_does_not(
    database: Database, config: WorkflowConfig
) -> None:
    for name in ("gone", "down"):
        deliver(database, config, Recorder(name))
    end(database, completed=1)
    deliver(database, config, Recorder("log"))
    rows(database, f"UPDATE event_delivery SET next_attempt_at = next_attempt_at - {HOUR}")  # noqa: S608
    assert look(database, config) == ((), ())
    rows(database, f"UPDATE event_subscription SET seen_at = seen_at - {HOUR} WHERE handler = 'gone'")  # noqa: S608
    assert look(database, config.model_copy(update={"enable_notifications": False})) == ((), ())
    assert look(database, config) == (("unserved_handler/gone",), ())
    inspection.forget(database, "gone")
    assert look(database, config) == ((), ("unserved_handler/gone",))


def test_months_without_partitions_alert_until_upkeep_has_made_them(database: Database, config: WorkflowConfig) -> None:
    ahead = "SELECT 'workflow_metrics' || to_char(now() AT TIME ZONE 'UTC' + interval '2 months', '_YYYY_MM')"
    rows(database, f"ALTER TABLE workflow_metrics DETACH PARTITION {value(database, ahead)}")
    rows(database, f"DROP TABLE {value(database, ahead)}")
    rows(database, f"DROP TABLE {value(database, ahead.replace('2 months', '3 months'))}")
    assert look(database, config) == (("missing_partitions/all",), ())
    assert run_upkeep(database, config=config).partitions_made == 2
    assert look(database, config) == ((), ("missing_partitions/all",))


def test_a_trail_that_was_altered_alerts_by_its_workflow(database: Database, config: WorkflowConfig) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, WorkflowState.COMPLETED)

    def alter(reason: str) -> None:
        with database.begin() as connection:
            (partition,) = rows(
                connection, "SELECT DISTINCT CAST(tableoid AS regclass) AS name FROM workflow_transitions"
            )
            rows(connection, f"ALTER TABLE {partition.name} DISABLE TRIGGER ALL")
            rows(connection, "ALTER TABLE workflow_transitions DISABLE TRIGGER ALL")
            rows(
                connection,
                "UPDATE workflow_transitions SET reason = :reason WHERE to_state = 'completed'",
                reason=reason,
            )

    alter("nicer")
    assert look(database, config) == ((f"audit_mismatch/{workflow_id}",), ())
    assert look(database, config) == ((), ())
    alter(f"on the way to {WorkflowState.COMPLETED}")
    assert look(database, config) == ((), (f"audit_mismatch/{workflow_id}",))


def test_the_trails_are_verified_slice_by_slice_round_and_round(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "TRAILS_PER_ROUND", 2)
    workflows.enqueue(database, count=3)
    begins = []
    for _ in range(4):
        begins += [row.next_workflow_id for row in rows(database, "SELECT next_workflow_id FROM audit_round")]
        look(database, config)
    assert begins[0] == begins[2] != begins[1] == begins[3]


def test_what_alerts_read_is_found_by_index_among_a_hundred_thousand_workflows(database: Database) -> None:
    with database.begin() as connection:
        rows(
            connection,
            "INSERT INTO processing_queue (product_name, source_url, priority)"
            " SELECT 'Product ' || i, 'https://shop.example/' || i, 1 + i % 10 FROM generate_series(1, 100000) AS i",
        )
    with database.begin() as connection:
        rows(connection, "UPDATE processing_queue SET workflow_state = 'queued'")
    with database.session() as session:
        session.execute(text("VACUUM ANALYZE processing_queue, workflow_transitions"))
    parameters = {"window": timedelta(hours=1), "patience": timedelta(minutes=15), "most": 1000}
    partition = value(database, "SELECT DISTINCT CAST(CAST(tableoid AS regclass) AS text) FROM workflow_transitions")
    used = {
        "count_ends": {f"Index Scan using {partition}"},
        "list_stuck": {"queue_listing", "queue_by_stage"},  # both begin with the state
    }
    for name, indexes in used.items():
        query = load("alerts")[name]
        with database.begin() as connection:
            bound = {key: parameters[key] for key in query.compile().params}
            plan = "\n".join(connection.execute(text("EXPLAIN " + query.text), bound).scalars())
        assert any(index in plan.replace("Index Scan Backward", "Index Scan") for index in indexes)
        assert f"Seq Scan on {partition}" not in plan
        assert "Seq Scan on processing_queue" not in plan
