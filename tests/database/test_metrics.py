"""The figures of windows and of the present, and what they cost where there is much to count."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from squorflow.config import WorkflowConfig
from squorflow.monitoring import metrics
from squorflow.monitoring.metrics import TimeRange, get_dashboard, get_metrics
from squorflow.monitoring.prometheus import METRICS, render_prometheus
from squorflow.monitoring.upkeep import run_upkeep
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.postgres.queries import load
from squorflow.states import STAGES, Stage, WorkflowState
from squorflow.workflow import leases
from squorflow.workflow.listing import count_states
from support import workflows
from support.plans import explain, read_by
from support.workflows import OTHER_RUN, Held, reach, rows


def _complete(database: Database, held: Held, *, measures: dict[str, float] | None = None) -> None:
    token = held.token
    for stage in STAGES:
        if stage is not Stage.DISCOVERY:
            token = workflows.acquire(database, held.workflow_id, stage=stage, owner=held.owner).token
        with database.begin() as connection:
            leases.finish(
                connection,
                held.workflow_id,
                stage=stage,
                token=token,
                actor="cli:test",
                output={},
                seconds=STAGES.index(stage) + 0.5,
                measures=measures or {} if stage is Stage.ENRICHMENT else {},
                keep_lease=None,
            )


def test_a_window_has_durations_errors_retries_throughput_and_what_models_cost(database: Database) -> None:
    _complete(database, workflows.hold_one(database), measures={"requests": 2, "tokens": 1500, "cost": 0.0004})
    retried = workflows.hold_one(database, owner=OTHER_RUN)
    workflows.fail(database, retried, action="retry", delay=timedelta(0))
    with database.begin() as connection:
        found = get_metrics(connection, time_range=TimeRange.HOUR)
    assert set(found.stage_durations) == {stage.value for stage in STAGES}
    assert found.stage_durations["enrichment"] == metrics.Durations(count=1, avg=2.5, p50=2.5, p95=2.5)
    assert found.state_durations["processing"].count == 2
    assert found.error_breakdown == {"NetworkError": 1}
    assert found.retry_counts == {str(retried.workflow_id): 1}
    assert found.throughput_per_hour == 1.0
    assert found.ai == metrics.AiUsage(requests=2, tokens=1500, cost=0.0004)


def test_percentiles_are_interpolated_and_old_measurements_do_not_count(database: Database) -> None:
    rows(
        database,
        "INSERT INTO workflow_metrics (metric_id, metric_type, metric_name, metric_value, created_at)"
        " SELECT uuid_v7(t.at), 'stage_duration', 'scoring', t.seconds, t.at"
        " FROM (SELECT i AS seconds, clock_timestamp() - interval '1 minute' AS at FROM generate_series(1, 101) AS i"
        " UNION ALL SELECT 9000, clock_timestamp() - interval '16 minutes') AS t",
    )
    with database.begin() as connection:
        short = get_metrics(connection, time_range=TimeRange.QUARTER_HOUR).stage_durations["scoring"]
        longer = get_metrics(connection, time_range=TimeRange.HOUR).stage_durations["scoring"]
    assert short == metrics.Durations(count=101, avg=51.0, p50=51.0, p95=96.0)
    assert longer.count == 102


def _measure_for_hours(database: Database, *, hours: int) -> None:
    """Measure every two minutes back from now: a stage, a state, an error, and tokens."""
    rows(
        database,
        "INSERT INTO workflow_metrics (metric_id, workflow_id, metric_type, metric_name, metric_value, created_at)"
        " SELECT uuid_v7(t.at), uuid_v7(), k.type, k.name, k.value, t.at"
        " FROM (SELECT i, clock_timestamp() - i * interval '2 minutes' AS at FROM generate_series(0, :n) AS i) AS t,"
        " LATERAL (VALUES ('stage_duration', 'scoring', 0.1 * (t.i % 100 + 1)),"
        " ('state_duration', 'processing', t.i % 7 * 10), ('error', 'NetworkError', 1), ('tokens', 'enrichment', 250),"
        " ('cost', 'enrichment', CASE t.i % 50 WHEN 0 THEN 'NaN' ELSE 0.5 END)) AS k (type, name, value)",
        n=30 * hours,
    )


@pytest.mark.parametrize("time_range", list(TimeRange))
def test_a_window_is_the_same_after_its_hours_were_summed_up_but_for_five_percent_of_its_percentiles(
    database: Database, config: WorkflowConfig, time_range: TimeRange
) -> None:
    _measure_for_hours(database, hours=40)
    with database.begin() as connection:
        before = get_metrics(connection, time_range=time_range)
    for _ in range(2):
        assert run_upkeep(database, config=config).problems == []
    _measure_for_hours(database, hours=0)
    with database.begin() as connection:
        after = get_metrics(connection, time_range=time_range)
    summed_up = rows(database, "SELECT count(DISTINCT hour), sum(measured) FROM workflow_metrics_hourly")[0]
    assert summed_up[0] in {39, 40}
    # A row or two may have left the window meanwhile, and a new one of each kind is there.
    assert before.error_breakdown["NetworkError"] - after.error_breakdown["NetworkError"] in {-1, 0, 1}
    assert abs(after.ai.tokens - before.ai.tokens) <= 500
    assert abs(after.ai.cost - before.ai.cost) <= 2
    for name, step in (("stage_durations", 0.1), ("state_durations", 10)):
        ((key, old),) = getattr(before, name).items()
        ((same_key, new),) = getattr(after, name).items()
        assert key == same_key
        assert abs(new.count - old.count) <= 1
        assert new.avg == pytest.approx(old.avg, rel=0.06, abs=step)
        assert new.p50 == pytest.approx(old.p50, rel=0.06, abs=step)
        assert new.p95 == pytest.approx(old.p95, rel=0.06, abs=step)


def test_what_no_figure_can_hold_is_counted_and_adds_nothing(database: Database, config: WorkflowConfig) -> None:
    _measure_for_hours(database, hours=10)
    rows(
        database,
        "INSERT INTO workflow_metrics (metric_id, metric_type, metric_name, metric_value, created_at)"
        " SELECT uuid_v7(t.at), 'stage_duration', 'odd', k.value, t.at"
        " FROM (SELECT clock_timestamp() - interval '5 hours' AS at) AS t,"
        " (VALUES ('NaN'::numeric), (1e30), (-1), (0)) AS k (value)",
    )
    assert run_upkeep(database, config=config).problems == []
    with database.begin() as connection:
        found = get_metrics(connection)
    assert found.stage_durations["odd"].count == 4
    assert found.stage_durations["odd"].avg == -0.25
    assert 0 < found.ai.cost <= 151


def test_sums_leave_with_their_measurements(database: Database, config: WorkflowConfig) -> None:
    rows(
        database,
        "INSERT INTO workflow_metrics_hourly (hour, metric_type, metric_name, bucket, measured, total)"
        " SELECT date_trunc('hour', now()) - d * interval '1 day', 'error', 'X', 0, 1, 1"
        " FROM unnest(ARRAY[89, 91]) AS d",
    )
    assert run_upkeep(database, config=config).problems == []
    assert len(rows(database, "SELECT FROM workflow_metrics_hourly")) == 1


def test_nothing_is_measured_with_metrics_switched_off_and_the_rest_stays(
    database: Database, config: WorkflowConfig
) -> None:
    quiet = Database(database.url, config=config.model_copy(update={"enable_metrics": False}))
    _complete(quiet, workflows.hold_one(quiet))
    with quiet.begin() as connection:
        found = get_metrics(connection)
        assert (found.state_durations, found.stage_durations, found.throughput_per_hour) == ({}, {}, round(1 / 24, 1))
        assert get_dashboard(connection, config=config).state_distribution["completed"] == 1
    quiet.close()


def test_the_dashboard_of_an_empty_database_is_all_zeros(database: Database, config: WorkflowConfig) -> None:
    with database.begin() as connection:
        found = get_dashboard(connection, config=config)
    assert (found.active_workflows, found.error_rate, found.throughput, found.stuck) == (0, 0.0, 0.0, 0)
    assert found.avg_processing_time is found.oldest_queued_seconds is None
    assert set(found.state_distribution.values()) == {0}


def test_the_dashboard_counts_like_the_queue_and_queued_is_no_part_of_the_error_rate(
    database: Database, config: WorkflowConfig
) -> None:
    with database.begin() as connection:
        for state in WorkflowState:
            reach(connection, state)
        reach(connection, WorkflowState.COMPLETED)
        reach(connection, WorkflowState.QUEUED)
        found = get_dashboard(connection, config=config)
        assert found.state_distribution == {state.value: count for state, count in count_states(connection).items()}
    assert found.active_workflows == 2
    assert found.error_rate == 25.0
    assert found.throughput == round(2 / 24, 1)
    assert found.oldest_queued_seconds is not None
    assert found.avg_processing_time is not None


def test_the_dashboard_shows_stuck_work_open_breakers_and_quotas(database: Database, config: WorkflowConfig) -> None:
    workflows.hold_one(database)
    rows(database, "UPDATE processing_queue SET locked_at = locked_at - interval '11 minutes'")
    rows(database, "INSERT INTO circuit_breaker (dependency) VALUES ('calm'), ('gemini')")
    rows(database, "UPDATE circuit_breaker SET breaker_state = 'open' WHERE dependency = 'gemini'")
    with database.begin() as connection:
        found = get_dashboard(connection, config=config)
    assert found.stuck == 1
    assert [one.dependency for one in found.breakers] == ["gemini"]


def test_what_is_measured_never_stops_the_work(database: Database) -> None:
    rows(
        database,
        "INSERT INTO workflow_metrics (metric_type, metric_name, metric_value)"
        " VALUES ('cost', 'enrichment', 'NaN'), ('cost', 'enrichment', 1e30), ('cost', 'enrichment', 0.5)",
    )
    with database.begin() as connection:
        counters = metrics.read_counters(connection)
    assert (counters["count:cost:enrichment"], counters["sum:cost:enrichment"]) == (3, 500_000)


def test_prometheus_gets_every_figure_and_counters_agree_with_the_database(
    database: Database, config: WorkflowConfig
) -> None:
    _complete(database, workflows.hold_one(database), measures={"requests": 1, "tokens": 10, "cost": 0.25})
    workflows.fail(
        database, workflows.hold_one(database, owner=OTHER_RUN), action="retry", details={"class": 'Odd"\nError'}
    )
    rows(database, "INSERT INTO event_subscription (handler) VALUES ('log')")
    rows(database, "INSERT INTO alert_incident (alert, subject, message) VALUES ('stuck', 'x', 'y')")
    families = {
        one.name: one for one in text_string_to_metric_families(render_prometheus(database, config=config).decode())
    }
    assert set(families) == set(METRICS)
    samples = {
        (sample.name, *sample.labels.values()): sample.value for one in families.values() for sample in one.samples
    }
    assert samples["squorflow_workflows", "retrying"] == 1
    assert samples["squorflow_workflows_ended_total", "completed"] == 1
    assert samples["squorflow_stage_duration_seconds_sum", "indexing"] == 5.5
    assert samples["squorflow_stage_duration_seconds_count", "indexing"] == 1
    assert samples["squorflow_errors_total", 'Odd"\nError'] == 1
    assert samples["squorflow_retries_total", "discovery"] == 1
    assert samples["squorflow_ai_cost_usd_total",] == 0.25
    assert samples["squorflow_ai_tokens_total",] == 10
    assert samples["squorflow_deliveries", "log", "dead"] == 0
    assert samples["squorflow_alerts_open", "stuck"] == 1
    assert samples["squorflow_partitions_ahead",] == 3


# Plans with 100,000 workflows and as many measurements, one a minute.

ROWS = 100_000


@pytest.fixture(scope="module")
def crowded(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    with workflows.cloned(postgres, template, name="crowded_metrics") as url:
        database = Database(url, config=WorkflowConfig())
        with database.begin() as connection:
            rows(
                connection,
                "INSERT INTO processing_queue (product_name, source_url) SELECT 'P ' || i, 'https://shop.example/' || i"
                " FROM generate_series(1, :n) AS i",
                n=ROWS,
            )
        for state in ("queued", "processing", "completed"):
            with database.begin() as connection:
                rows(
                    connection,
                    "UPDATE processing_queue SET workflow_state = CAST(:state AS text) WHERE product_name LIKE '%00'"
                    " AND (CAST(:state AS text) = 'queued' OR product_name LIKE :part)",
                    state=state,
                    part="%000" if state == "completed" else "%00",
                )
        with database.begin() as connection:
            rows(
                connection,
                "INSERT INTO workflow_metrics (metric_id, metric_type, metric_name, metric_value, created_at)"
                " SELECT uuid_v7(t.at), 'stage_duration', 'scoring', 1, t.at FROM"
                " (SELECT clock_timestamp() - i * interval '1 minute' AS at FROM generate_series(1, :n) AS i) AS t",
                n=ROWS,
            )
        with database.begin() as connection:
            rows(
                connection,
                "INSERT INTO workflow_anchor (workflow_id, sequence, workflow_state, state_since, hash)"
                " SELECT queue_id, trail_sequence, workflow_state, state_since, trail_hash FROM processing_queue"
                " LIMIT 50000",
            )
            rows(
                connection,
                "INSERT INTO event_delivery (event_id, handler, stream_id, position, status)"
                " SELECT uuid_v7(now() - i * interval '1 minute'), 'log', uuid_v7(), i, 'delivered'"
                " FROM generate_series(1, :n) AS i",
                n=ROWS,
            )
        with database.session() as session:
            session.execute(text("VACUUM ANALYZE processing_queue"))
            session.execute(text("ANALYZE workflow_anchor, event_delivery"))
            session.execute(text("ANALYZE workflow_metrics"))
        yield database
        database.close()


def test_throughput_is_read_from_its_index_alone(crowded: Database) -> None:
    plan = explain(crowded, "metrics", "get_pace", time_range=timedelta(seconds=1))
    assert read_by(plan, "processing_queue") == {"queue_completed"}


@pytest.mark.parametrize(
    ("name", "parameters", "indexes"),
    [
        ("count_stuck", {"stuck_after": timedelta(minutes=10)}, {"queue_listing"}),
        ("find_oldest_queued", {}, {"queue_claimable"}),
    ],
)
def test_figures_of_the_present_read_few_rows_of_the_queue(
    crowded: Database, name: str, parameters: dict[str, timedelta], indexes: set[str]
) -> None:
    assert read_by(explain(crowded, "metrics", name, **parameters), "processing_queue") == indexes


def test_counters_do_not_look_at_the_queue_at_all(crowded: Database) -> None:
    plan = explain(crowded, "metrics", "read_counters")
    assert {node["Relation Name"] for node in plan if "Relation Name" in node} == {
        "workflow_counter",
        "workflow_counter_delta",
    }


def test_a_window_reads_its_own_measurements_only(crowded: Database) -> None:
    plan = explain(
        crowded, "metrics", "summarize", metric_types=["stage_duration", "error"], time_range=timedelta(minutes=15)
    )
    assert not any("Seq Scan" in node["Node Type"] and node["Plan Rows"] > 1 for node in plan)


def test_a_long_window_is_read_from_its_sums_and_the_rows_beside_them(crowded: Database) -> None:
    with crowded.begin() as connection:
        rows(connection, "SELECT metrics_fold(24 * 80)")
        rows(connection, "ANALYZE workflow_metrics_hourly")
        window = connection.execute(load("metrics")["get_window"], {"time_range": timedelta(days=30)}).mappings().one()
    assert window["whole_until"] is not None
    plan = explain(crowded, "metrics", "list_buckets", metric_types=["stage_duration", "error"], **window)
    read = [node for node in plan if str(node.get("Relation Name", "")).startswith("workflow_metrics_2")]
    assert read
    assert all("Seq Scan" not in node["Node Type"] or node["Plan Rows"] <= 1 for node in read)
    # Of 43,200 measurements those of three hours at most: the one before the first whole hour, and the newest two.
    assert sum(node["Plan Rows"] for node in read) < 2000


def test_upkeep_looks_at_the_oldest_first_and_not_at_all_there_is(crowded: Database) -> None:
    retiring = explain(crowded, "upkeep", "retire_finished", state="completed", days=365, batch_size=1000)
    assert read_by(retiring, "processing_queue") <= {"queue_listing", "queue_completed", "processing_queue_pkey"}
    thinning = explain(crowded, "upkeep", "thin_deliveries", days=60, batch_size=1000)
    assert "Seq Scan" not in read_by(thinning, "event_delivery")
