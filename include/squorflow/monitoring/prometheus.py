"""The figures in Prometheus' text form, read from Postgres at each scrape: any process may answer for all of them.

Owns names and labels (`METRICS`). Every query behind them is bounded; the endpoint itself belongs to the API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from squorflow.monitoring import metrics
from squorflow.postgres.queries import load
from squorflow.recovery import breakers, quotas
from squorflow.states import STAGES, WorkflowState

if TYPE_CHECKING:
    from prometheus_client import Metric
    from sqlalchemy import Connection

    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_MILLION = 1_000_000

METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "squorflow_workflows": ("gauge", "Workflows by state.", ("state",)),
    "squorflow_workflows_ended": ("counter", "Workflows that ended, retired ones included.", ("state",)),
    "squorflow_oldest_queued_seconds": ("gauge", "How long the oldest claimable workflow has waited.", ()),
    "squorflow_stuck_workflows": ("gauge", "Workflows in a stage that should have ended long ago.", ()),
    "squorflow_stage_duration_seconds": ("summary", "Seconds that finished stages took.", ("stage",)),
    "squorflow_errors": ("counter", "Stages that failed, by the class of their error.", ("error",)),
    "squorflow_retries": ("counter", "Retries that counted, by stage.", ("stage",)),
    "squorflow_ai_requests": ("counter", "Requests to models.", ()),
    "squorflow_ai_tokens": ("counter", "Tokens sent to and got from models.", ()),
    "squorflow_ai_cost_usd": ("counter", "Cost of models in US dollars.", ()),
    "squorflow_breaker_open": ("gauge", "1 while a dependency is not called, or being probed.", ("dependency",)),
    "squorflow_quota_used_ratio": ("gauge", "What is used of a quota; 1 is all of it.", ("dependency", "quota")),
    "squorflow_deliveries": ("gauge", "Undelivered events by handler, up to 10,000.", ("handler", "status")),
    "squorflow_alerts_open": ("gauge", "Open incidents by alert.", ("alert",)),
    "squorflow_partitions_ahead": ("gauge", "Months for which partitions exist; fewer than 2 is an alarm.", ()),
}
"""Name to kind, help and labels. Counters are exposed with the suffix `_total`, summaries with `_count` and `_sum`."""


def render_prometheus(database: Database, *, config: WorkflowConfig) -> bytes:
    """Return all figures in Prometheus' text form (`CONTENT_TYPE`)."""
    from prometheus_client import CollectorRegistry, generate_latest

    with database.begin() as connection:
        families = list(_collect(connection, config=config))

    class Collected:
        def collect(self) -> Iterator[Metric]:
            return iter(families)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    return generate_latest(registry)


def _collect(connection: Connection, *, config: WorkflowConfig) -> Iterator[Metric]:
    counters = metrics.read_counters(connection)
    yield from _count_workflows(counters)
    yield from _count_measured(counters)
    oldest = metrics.get_oldest_queued_seconds(connection)
    yield _family("squorflow_oldest_queued_seconds", {(): oldest or 0.0})
    yield _family("squorflow_stuck_workflows", {(): metrics.count_stuck(connection, config=config)})
    yield _family(
        "squorflow_breaker_open",
        {(one.dependency,): float(one.state != "closed") for one in breakers.list_breakers(connection)},
    )
    yield _family(
        "squorflow_quota_used_ratio",
        {(one.dependency, one.quota): one.share for one in quotas.list_status(connection) if one.share is not None},
    )
    queries = load("prometheus")
    deliveries = connection.execute(queries["count_deliveries"])
    yield _family("squorflow_deliveries", {(row.handler, row.status): row.deliveries for row in deliveries})
    incidents = connection.execute(queries["count_incidents"])
    yield _family("squorflow_alerts_open", {(row.alert,): row.incidents for row in incidents})
    yield _family("squorflow_partitions_ahead", {(): metrics.count_partitions_ahead(connection)})


def _count_workflows(counters: Mapping[str, int]) -> Iterator[Metric]:
    states = metrics.count_states(counters)
    yield _family("squorflow_workflows", {(state.value,): count for state, count in states.items()})
    yield _family(
        "squorflow_workflows_ended",
        {
            (state.value,): states[state] + counters.get(f"retired:{state}", 0)
            for state in (WorkflowState.COMPLETED, WorkflowState.CANCELLED)
        },
    )


def _count_measured(counters: Mapping[str, int]) -> Iterator[Metric]:
    """Yield what the trigger on `workflow_metrics` has counted; nothing measured yet is zero, not absent."""
    stages = _family("squorflow_stage_duration_seconds", {})
    for stage in STAGES:
        count, total = (counters.get(f"{kind}:stage_duration:{stage}", 0) for kind in ("count", "sum"))
        stages.add_metric([stage.value], count_value=count, sum_value=total / _MILLION)
    yield stages
    errors = "count:error:"
    yield _family(
        "squorflow_errors",
        {(name.removeprefix(errors),): value for name, value in sorted(counters.items()) if name.startswith(errors)},
    )
    yield _family("squorflow_retries", {(stage.value,): counters.get(f"count:retry:{stage}", 0) for stage in STAGES})
    for name, measured in (("requests", "requests"), ("tokens", "tokens"), ("cost_usd", "cost")):
        total = sum(value for key, value in counters.items() if key.startswith(f"sum:{measured}:"))
        yield _family(f"squorflow_ai_{name}", {(): total / _MILLION})


def _family(name: str, values: Mapping[tuple[str, ...], float]) -> Any:
    from prometheus_client import core

    kind, description, labels = METRICS[name]
    family = {
        "gauge": core.GaugeMetricFamily,
        "counter": core.CounterMetricFamily,
        "summary": core.SummaryMetricFamily,
    }[kind](name, description, labels=labels)
    for of, value in values.items():
        family.add_metric(list(of), value)
    return family
