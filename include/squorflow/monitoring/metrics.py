"""The figures of the API: what a window was like (`get_metrics`) and how things stand (`get_dashboard`).

Windows are read from `workflow_metrics` by its index, and where upkeep has summed up hours, from these sums; present
figures from counters and from indexes of a few rows. The queue is never counted. With ENABLE_WORKFLOW_METRICS off
nothing is measured: windows are empty, the rest stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from squorflow.postgres.queries import load
from squorflow.recovery import breakers, quotas
from squorflow.states import WorkflowState

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.config import WorkflowConfig
    from squorflow.recovery.breakers import Breaker
    from squorflow.recovery.quotas import QuotaStatus

_STATES = "state_duration"
_MEASURED = ("stage_duration", "error", "requests", "tokens", "cost")
_MOST_RETRIED = 100
_BUCKET_RATIO = 1.1
"""How much the upper end of a bucket of durations is above its lower one, as in `metric_bucket` (migration 0033)."""
_CLOSED = "closed"
_STUCK_FACTOR = 2
"""A stage counts as stuck after this many times its allowed length: ten minutes by default."""


class TimeRange(StrEnum):
    """The windows one may ask for, all of them up to now."""

    QUARTER_HOUR = "15m"
    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"

    @property
    def length(self) -> timedelta:
        """How long the window is."""
        unit = {"m": "minutes", "h": "hours", "d": "days"}[self.value[-1]]
        return timedelta(**{unit: int(self.value[:-1])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long something took, in seconds; percentiles are interpolated, or off by 5 % where hours were summed up."""

    count: int
    avg: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AiUsage:
    """What models were asked: requests, tokens in and out together, cost in US dollars."""

    requests: int
    tokens: int
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A window: durations by state and stage, errors by class, the most retried workflows, completions per hour."""

    time_range: TimeRange
    state_durations: Mapping[str, Durations]
    stage_durations: Mapping[str, Durations]
    error_breakdown: Mapping[str, int]
    retry_counts: Mapping[str, int]
    throughput_per_hour: float
    ai: AiUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """How things stand; times in seconds and `None` where there is nothing to measure.

    `error_rate` is the percentage of failed among processing, completed and failed. `throughput` (completed per hour)
    and `avg_processing_time` (first stage to completion) are those of the last 24 hours. `breakers` has those that are
    open or being probed.
    """

    active_workflows: int
    state_distribution: Mapping[str, int]
    avg_processing_time: float | None
    error_rate: float
    throughput: float
    oldest_queued_seconds: float | None
    stuck: int
    breakers: Sequence[Breaker]
    quotas: Sequence[QuotaStatus]


def get_metrics(connection: Connection, *, time_range: TimeRange = TimeRange.DAY, with_states: bool = True) -> Metrics:
    """Return what a window up to now was like.

    Without states `state_durations` stays empty; a row per transition, they are most of what there is to read.
    """
    queries = load("metrics")
    measured = [_STATES, *_MEASURED] if with_states else list(_MEASURED)
    durations: dict[str, dict[str, Durations]] = {_STATES: {}, "stage_duration": {}}
    totals = {"requests": 0.0, "tokens": 0.0, "cost": 0.0}
    errors: dict[str, int] = {}
    for row in _summarize(connection, time_range=time_range, metric_types=measured):
        if row.metric_type in durations:
            durations[row.metric_type][row.metric_name] = Durations(
                count=row.measured,
                avg=round(row.total / row.measured, 3),
                p50=round(row.p50, 3),
                p95=round(row.p95, 3),
            )
        elif row.metric_type == "error":
            errors[row.metric_name] = row.measured
        else:
            totals[row.metric_type] += row.total
    window = {"time_range": time_range.length}
    retried = connection.execute(queries["list_retried"], {**window, "most": _MOST_RETRIED})
    return Metrics(
        time_range=time_range,
        state_durations=durations[_STATES],
        stage_durations=durations["stage_duration"],
        error_breakdown=dict(sorted(errors.items(), key=lambda item: (-item[1], item[0]))),
        retry_counts={str(row.workflow_id): row.retries for row in retried},
        throughput_per_hour=_pace(connection, time_range)[0],
        ai=AiUsage(requests=round(totals["requests"]), tokens=round(totals["tokens"]), cost=round(totals["cost"], 6)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    metric_type: str
    metric_name: str
    measured: int
    total: float
    p50: float
    p95: float


def _summarize(connection: Connection, *, time_range: TimeRange, metric_types: Sequence[str]) -> Iterator[_Sum]:
    """Sum up a window by type and name: row by row, or by whole hours that are summed up and the rows beside them."""
    queries = load("metrics")
    types = {"metric_types": list(metric_types)}
    window = connection.execute(queries["get_window"], {"time_range": time_range.length}).mappings().one()
    if window["whole_until"] is None:
        for row in connection.execute(queries["summarize"], {**types, "time_range": time_range.length}):
            p50, p95 = row.percentiles
            yield _Sum(
                metric_type=row.metric_type,
                metric_name=row.metric_name,
                measured=row.measured,
                total=float(row.total),
                p50=p50,
                p95=p95,
            )
        return
    found = connection.execute(queries["list_buckets"], {**types, **window})
    for (metric_type, metric_name), rows in itertools.groupby(found, lambda row: (row.metric_type, row.metric_name)):
        buckets = list(rows)
        counts = [(row.bucket, int(row.measured)) for row in buckets]
        yield _Sum(
            metric_type=metric_type,
            metric_name=metric_name,
            measured=sum(count for _, count in counts),
            total=float(sum(row.total for row in buckets)),
            p50=_percentile(counts, 0.5),
            p95=_percentile(counts, 0.95),
        )


def _percentile(counts: Sequence[tuple[int, int]], share: float) -> float:
    """Return the middle of the bucket that has the value below which `share` of all are; buckets are in their order."""
    wanted = share * (sum(count for _, count in counts) - 1)
    passed = itertools.accumulate(count for _, count in counts)
    bucket = next(bucket for (bucket, _), count in zip(counts, passed, strict=True) if count > wanted)
    return float(_BUCKET_RATIO ** (bucket + 0.5))


def get_dashboard(connection: Connection, *, config: WorkflowConfig) -> Dashboard:
    """Return how things stand now, at the same cost however many workflows there are."""
    states = count_states(read_counters(connection))
    throughput, average = _pace(connection, TimeRange.DAY)
    failed, processing = states[WorkflowState.FAILED], states[WorkflowState.PROCESSING]
    judged = processing + states[WorkflowState.COMPLETED] + failed
    return Dashboard(
        active_workflows=processing + states[WorkflowState.WAITING],
        state_distribution={state.value: count for state, count in states.items()},
        avg_processing_time=average,
        error_rate=round(100 * failed / judged, 2) if judged else 0.0,
        throughput=throughput,
        oldest_queued_seconds=get_oldest_queued_seconds(connection),
        stuck=count_stuck(connection, config=config),
        breakers=[one for one in breakers.list_breakers(connection) if one.state != _CLOSED],
        quotas=quotas.list_status(connection),
    )


def read_counters(connection: Connection) -> dict[str, int]:
    """Return every counter: `state:<state>`, `retired:<state>`, `count:<type>:<name>` and, in millionths, `sum:…`."""
    return {row.name: int(row.value) for row in connection.execute(load("metrics")["read_counters"])}


def count_states(counters: Mapping[str, int]) -> dict[WorkflowState, int]:
    """Return how many workflows each state has, according to the counters."""
    return {state: counters.get(f"state:{state}", 0) for state in WorkflowState}


def get_oldest_queued_seconds(connection: Connection) -> float | None:
    """Return how long the oldest claimable workflow has waited; `None` when there is none."""
    seconds = connection.execute(load("metrics")["find_oldest_queued"]).scalar_one()
    return round(float(seconds), 3) if seconds is not None else None


def count_stuck(connection: Connection, *, config: WorkflowConfig) -> int:
    """Return how many workflows are in a stage that should have ended long ago."""
    stuck_after = _STUCK_FACTOR * config.processing_timeout
    return int(connection.execute(load("metrics")["count_stuck"], {"stuck_after": stuck_after}).scalar_one())


def count_partitions_ahead(connection: Connection) -> int:
    """Return how many months after this one have their partition in every history."""
    return int(connection.execute(load("metrics")["count_partitions_ahead"]).scalar_one())


def _pace(connection: Connection, time_range: TimeRange) -> tuple[float, float | None]:
    """Return completions per hour and their average seconds from first stage to completion."""
    row = connection.execute(load("metrics")["get_pace"], {"time_range": time_range.length}).one()
    hours = time_range.length / timedelta(hours=1)
    return round(row.completed / hours, 1), round(float(row.average), 3) if row.average is not None else None
