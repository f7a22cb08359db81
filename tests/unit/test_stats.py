"""What Airflow's own metrics are told about a stage, and when they are told nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.observability import stats

from squorflow.config import WorkflowConfig
from squorflow.monitoring.stats import emit_stage
from squorflow.states import Stage

Told = list[tuple[Any, ...]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found: Told = []
    monkeypatch.setattr(stats, "incr", lambda name, *, tags: found.append((name, tags)))
    monkeypatch.setattr(stats, "timing", lambda name, length, *, tags: found.append((name, length, tags)))
    return found


def test_a_finished_stage_is_counted_and_timed(told: Told) -> None:
    emit_stage(Stage.SCORING, "done", seconds=1.5, config=WorkflowConfig())
    assert told == [
        ("squorflow.stage_ended", {"stage": "scoring", "outcome": "done"}),
        ("squorflow.stage_duration", timedelta(seconds=1.5), {"stage": "scoring"}),
    ]


def test_a_stage_that_did_no_work_is_counted_only(told: Told) -> None:
    emit_stage(Stage.SCORING, "checkpoint", config=WorkflowConfig())
    assert told == [("squorflow.stage_ended", {"stage": "scoring", "outcome": "checkpoint"})]


def test_nothing_is_told_with_metrics_switched_off(told: Told) -> None:
    emit_stage(Stage.SCORING, "done", seconds=1.5, config=WorkflowConfig(enable_metrics=False))
    assert told == []


def test_airflow_takes_them_without_a_backend() -> None:
    emit_stage(Stage.SCORING, "done", seconds=1.5, config=WorkflowConfig())
