"""A run under a real scheduler, dag-processor and api-server, and a person's hand on its buttons."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.airflow_api import DAG_RUNS, Api, running_airflow
from support.airflow_runs import Installation, crawled, hopeless
from support.image_server import Answer, ImageServer, picture

GOOD = [f"product {number}" for number in range(7)]
EVIL = "{{ 1 / 0 }}"


@pytest.fixture(scope="module")
def images() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


@pytest.fixture(scope="module")
def api(installation: Installation, images: ImageServer) -> Iterator[Api]:
    with running_airflow(installation, WORKFLOW_IMAGE_ALLOW=images.host) as api:
        yield api


@pytest.fixture(scope="module")
def run_id(installation: Installation, api: Api) -> str:
    """A run over eight good products, one of a hostile name, and one that only a person can help; it is over."""
    installation.enqueue(*[crawled(name) for name in [*GOOD, EVIL]], hopeless("hopeless"))
    run_id = api.start()
    api.wait_for_end(run_id)
    return run_id


def test_the_run_is_green_and_every_good_product_completed(installation: Installation, api: Api, run_id: str) -> None:
    assert api.get(f"{DAG_RUNS}/{run_id}")["state"] == "success"
    assert installation.states() == {**dict.fromkeys([*GOOD, EVIL], "completed"), "hopeless": "suspended"}


def test_the_grid_shows_products_by_name(api: Api, run_id: str) -> None:
    begun = {task["rendered_map_index"] for task in api.tasks(run_id) if task["task_id"] == "product.discovery"}
    assert begun == {*GOOD, EVIL, "hopeless"}


def test_bad_data_fails_its_task_at_once_and_only_its_own(api: Api, run_id: str) -> None:
    failed = [task for task in api.tasks(run_id) if task["state"] == "failed"]
    assert [(task["rendered_map_index"], task["try_number"]) for task in failed] == [("hopeless", 1)]


def test_neither_the_dag_nor_the_plugin_is_shown_with_an_error(api: Api, run_id: str) -> None:
    del run_id
    assert api.get("/api/v2/importErrors")["total_entries"] == 0
    assert api.get("/api/v2/plugins/importErrors")["total_entries"] == 0
    assert [plugin["name"] for plugin in api.get("/api/v2/plugins")["plugins"]].count("squorflow") == 1


def test_the_run_updated_the_asset_that_others_follow(api: Api, run_id: str) -> None:
    events = api.get("/api/v2/assets/events")["asset_events"]
    assert [(event["uri"], event["source_run_id"]) for event in events] == [("squorflow://products/", run_id)]


def test_a_persons_clear_takes_a_suspended_product_up_again(installation: Installation, api: Api, run_id: str) -> None:
    [task] = [
        task for task in api.tasks(run_id) if task["rendered_map_index"] == "hopeless" and task["state"] == "failed"
    ]
    api.clear(run_id, task)
    api.wait_for_end(run_id)
    trail = installation.query(
        """
        SELECT t.to_state, t.actor, t.reason FROM workflow_transitions AS t
        INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id
        WHERE q.product_name = 'hopeless' AND t.from_state = 'suspended'
        """
    )
    actor = f"airflow:product_workflow/{run_id}/{task['task_id']}[{task['map_index']}]#2"
    assert trail == [("queued", actor, "retried by hand in Airflow")]


def test_a_bulk_operation_asked_for_over_http_is_carried_out_by_a_run_of_its_own(
    installation: Installation, api: Api, run_id: str
) -> None:
    del run_id
    names = [f"recalled {number}" for number in range(3)]
    installation.enqueue(*[crawled(name, brand="Recalled") for name in names])
    api.wait_for(lambda: api.knows("workflow_bulk"))
    body = {"filter": {"brand": "recalled"}, "reason": "recalled by the maker"}
    operation = api.post("/api/v1/workflow/bulk/cancel", body)
    assert operation["total"] == 3
    path = f"/api/v1/workflow/bulk/{operation['operation_id']}"
    api.wait_for(lambda: api.get(path)["status"] == "done")
    assert {name: state for name, state in installation.states().items() if name in names} == dict.fromkeys(
        names, "cancelled"
    )
    run = f"/api/v2/dags/workflow_bulk/dagRuns/bulk__{operation['operation_id']}"
    api.wait_for(lambda: api.get(run)["state"] == "success")
    assert api.get(run)["triggering_user_name"] == "admin"


def test_a_wait_ends_though_no_triggerer_runs(installation: Installation, api: Api, images: ImageServer) -> None:
    busy = Answer(status=429, headers={"Retry-After": "6"})
    address = images.serve("/patient.png", busy, Answer(body=picture()))
    installation.enqueue(crawled("patient", images=[address], extracted_data={}))
    run_id = api.start()
    assert api.wait_for_end(run_id) == "success"
    fetch = api.task(run_id, "product.image_fetch", "patient")
    assert (fetch["state"], fetch["try_number"]) == ("success", 1)
    row = "SELECT workflow_state, retry_count FROM processing_queue WHERE product_name = 'patient'"
    assert installation.query(row) == [("completed", 0)]
