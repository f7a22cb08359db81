"""Hands each finished stage to Airflow's own metrics (StatsD or OpenTelemetry, as Airflow is configured).

Owns the names and tags. What is kept in Postgres is written by the state machine itself.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.states import Stage

STAGE_DURATION = "squorflow.stage_duration"
STAGE_ENDED = "squorflow.stage_ended"


def emit_stage(stage: Stage, outcome: str, *, seconds: float | None = None, config: WorkflowConfig) -> None:
    """Count a stage's end by its outcome (`done`, `checkpoint`, `waiting`, `skipped`, `failed`), and time its work.

    Does nothing with metrics switched off, in our settings or in Airflow's.
    """
    if not config.enable_metrics:
        return
    from airflow.sdk.observability import stats

    stats.incr(STAGE_ENDED, tags={"stage": stage.value, "outcome": outcome})
    if seconds is not None:
        stats.timing(STAGE_DURATION, timedelta(seconds=seconds), tags={"stage": stage.value})
