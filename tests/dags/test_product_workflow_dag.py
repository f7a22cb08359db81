"""The shape of `product_workflow`: what a parse of its file gives, before anything runs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import Asset, AssetAll, AssetOrTimeSchedule, CronTriggerTimetable
from airflow.triggers.base import TriggerEvent
from sqlalchemy import create_engine

from squorflow.airflow.batch import PRODUCTS
from squorflow.airflow.operators import StageOperator
from squorflow.airflow.retry import AIRFLOW_RETRIES, WorkflowRetryPolicy
from squorflow.airflow.wake import WORK, WorkDueTrigger, make_schedule
from squorflow.airflow.weights import MOST_EXPRESS, seconds_since_epoch
from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError
from squorflow.stages import STAGE_MODULES
from squorflow.states import STAGES, Stage
from squorflow.workflow.queue import LARGEST_CLAIM
from squorflow.workflow.waking import BATCHES_IN_HAND
from support.airflow_runs import load_dag

if TYPE_CHECKING:
    from airflow.sdk import DAG

GROUP = [f"product.{stage}" for stage in Stage]


@pytest.fixture(scope="module")
def dag() -> DAG:
    return load_dag()


def stages_of(dag: DAG) -> list[StageOperator]:
    found = [dag.get_task(task_id) for task_id in GROUP]
    return [task for task in found if isinstance(task, StageOperator)]


def test_its_tasks_are_pull_one_per_stage_and_close(dag: DAG) -> None:
    assert set(dag.task_ids) == {"pull", *GROUP, "close"}


def test_the_task_of_each_stage_runs_that_stage(dag: DAG) -> None:
    assert [task.stage for task in stages_of(dag)] == list(STAGES) == list(STAGE_MODULES)


def test_the_stages_run_in_order_between_pull_and_close(dag: DAG) -> None:
    assert dag.get_task("pull").downstream_task_ids == set(GROUP)
    line = [*GROUP, "close"]
    for task_id, following in pairwise(line):
        assert dag.get_task(task_id).downstream_task_ids == {following}


def test_the_stages_are_mapped_over_what_pull_returns(dag: DAG) -> None:
    assert list(dag.get_task("pull").iter_mapped_dependants()) == [dag.task_group.children["product"]]


def test_close_runs_whatever_happened_before(dag: DAG) -> None:
    assert dag.get_task("close").trigger_rule == "all_done"


def test_close_updates_the_asset_that_other_dags_follow(dag: DAG) -> None:
    assert dag.get_task("close").outlets == [PRODUCTS]
    assert Asset(name="squorflow_products", uri="squorflow://products") == PRODUCTS


OLDER, NEWER = "scheduled__2026-11-30T17:52:50+00:00", "asset_triggered__2026-11-30T17:52:51.577662+00:00_ti9jJeo5"


def weigh(dag: DAG, map_index: int, *, run_id: str = NEWER) -> list[int]:
    """Return what Airflow stores as the weights of a product's tasks, stage by stage."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.serialization.serialized_objects import DagSerialization

    stored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    tasks = [stored.get_task(task_id) for task_id in GROUP]
    return [
        TaskInstance(task, dag_version_id=None, run_id=run_id, map_index=map_index).priority_weight for task in tasks
    ]


def test_what_has_begun_goes_by_age_whatever_its_stage_and_before_what_has_not(dag: DAG) -> None:
    for map_index in (MOST_EXPRESS, 500):
        older, newer = (weigh(dag, map_index, run_id=run_id) for run_id in (OLDER, NEWER))
        assert len(set(older[1:])) == len(set(newer[1:])) == 1
        assert older[1] > newer[1] > older[0] > newer[0]


def test_products_give_way_to_the_tasks_of_other_dags(dag: DAG) -> None:
    assert max(weigh(dag, MOST_EXPRESS, run_id=OLDER)) < 0


def test_a_runs_first_products_are_finished_before_others_of_them_are_begun(dag: DAG) -> None:
    weights = weigh(dag, 0)
    assert weights == sorted(set(weights))


@pytest.mark.parametrize(
    ("run_id", "seconds"),
    [
        ("manual__2026-01-01T00:01:00+00:00_x", 60),
        ("scheduled__2026-01-01T02:00:00.999999+02:00", 0),
        ("manual__2020-01-01T00:00:00+00:00", 0),
        ("manual__2026-01-02T00:00:00Z", 86_400),
        ("of the year 9999-12-31T23:59:59+00:00", 999_999_999),
    ],
)
def test_the_age_of_a_run_is_in_its_id(run_id: str, seconds: int) -> None:
    assert seconds_since_epoch(run_id) == seconds


@pytest.mark.parametrize(
    "run_id",
    ["", "my run", "2026-11-30", "2026-11-30T10:00:00", "2026-99-99T99:99:99Z", "backfill__2026-01-01T00:00:00+00:00"],
)
def test_a_run_without_a_time_in_its_id_counts_as_of_now(run_id: str) -> None:
    before, weight, after = (seconds_since_epoch(one) for one in ("", run_id, ""))
    assert before <= weight <= after
    assert before > seconds_since_epoch("manual__2026-01-02T00:00:00Z")


def test_the_first_products_of_a_run_go_before_all_others(dag: DAG) -> None:
    # Airflow makes the first index of the task that stood for all of them, and does not weigh it again.
    for map_index in (-1, 0, MOST_EXPRESS - 1):
        assert min(weigh(dag, map_index)) > max(weigh(dag, MOST_EXPRESS))


def test_of_a_small_batch_fewer_go_before_all_others(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squorflow.config.get_config", lambda: WorkflowConfig(batch_size=10))
    assert weigh(dag, 1) == weigh(dag, 0)
    assert max(weigh(dag, 2)) < min(weigh(dag, 1))
    monkeypatch.setattr("squorflow.config.get_config", lambda: WorkflowConfig(batch_size=1))
    assert weigh(dag, 0) > weigh(dag, 1)


def test_no_product_keeps_a_run_from_taking_back_what_was_lost_or_from_ending(dag: DAG) -> None:
    heaviest = max(weigh(dag, 0))
    for task in (dag.get_task("pull"), dag.get_task("close")):
        assert task.weight_rule == "absolute"
        assert task.priority_weight > heaviest


def test_every_stage_asks_the_policy_and_has_more_retries_than_a_workflow_may(dag: DAG) -> None:
    most = WorkflowConfig.model_fields["max_retries"].metadata
    assert max(getattr(limit, "le", 0) for limit in most) < AIRFLOW_RETRIES
    assert all(task.retries == AIRFLOW_RETRIES for task in stages_of(dag))
    assert all(isinstance(task.retry_policy, WorkflowRetryPolicy) for task in stages_of(dag))


def test_every_stage_ends_at_the_processing_timeout(dag: DAG) -> None:
    assert {task.execution_timeout for task in stages_of(dag)} == {WorkflowConfig().processing_timeout}


def test_nothing_depends_on_callbacks_which_nobody_calls_for_a_killed_worker(dag: DAG) -> None:
    callbacks = ("on_execute", "on_success", "on_failure", "on_retry", "on_skipped")
    assert not any(getattr(task, f"{name}_callback") for task in dag.tasks for name in callbacks)
    assert not dag.on_success_callback
    assert not dag.on_failure_callback


def test_the_trigger_form_explains_every_param(dag: DAG) -> None:
    assert list(dag.params) == ["batch_size", "workflow_ids", "priority_at_least"]
    assert all(dag.params.get_param(name).description for name in dag.params)


def test_the_defaults_take_a_hundred_products_of_any_priority(dag: DAG) -> None:
    assert dag.params.dump() == {"batch_size": 100, "workflow_ids": [], "priority_at_least": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", LARGEST_CLAIM + 1),
        ("workflow_ids", ["not-a-uuid"]),
        ("priority_at_least", 11),
    ],
)
def test_a_param_out_of_range_is_refused(dag: DAG, name: str, value: object) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_several_runs_may_be_active_and_missed_ones_are_not_made_up(dag: DAG) -> None:
    assert not dag.catchup
    # Those whose products wait for a quota, and those that come for what was lost.
    assert dag.max_active_runs > 2 * BATCHES_IN_HAND


def test_its_documentation_is_the_docstring_of_its_file(dag: DAG) -> None:
    assert dag.doc_md is not None
    assert all(word in dag.doc_md for word in ("**pull**", "**product**", "**close**"))


def test_it_survives_being_serialised(dag: DAG) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    stored = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    back = DagSerialization.from_dict(stored)
    assert set(back.task_dict) == set(dag.task_ids)
    assert all(back.task_dict[task_id].has_retry_policy for task_id in GROUP)


def test_it_starts_when_work_is_due_and_by_the_clock_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_SCHEDULE", "7 * * * *")
    schedule = load_dag().schedule
    assert isinstance(schedule, AssetOrTimeSchedule)
    assert schedule.asset_condition == AssetAll(WORK)
    assert isinstance(schedule.timetable, CronTriggerTimetable)
    assert schedule.timetable.expression == "7 * * * *"


@pytest.mark.parametrize("cron", ["every day", "61 * * * *", " "])
def test_a_schedule_that_is_no_cron_expression_is_named_where_the_file_is_parsed(cron: str) -> None:
    with pytest.raises(ConfigurationError, match=f"WORKFLOW_SCHEDULE is '{re.escape(cron)}', which is no cron"):
        make_schedule(cron)


def test_the_watcher_of_the_queue_can_be_made_again_from_what_is_stored() -> None:
    from airflow.sdk.module_loading import import_string

    (watcher,) = WORK.watchers
    path, arguments = watcher.trigger.serialize()
    assert isinstance(import_string(path)(**arguments), WorkDueTrigger)


def test_a_watcher_that_finds_no_database_says_in_one_line_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Log:
        def warning(self, message: str, *values: object, exc_info: object) -> None:
            assert exc_info is None
            told.append(message % values)

    async def find_none(_self: WorkDueTrigger, _restraint: object) -> AsyncIterator[TriggerEvent]:
        with create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing").connect():
            yield TriggerEvent({})

    async def watch_until_it_complains() -> None:
        watching = asyncio.ensure_future(anext(WorkDueTrigger().run()))
        while not told:
            await asyncio.sleep(0.05)
        watching.cancel()
        await asyncio.wait([watching])

    monkeypatch.setattr(WorkDueTrigger, "_watch", find_none)
    monkeypatch.setattr(WorkDueTrigger, "log", Log())
    asyncio.run(watch_until_it_complains())
    assert "the database cannot be reached" in told[0]
    assert "\n" not in told[0]


def test_an_empty_schedule_means_that_no_run_starts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_SCHEDULE", "")
    assert load_dag().schedule is None


def test_only_enrichment_runs_in_the_enrichment_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENRICHMENT_POOL", "few_at_once")
    dag = load_dag()
    assert [task.task_id for task in dag.tasks if task.pool == "few_at_once"] == ["product.enrichment"]
