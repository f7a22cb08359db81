"""Reads a window for what a person could mend: failure patterns and slow stages, each with what to do about it.

Owns the judgement and the advice. The figures are those of `metrics`; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from squorflow.errors import ErrorCategory
from squorflow.monitoring.metrics import Durations, Metrics, TimeRange, get_metrics
from squorflow.postgres.queries import load
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.config import WorkflowConfig

_MOST = 20
_NEAR_TIMEOUT = 0.5
_LONG_TAIL = 5.0
_TAIL_SAMPLES = 20
_DOMINANT = 0.5

_BY_CATEGORY = {
    ErrorCategory.TRANSIENT: "It is tried again by itself. If it stays, look at the other side and at the "
    "network between.",
    ErrorCategory.RATE_LIMIT: "Ask no more than the other side allows: lower the dependency's row in quota_limits, "
    "or the slots of WORKFLOW_ENRICHMENT_POOL, or buy more quota.",
    ErrorCategory.DATA: "A person decides: `squorflow list --state suspended`. If it is one shop, mend its crawler and "
    "enqueue the pages again.",
    ErrorCategory.SYSTEM: "Our own set-up: the message names the key, disk or migration. Nothing else helps until "
    "it is mended.",
}
_BY_ERROR = {
    "WorkerLost": "Workers die in the middle of a stage: look for the out-of-memory killer, for deployments during "
    "runs, and for WORKFLOW_PROCESSING_TIMEOUT below what the stage needs.",
}
_BY_STAGE = {
    Stage.DISCOVERY: "It is all Postgres: look for locks on products, and at missing ANALYZE (`squorflow upkeep`).",
    Stage.IMAGE_FETCH: "Shops answer slowly: lower WORKFLOW_IMAGES_PER_PRODUCT, or run more tasks at once; they "
    "only wait.",
    Stage.ENRICHMENT: "The model answers slowly: use a faster one, send fewer images, or widen "
    "WORKFLOW_ENRICHMENT_POOL as far as its quota goes.",
    Stage.NOTIFICATION: "It only writes to the outbox: look for a slow Postgres.",
}
_POSTGRES_AND_CPU = (
    "It is computing and Postgres: look at the load of both, and at missing ANALYZE (`squorflow upkeep`)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something worth a person's time: `kind` is `failure` or `slow`, `evidence` the figures, `advice` what to do."""

    kind: str
    subject: str
    evidence: str
    advice: str


def analyze(
    connection: Connection,
    *,
    config: WorkflowConfig,
    time_range: TimeRange = TimeRange.DAY,
    metrics: Metrics | None = None,
) -> list[Finding]:
    """Return what stands out in a window, failures first, the most frequent before the rest; nothing is good news.

    `metrics` are those of the window, where the caller has them already.
    """
    durations = (metrics or get_metrics(connection, time_range=time_range, with_states=False)).stage_durations
    return [*_find_failures(connection, time_range), *_find_slow_stages(durations, config=config)]


def _find_failures(connection: Connection, time_range: TimeRange) -> list[Finding]:
    rows = connection.execute(
        load("analyze")["list_failure_patterns"], {"time_range": time_range.length, "most": _MOST}
    ).all()
    return [
        Finding(
            kind="failure",
            subject=f"{row.error} in {row.stage}" if row.stage else row.error,
            evidence=f"{row.failures} in {row.workflows} workflows, {row.ended} of them ended there",
            advice=_BY_ERROR.get(row.error) or _advice_for(row.category),
        )
        for row in rows
    ]


def _advice_for(category: str | None) -> str:
    known = [one for one in ErrorCategory if one == category]
    return _BY_CATEGORY[known[0] if known else ErrorCategory.TRANSIENT]


def _find_slow_stages(durations: Mapping[str, Durations], *, config: WorkflowConfig) -> list[Finding]:
    whole = sum(one.avg * one.count for one in durations.values())
    limit = config.processing_timeout.total_seconds()
    findings = []
    for name, one in sorted(durations.items(), key=lambda item: -item[1].avg * item[1].count):
        share = one.avg * one.count / whole if whole else 0.0
        reasons = []
        if one.p95 > _NEAR_TIMEOUT * limit:
            reasons.append(f"one in twenty takes over {one.p95:g} s of the {limit:g} s allowed")
        if one.count >= _TAIL_SAMPLES and one.p95 > _LONG_TAIL * max(one.p50, 1.0):
            reasons.append(f"half take under {one.p50:g} s, one in twenty over {one.p95:g} s")
        if share > _DOMINANT and one.avg > 1:
            reasons.append(f"it takes {share:.0%} of all stages' time, {one.avg:g} s on average")
        if reasons:
            stage = Stage(name) if name in set(Stage) else None
            advice = _BY_STAGE.get(stage, _POSTGRES_AND_CPU) if stage else _POSTGRES_AND_CPU
            findings.append(Finding(kind="slow", subject=name, evidence="; ".join(reasons), advice=advice))
    return findings
