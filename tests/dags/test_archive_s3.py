"""History in an object store: nothing leaves the database that the store does not give back as it was written."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from typing import Any

import pytest

from squorflow.config import WorkflowConfig
from squorflow.monitoring.archive import verify_archive
from squorflow.monitoring.heads import compare_heads
from squorflow.monitoring.upkeep import run_upkeep
from squorflow.postgres.database import Database
from squorflow.products.object_store import ObjectStore
from squorflow.states import WorkflowState
from squorflow.workflow import audit
from support.aging import make_old
from support.s3 import BUCKET
from support.workflows import rows, value

OLD = timedelta(days=430)


@pytest.fixture
def config(config: WorkflowConfig) -> WorkflowConfig:
    """Settings whose archive is the bucket."""
    return config.model_copy(update={"archive_store": f"s3://aws_default@{BUCKET}/archive"})


def _keys(bucket: Any) -> list[str]:
    return [one.key for one in bucket.objects.all()]


def _attached(database: Database) -> int:
    return int(value(database, "SELECT count(*) FROM workflow_transitions"))


def test_months_lie_in_the_bucket_and_are_proven_before_they_leave(
    database: Database, config: WorkflowConfig, bucket: Any
) -> None:
    finished = make_old(database, WorkflowState.COMPLETED, age=OLD)
    report = run_upkeep(database, config=config)
    assert (report.problems, len(report.archived), report.retired) == ([], 3, 1)
    assert _attached(database) == 0
    (trail,) = [one for one in _keys(bucket) if one.startswith("archive/workflow_transitions/")]
    lines = [json.loads(line) for line in gzip.decompress(bucket.Object(trail).get()["Body"].read()).splitlines()]
    assert [(line["workflow_id"], line["to_state"]) for line in lines] == [
        (str(finished), state) for state in ("created", "queued", "processing", "completed")
    ]
    assert audit.verify(database).problems == ()
    assert verify_archive(database, config=config) == (3, [])
    assert compare_heads(database, config=config) == (1, [])
    bucket.Object(trail).put(Body=b"something else")
    assert len(verify_archive(database, config=config)[1]) == 1


def test_a_month_that_the_bucket_gives_back_otherwise_stays_in_the_database(
    database: Database, config: WorkflowConfig, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    put = ObjectStore.put

    def put_and_meddle(self: ObjectStore, content: Any, key: str, **named: Any) -> None:
        put(self, content, key, **named)
        if key.startswith("workflow_transitions/"):
            written = gzip.decompress(bucket.Object(f"archive/{key}").get()["Body"].read())
            forged = gzip.compress(written.replace(b"completed", b"cancelled"))
            bucket.Object(f"archive/{key}").put(Body=forged)

    monkeypatch.setattr(ObjectStore, "put", put_and_meddle)
    report = run_upkeep(database, config=config)
    (problem,) = report.problems
    assert "do not hold" in problem
    assert (_attached(database), report.retired) == (4, 0)
    monkeypatch.undo()


def test_a_bucket_out_of_reach_keeps_everything_and_the_rest_of_upkeep_is_done(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {
        "conn_type": "aws",
        "login": "testing",
        "password": "testing",
        "extra": {"endpoint_url": "http://127.0.0.1:1", "config_kwargs": {"retries": {"max_attempts": 0}}},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_AWAY", json.dumps(connection))
    make_old(database, WorkflowState.COMPLETED, age=OLD)
    rows(
        database,
        "INSERT INTO event_delivery (event_id, handler, stream_id, position, status)"
        " VALUES (uuid_v7(now() - interval '20 days'), 'log', uuid_v7(), 1, 'delivered')",
    )
    away = config.model_copy(update={"archive_store": f"s3://aws_away@{BUCKET}/archive"})
    report = run_upkeep(database, config=away)
    (problem,) = report.problems
    assert problem.startswith("nothing was archived: ")
    assert "testing" not in problem
    assert (_attached(database), report.archived, report.deliveries_thinned) == (4, [], 1)
