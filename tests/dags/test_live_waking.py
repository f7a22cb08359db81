"""Runs that start by themselves, waits without a worker, several runs at once and a pause, under a real triggerer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from squorflow.workflow import audit
from support.airflow_api import DAG_RUNS, Api, running_airflow
from support.airflow_runs import Installation, crawled
from support.image_server import Answer, ImageServer, picture

DAG = "/api/v2/dags/product_workflow"
FETCH = "product.image_fetch"
ROW = "SELECT workflow_state, retry_count FROM processing_queue WHERE product_name = :name"
RUNS_OF_EACH = """
SELECT q.product_name, array_agg(DISTINCT substring(t.actor FROM 'airflow:product_workflow/([^/]+)/'))
FROM workflow_transitions AS t INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id
WHERE t.to_state = 'processing' AND q.product_name LIKE :pattern GROUP BY 1
"""
WAKES = """
SELECT count(*) FROM workflow_transitions AS t INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id
WHERE q.product_name = :name AND t.from_state = 'waiting' AND t.to_state = 'processing'
"""


@pytest.fixture(scope="module")
def images() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


@pytest.fixture(scope="module")
def api(installation: Installation, images: ImageServer) -> Iterator[Api]:
    settings = {"WORKFLOW_SCHEDULE": "0 0 29 2 *", "WORKFLOW_IMAGE_ALLOW": images.host}
    with running_airflow(installation, triggerer=True, **settings) as api:
        yield api
    assert audit.verify(installation.database).problems == ()


def run_of(installation: Installation, name: str) -> str:
    """Return the run that owns a product."""
    [(owner,)] = installation.query("SELECT locked_by FROM processing_queue WHERE product_name = :name", name=name)
    return str(owner).rpartition("/")[2]


def test_queued_products_start_a_run_by_themselves_and_a_burst_starts_few(installation: Installation, api: Api) -> None:
    names = [f"burst {number}" for number in range(10)]
    for name in names:
        installation.enqueue(crawled(name))
    api.wait_for(lambda: installation.states() == dict.fromkeys(names, "completed"))
    runs = api.get(DAG_RUNS)["dag_runs"]
    assert {run["run_type"] for run in runs} == {"asset_triggered"}
    assert len(runs) < len(names) / 2
    for run in runs:
        api.wait_for_end(run["dag_run_id"])


def waits_a_while(images: ImageServer, name: str) -> dict[str, object]:
    """Return a product that has only an image, whose host wants to be asked again so late that it is seen to wait."""
    busy = Answer(status=429, headers={"Retry-After": "25"})
    address = images.serve(f"/{name.replace(' ', '-')}.png", busy, Answer(body=picture()))
    return crawled(name, images=[address], extracted_data={})


def test_a_wait_is_deferred_to_the_triggerer_and_costs_neither_a_try_nor_a_worker(
    installation: Installation, api: Api, images: ImageServer
) -> None:
    installation.enqueue(waits_a_while(images, "patient"))
    api.wait_for(lambda: installation.query(ROW, name="patient") == [("waiting", 0)])
    run_id = run_of(installation, "patient")
    api.wait_for(lambda: api.task(run_id, FETCH, "patient")["state"] == "deferred")
    api.wait_for_end(run_id)
    assert installation.query(ROW, name="patient") == [("completed", 0)]
    assert installation.query(WAKES, name="patient") == [(1,)]
    assert api.task(run_id, FETCH, "patient")["try_number"] == 1


def test_a_pause_in_the_middle_keeps_the_products_and_the_run_goes_on_after_it(
    installation: Installation, api: Api, images: ImageServer
) -> None:
    installation.enqueue(waits_a_while(images, "paused"))
    api.wait_for(lambda: installation.query(ROW, name="paused") == [("waiting", 0)])
    run_id = run_of(installation, "paused")
    api.patch(DAG, {"is_paused": True})
    # Its wait ends; nobody starts its next try while the DAG is paused, and nobody takes it from its run.
    api.wait_for(lambda: api.task(run_id, FETCH, "paused")["state"] == "scheduled")
    chores = api.post("/api/v2/dags/workflow_maintenance/dagRuns", {"logical_date": None})["dag_run_id"]
    api.wait_for(lambda: api.get(f"/api/v2/dags/workflow_maintenance/dagRuns/{chores}")["state"] == "success")
    assert installation.query(ROW, name="paused") == [("waiting", 0)]
    api.patch(DAG, {"is_paused": False})
    assert api.wait_for_end(run_id) == "success"
    assert installation.query(ROW, name="paused") == [("completed", 0)]
    assert len(installation.query(RUNS_OF_EACH, pattern="paused")[0][1]) == 1


def test_two_runs_at_once_never_have_the_same_product(installation: Installation, api: Api) -> None:
    names = [f"shared {number}" for number in range(8)]
    # Paused, so that both runs are there before either pulls.
    api.patch(DAG, {"is_paused": True})
    installation.enqueue(*[crawled(name) for name in names])
    chosen = [api.start(batch_size=4), api.start(batch_size=4)]
    api.patch(DAG, {"is_paused": False})
    for run_id in chosen:
        assert api.wait_for_end(run_id) == "success"
    assert {installation.states()[name] for name in names} == {"completed"}
    shares = installation.query(RUNS_OF_EACH, pattern="shared %")
    assert sorted(len(runs) for _, runs in shares) == [1] * len(names)
    assert {run for _, [run] in shares} == set(chosen)
