"""Names of owners and actors, and what is concluded from Airflow's answers about runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squorflow.airflow.ownership import (
    OwnerKind,
    RunOwner,
    actor_name,
    dead_map_indexes,
    find_running,
    make_liveness,
    stage_of,
)
from squorflow.states import Stage
from support.airflow_runs import RUN, make_context

ME = RunOwner(kind=OwnerKind.AIRFLOW, instance="airflow", dag_id="product_workflow", run_id="me")
IN_DAG_TEST = RunOwner(kind=OwnerKind.DAG_TEST, instance="airflow", dag_id="product_workflow", run_id="me")

names = st.text(alphabet="abcXYZ019._-", min_size=1)
run_ids = st.text(min_size=1)


class Airflow:
    """Answers as the execution API does, for runs given with the states of their tasks."""

    def __init__(self, runs: Mapping[str, Mapping[str, str | None]]) -> None:
        self.runs = runs
        self.asked: list[str] = []

    def get_dr_count(self, dag_id: str, *, run_ids: list[str], states: list[str]) -> int:
        assert dag_id == "product_workflow"
        assert set(states) == {"queued", "running"}
        self.asked += run_ids
        return sum(run_id in self.runs for run_id in run_ids)

    def get_task_states(self, dag_id: str, *, task_group_id: str, run_ids: list[str]) -> Mapping[str, Any]:
        assert (dag_id, task_group_id) == ("product_workflow", "product")
        return {run_id: self.runs[run_id] for run_id in run_ids if self.runs[run_id]}


class UnreachableAirflow(Airflow):
    """Answers nothing."""

    def get_dr_count(self, dag_id: str, *, run_ids: list[str], states: list[str]) -> int:
        raise ConnectionError(f"no answer about {dag_id} {run_ids} {states}")


def owner(run_id: str, *, kind: str = "airflow", instance: str = "airflow") -> str:
    return f"{kind}:{instance}/product_workflow/{run_id}"


@given(kind=st.sampled_from(OwnerKind), instance=names, dag_id=names, run_id=run_ids)
def test_an_owner_name_reads_back_whatever_the_run_is_called(
    kind: OwnerKind, instance: str, dag_id: str, run_id: str
) -> None:
    named = RunOwner(kind=kind, instance=instance, dag_id=dag_id, run_id=run_id)
    assert RunOwner.parse(str(named)) == named


@pytest.mark.parametrize(
    "name", ["", "worker:host/12/3f", "airflow:", "airflow:x/y", "airflow:x//y", "api:x/y/z", "x/y/z"]
)
def test_other_names_are_not_taken_for_runs(name: str) -> None:
    assert RunOwner.parse(name) is None


def test_a_run_of_the_scheduler_is_an_airflow_owner() -> None:
    assert str(RunOwner.of(make_context(), instance="berlin")) == f"airflow:berlin/product_workflow/{RUN}"


def test_a_scheduled_run_which_nobody_triggered_is_an_airflow_owner() -> None:
    assert RunOwner.of(make_context(user=None), instance="berlin").kind is OwnerKind.AIRFLOW


def test_a_run_of_dags_test_says_so_in_its_owner_name() -> None:
    assert str(RunOwner.of(make_context(user="dag_test"), instance="a")) == f"dagtest:a/product_workflow/{RUN}"


def test_the_actor_names_run_task_index_and_try() -> None:
    instance = make_context(try_number=3)["ti"]
    assert actor_name(instance) == f"airflow:product_workflow/{RUN}/product.scoring[4]#3"


@pytest.mark.parametrize("map_index", [-1, None])
def test_the_actor_of_an_unmapped_task_has_no_index(map_index: int | None) -> None:
    instance = SimpleNamespace(dag_id="d", run_id="r", task_id="pull", map_index=map_index, try_number=1)
    assert actor_name(instance) == "airflow:d/r/pull#1"


def test_a_run_that_airflow_does_not_count_as_queued_or_running_is_dead() -> None:
    lives = make_liveness(Airflow({}), myself=ME)([owner("gone")])
    assert not lives[owner("gone")].alive


def test_a_live_run_is_alive_and_names_its_dead_products() -> None:
    states = {"product.scoring_0": "failed", "product.scoring_1": "running", "product.scoring_2": "success"}
    lives = make_liveness(Airflow({"other": states}), myself=ME)([owner("other")])
    assert lives[owner("other")].alive
    assert lives[owner("other")].dead_map_indexes == {0}
    assert lives[owner("other")].running == {(1, Stage.SCORING)}


def test_a_live_run_without_tasks_yet_is_alive() -> None:
    lives = make_liveness(Airflow({"new": {}}), myself=ME)([owner("new")])
    assert lives[owner("new")].alive
    assert lives[owner("new")].dead_map_indexes == frozenset()


def test_the_run_that_asks_is_alive_without_asking() -> None:
    airflow = Airflow({"me": {}})
    assert make_liveness(airflow, myself=ME)([str(ME)])[str(ME)].alive
    assert airflow.asked == []


@pytest.mark.parametrize("name", [owner("x", instance="paris"), "worker:host/12/3f"])
def test_owners_of_others_are_not_judged(name: str) -> None:
    airflow = Airflow({})
    assert make_liveness(airflow, myself=ME)([name]) == {}
    assert airflow.asked == []


def test_what_airflow_does_not_answer_is_unknown() -> None:
    assert make_liveness(UnreachableAirflow({}), myself=ME)([owner("a"), owner("b")]) == {}


def test_a_dags_test_knows_that_earlier_ones_are_dead_though_their_runs_say_running() -> None:
    earlier = owner("earlier", kind="dagtest")
    airflow = Airflow({"earlier": {}, "me": {}})
    lives = make_liveness(airflow, myself=IN_DAG_TEST)([earlier, str(IN_DAG_TEST)])
    assert not lives[earlier].alive
    assert lives[str(IN_DAG_TEST)].alive


def test_a_dags_test_asks_about_scheduled_runs() -> None:
    assert make_liveness(Airflow({"other": {}}), myself=IN_DAG_TEST)([owner("other")])[owner("other")].alive


def test_a_scheduled_run_goes_by_the_state_of_a_dags_test_which_the_scheduler_resumes() -> None:
    left = owner("left", kind="dagtest")
    assert make_liveness(Airflow({"left": {}}), myself=ME)([left])[left].alive


@pytest.mark.parametrize("state", ["failed", "upstream_failed", "removed"])
def test_a_product_whose_task_ended_badly_is_dead(state: str) -> None:
    assert dead_map_indexes({"product.discovery_7": "success", "product.image_fetch_7": state}) == {7}


@pytest.mark.parametrize(
    "state", ["running", "deferred", "queued", "scheduled", "up_for_retry", "up_for_reschedule", "restarting"]
)
def test_a_product_with_a_task_under_way_is_not_dead(state: str) -> None:
    assert dead_map_indexes({"product.discovery_7": "failed", "product.image_fetch_7": state}) == frozenset()


def test_a_product_between_two_stages_is_not_dead() -> None:
    assert dead_map_indexes({"product.discovery_7": "success", "product.image_fetch_7": None}) == frozenset()


def test_unmapped_tasks_say_nothing_about_products() -> None:
    assert dead_map_indexes({"pull": "failed", "product.image_fetch": "upstream_failed"}) == frozenset()


@pytest.mark.parametrize("state", ["queued", "scheduled", "deferred", "up_for_retry", "restarting", "success", None])
def test_only_a_running_task_is_running(state: str | None) -> None:
    assert find_running({"product.image_fetch_7": state, "product.image_fetch_12": "running"}) == {
        (12, Stage.IMAGE_FETCH)
    }


def test_running_tasks_that_are_no_stages_of_products_are_passed_over() -> None:
    states = {
        "pull": "running",
        "other.scoring_1": "running",
        "product.scoring": "running",
        "product.else_1": "running",
    }
    assert find_running(states) == frozenset()


@pytest.mark.parametrize(
    ("task_id", "stage"),
    [("product.image_fetch", Stage.IMAGE_FETCH), ("image_fetch", None), ("product.pull", None), ("close", None)],
)
def test_the_stage_of_a_task(task_id: str, stage: Stage | None) -> None:
    assert stage_of(task_id) is stage
