"""Names of owners and actors, and what is concluded from Airflow's answers about runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squorflow.airflow.ownership import (
    OwnerKind,
    RunOwner,
    actor_name,
    dead_map_indexes,
    make_liveness,
    make_still_running,
)
from squorflow.recovery.unreported import Silent
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

    def get_task_states(
        self, dag_id: str, *, task_ids: list[str] | None = None, task_group_id: str | None = None, run_ids: list[str]
    ) -> Mapping[str, Any]:
        assert task_ids is None
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


class Tasks(Airflow):
    """Answers about single tasks, as the execution API does, and remembers the questions."""

    def __init__(self, runs: Mapping[str, Mapping[str, str | None]]) -> None:
        super().__init__(runs)
        self.questions: list[tuple[str, list[str], list[str]]] = []

    def get_task_states(
        self, dag_id: str, *, task_ids: list[str] | None = None, task_group_id: str | None = None, run_ids: list[str]
    ) -> Mapping[str, Any]:
        assert task_ids is not None
        assert task_group_id is None
        self.questions.append((dag_id, task_ids, run_ids))
        return {
            run_id: {key: state for key, state in self.runs[run_id].items() if key.rpartition("_")[0] in task_ids}
            for run_id in run_ids
            if run_id in self.runs
        }


def silent(map_index: int, stage: Stage = Stage.IMAGE_FETCH, *, owner: str = owner("a")) -> Silent:
    return Silent(workflow_id=uuid4(), owner=owner, map_index=map_index, stage=stage, token=1)


@pytest.mark.parametrize(
    "state", ["queued", "scheduled", "deferred", "up_for_retry", "restarting", "success", "failed", None]
)
def test_only_a_running_task_runs(state: str | None) -> None:
    airflow = Tasks({"a": {"product.image_fetch_7": state, "product.image_fetch_12": "running"}})
    asked = [silent(7), silent(12), silent(1)]
    assert make_still_running(airflow)(asked) == [asked[1]]


def test_each_done_stage_is_asked_about_once_for_the_runs_it_is_done_in() -> None:
    airflow = Tasks(
        {
            "a": {"product.image_fetch_1": "success", "product.enrichment_1": "running"},
            "b": {"product.image_fetch_1": "running", "product.enrichment_1": None},
        }
    )
    asked = [silent(1), silent(1, owner=owner("b")), silent(1, Stage.DISCOVERY), silent(1, owner=owner("gone"))]
    assert make_still_running(airflow)(asked) == [asked[1]]
    assert airflow.questions == [
        ("product_workflow", ["product.image_fetch"], ["a", "b", "gone"]),
        ("product_workflow", ["product.discovery"], ["a"]),
    ]


def test_of_what_airflow_does_not_answer_nothing_runs(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Tasks):
        def get_task_states(self, dag_id: str, **_: Any) -> Mapping[str, Any]:  # type: ignore[override]
            raise ConnectionError(f"no answer about {dag_id}")

    assert make_still_running(Broken({}))([silent(1)]) == []
    assert "ConnectionError: no answer about product_workflow" in caplog.text


def test_owners_that_are_no_runs_are_not_asked_about() -> None:
    airflow = Tasks({})
    assert make_still_running(airflow)([silent(1, owner="worker:host/7/0c9d")]) == []
    assert airflow.questions == []
