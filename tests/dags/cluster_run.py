"""The topology of docker-compose.airflow.yml without Docker: CeleryExecutor, Redis, two workers, one of them killed.

It takes minutes, so its name keeps it out of the suite: `make cluster` runs it and prints the figures.
SQUORFLOW_TEST_CLUSTER_PRODUCTS says how many products go through.
"""

from __future__ import annotations

import os
import shutil

import pytest

from squorflow.states import STAGES
from squorflow.workflow import audit
from support.airflow_runs import Installation, crawled
from support.cluster import WORKERS, running_cluster, wait_for_share
from support.results import record

PRODUCTS = int(os.environ.get("SQUORFLOW_TEST_CLUSTER_PRODUCTS", "200"))
PATIENCE_SECONDS = 900 + 60 * PRODUCTS

pytestmark = [
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="not available here: redis-server"),
    pytest.mark.timeout(2 * PATIENCE_SECONDS),
]


def test_a_worker_killed_half_way_costs_no_product_and_doubles_none(installation: Installation) -> None:
    installation.enqueue(*[crawled(f"product {number}") for number in range(PRODUCTS)])
    with running_cluster(installation) as cluster:
        seconds = wait_for_share(installation, cluster, count=PRODUCTS // 2, patience_seconds=PATIENCE_SECONDS)
        killed = cluster.kill(WORKERS[0])
        assert killed > 1
        seconds += wait_for_share(installation, cluster, count=PRODUCTS, patience_seconds=PATIENCE_SECONDS)

    ((completed, doubled),) = installation.query(
        """
        SELECT count(*) FILTER (WHERE w.completions = 1), count(*) FILTER (WHERE w.completions > 1)
        FROM (
            SELECT q.queue_id, count(*) FILTER (WHERE t.to_state = 'completed') AS completions
            FROM processing_queue AS q LEFT JOIN workflow_transitions AS t ON t.workflow_id = q.queue_id
            GROUP BY q.queue_id
        ) AS w
        """
    )
    stages = installation.query(
        "SELECT event_data ->> 'stage', count(*) FROM workflow_events WHERE event_type = 'stage_completed' GROUP BY 1"
    )
    ((lost_workers, stale),) = installation.query(
        """
        SELECT
            (SELECT count(*) FROM workflow_transitions
                WHERE to_state = 'failed' AND metadata ->> 'error' LIKE 'WorkerLost%'),
            (SELECT count(*) FROM workflow_events WHERE event_type = 'stale_write_rejected')
        """
    )
    record(
        "`make cluster`",
        {
            "products": PRODUCTS,
            "completed": completed,
            "lost": PRODUCTS - completed - doubled,
            "twice": doubled,
            "killed": f"1 of {len(WORKERS)} workers, {killed} processes",
            "stages taken over": lost_workers,
            "late writes refused": stale,
            "seconds": round(seconds),
            "products an hour": round(PRODUCTS * 3600 / seconds),
        },
    )
    assert (completed, doubled) == (PRODUCTS, 0)
    assert dict(stages) == dict.fromkeys([stage.value for stage in STAGES], PRODUCTS)
    assert installation.query("SELECT count(*) FROM product") == [(PRODUCTS,)]
    assert audit.verify(installation.database) == audit.Verification(workflows=PRODUCTS, problems=())
