"""What has had its time leaves the tables that no month takes with it."""

from __future__ import annotations

from squorflow.config import WorkflowConfig
from squorflow.monitoring.upkeep import UpkeepReport, run_upkeep
from squorflow.postgres.database import Database
from support.workflows import rows, value


def test_what_is_over_leaves_and_what_is_open_or_young_stays(database: Database, config: WorkflowConfig) -> None:
    for days, over in ((200, True), (200, False), (10, True)):
        rows(
            database,
            "INSERT INTO alert_incident (alert, subject, message, opened_at, resolved_at) VALUES ('x', :name, 'y',"
            " now() - make_interval(days => :days), CASE WHEN :over THEN now() - make_interval(days => :days) END)",
            days=days,
            over=over,
            name=f"{days}/{over}",
        )
    for days, status in ((400, "done"), (400, "running"), (10, "done")):
        rows(
            database,
            "INSERT INTO bulk_operation (operation_id, action, filter, reason, actor, status, finished_at)"
            " VALUES (uuid_v7(now() - make_interval(days => :days)), 'retry', '{}', 'r', 'a', CAST(:status AS text),"
            " CASE CAST(:status AS text) WHEN 'done' THEN now() - make_interval(days => :days) END)",
            days=days,
            status=status,
        )
    rows(
        database,
        "INSERT INTO analysis_cache (content_key, prompt_version, model, answer, created_at)"
        " VALUES ('k', 'p', 'm', '{}', now() - interval '9 years')",
    )
    report = run_upkeep(database, config=config)
    assert (report.incidents_thinned, report.operations_thinned) == (1, 1)
    for table, left in (("alert_incident", 2), ("bulk_operation", 2), ("analysis_cache", 1)):
        assert value(database, f"SELECT count(*) FROM {table}") == left  # noqa: S608
    assert run_upkeep(database, config=config) == UpkeepReport()
