"""What happens to products when a person presses Airflow's buttons, under a real scheduler; one Airflow for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from squorflow.workflow import audit
from support.airflow_api import DAG_RUNS, Api, running_airflow
from support.airflow_runs import Installation, crawled, hopeless

FETCH = "product.image_fetch"


@pytest.fixture(scope="module")
def api(installation: Installation) -> Iterator[Api]:
    with running_airflow(installation, WORKFLOW_IMAGE_ALLOW="127.0.0.1:9", WORKFLOW_FAILURE_TOLERANCE="1") as api:
        yield api
    assert audit.verify(installation.database).problems == ()


def trail(installation: Installation, name: str) -> list[tuple[str, str, str]]:
    """Return a product's steps: to which state, by whom, why."""
    return installation.query(  # type: ignore[return-value]
        """
        SELECT t.to_state, t.actor, t.reason FROM workflow_transitions AS t
        INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id
        WHERE q.product_name = :name ORDER BY t.sequence
        """,
        name=name,
    )


def state_of(installation: Installation, name: str) -> Any:
    return installation.states()[name]


def products_of(api: Api, run_id: str) -> dict[int, str]:
    """Return which product each index of a run has, by its first stage; tasks that never began have no name."""
    first = [one for one in api.tasks(run_id) if one["task_id"] == "product.discovery"]
    return {one["map_index"]: one["rendered_map_index"] for one in first}


def unreachable(name: str) -> dict[str, Any]:
    """Return a product that has only an image, at an address where nobody listens: it is retried in a minute."""
    return crawled(name, extracted_data={}, images=["http://127.0.0.1:9/picture.png"])


@pytest.fixture(scope="module")
def ended(installation: Installation, api: Api) -> str:
    """A run that is over: one product completed, two suspended at their second stage."""
    installation.enqueue(crawled("fine"), hopeless("poor"), hopeless("poorer"))
    run_id = api.start()
    api.wait_for_end(run_id)
    assert installation.states() == {"fine": "completed", "poor": "suspended", "poorer": "suspended"}
    return run_id


def test_clearing_a_stage_of_a_completed_product_recomputes_nothing(
    installation: Installation, api: Api, ended: str
) -> None:
    before = trail(installation, "fine")
    checkpoints = installation.query("SELECT workflow_id, stage, created_at FROM workflow_checkpoint ORDER BY 1, 2")
    api.clear(ended, api.task(ended, "product.scoring", "fine"))
    api.wait_for_end(ended)
    cleared = api.task(ended, "product.scoring", "fine")
    assert (cleared["state"], cleared["try_number"]) == ("success", 2)
    assert trail(installation, "fine") == before
    assert checkpoints == installation.query(
        "SELECT workflow_id, stage, created_at FROM workflow_checkpoint ORDER BY 1, 2"
    )


def test_a_mark_of_one_product_does_not_revive_others_though_airflow_runs_their_tasks_again(
    installation: Installation, api: Api, ended: str
) -> None:
    before = {name: trail(installation, name) for name in ("fine", "poor", "poorer")}
    api.mark(ended, api.task(ended, "product.discovery", "fine"), "failed")
    api.wait_for(lambda: api.task(ended, FETCH, "poor")["try_number"] == 2)
    api.wait_for_end(ended)
    assert [api.task(ended, FETCH, name)["state"] for name in ("poor", "poorer")] == ["skipped", "skipped"]
    assert {name: trail(installation, name) for name in before} == before


def test_a_clear_after_that_is_a_persons_and_takes_its_product_up_again(
    installation: Installation, api: Api, ended: str
) -> None:
    others = trail(installation, "poorer")
    api.clear(ended, api.task(ended, FETCH, "poor"))
    api.wait_for_end(ended)
    assert "retried by hand in Airflow" in [reason for _, _, reason in trail(installation, "poor")]
    assert state_of(installation, "poor") == "suspended"
    assert trail(installation, "poorer") == others


def test_clearing_the_whole_run_gives_every_index_the_same_product_again(
    installation: Installation, api: Api, ended: str
) -> None:
    before = products_of(api, ended)
    assert set(before.values()) == {"fine", "poor", "poorer"}
    fine = trail(installation, "fine")
    installation.enqueue(crawled("newcomer"))
    api.clear(ended)
    api.wait_for_end(ended)
    assert products_of(api, ended) == before
    assert trail(installation, "fine") == fine
    assert state_of(installation, "newcomer") == "queued"


def test_marking_what_waits_for_its_retry_suspends_it_with_that_reason(installation: Installation, api: Api) -> None:
    installation.enqueue(unreachable("marked failed"), unreachable("marked success"))
    run_id = api.start()
    for name in ("marked failed", "marked success"):
        api.wait_for(lambda name=name: installation.states()[name] == "retrying")
        api.wait_for(lambda name=name: api.task(run_id, FETCH, name)["state"] == "up_for_retry")
    api.mark(run_id, api.task(run_id, FETCH, "marked failed"), "failed")
    api.mark(run_id, api.task(run_id, FETCH, "marked success"), "success")
    assert state_of(installation, "marked failed") == state_of(installation, "marked success") == "suspended"
    _, actor, reason = trail(installation, "marked success")[-1]
    assert actor.startswith(f"airflow:product_workflow/{run_id}/{FETCH}[")
    assert reason == "image_fetch was marked success by a person in Airflow, but it was not done"
    api.wait_for_end(run_id)
    assert state_of(installation, "marked success") == "suspended"


def test_a_run_marked_failed_gives_its_products_back_at_once(installation: Installation, api: Api) -> None:
    name = "run marked failed"
    installation.enqueue(unreachable(name))
    run_id = api.start()
    api.wait_for(lambda: installation.states().get(name) == "retrying")
    api.patch(f"{DAG_RUNS}/{run_id}", {"state": "failed"})
    [(owner,)] = installation.query("SELECT locked_by FROM processing_queue WHERE product_name = :name", name=name)
    assert owner is None
