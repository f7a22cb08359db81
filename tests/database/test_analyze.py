"""What stands out in a window, and that each finding says what to do."""

from __future__ import annotations

import pytest

from squorflow.config import WorkflowConfig
from squorflow.errors import ErrorCategory
from squorflow.monitoring.analyze import Finding, analyze
from squorflow.postgres.database import Database
from support import workflows
from support.workflows import rows


def _find(database: Database, config: WorkflowConfig) -> list[Finding]:
    with database.begin() as connection:
        return analyze(connection, config=config)


def _measure(database: Database, stage: str, *seconds: float) -> None:
    rows(
        database,
        "INSERT INTO workflow_metrics (metric_type, metric_name, metric_value, stage)"
        " SELECT 'stage_duration', :stage, s, :stage FROM unnest(CAST(:seconds AS numeric[])) AS s",
        stage=stage,
        seconds=list(seconds),
    )


def test_where_nothing_stands_out_nothing_is_said(database: Database, config: WorkflowConfig) -> None:
    assert _find(database, config) == []
    _measure(database, "scoring", 0.1, 0.2)
    assert _find(database, config) == []


@pytest.mark.parametrize("category", list(ErrorCategory))
def test_a_failure_pattern_names_its_stage_and_what_to_do(
    database: Database, config: WorkflowConfig, category: ErrorCategory
) -> None:
    held = workflows.hold_one(database)
    workflows.fail(database, held, action="suspend", category=category.value, details={"class": "SomeError"})
    (found,) = _find(database, config)
    assert (found.kind, found.subject) == ("failure", "SomeError in discovery")
    assert found.evidence == "1 in 1 workflows, 1 of them ended there"
    assert found.advice


def test_a_lost_worker_is_told_from_a_network_that_is_away(database: Database, config: WorkflowConfig) -> None:
    held = workflows.hold_one(database)
    workflows.fail(database, held, action="retry", details={"class": "WorkerLost"})
    assert "out-of-memory" in _find(database, config)[0].advice


def test_a_stage_near_its_timeout_is_slow(database: Database, config: WorkflowConfig) -> None:
    _measure(database, "enrichment", *[200.0] * 3)
    (found,) = _find(database, config)
    assert (found.kind, found.subject) == ("slow", "enrichment")
    assert "200 s of the 300 s allowed" in found.evidence
    assert "takes 100% of all stages' time" in found.evidence


def test_a_long_tail_is_slow_though_most_are_quick(database: Database, config: WorkflowConfig) -> None:
    _measure(database, "image_fetch", *[0.5] * 30, *[20.0] * 5)
    _measure(database, "enrichment", *[0.9] * 400)
    (found,) = _find(database, config)
    assert (found.subject, "half take under 0.5 s" in found.evidence) == ("image_fetch", True)
