"""How a run sums up its products, and when it counts as failed."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.utils.types import DagRunType

from squorflow.airflow.batch import FAILURES_SHOWN, CloseOperator, PullOperator, count_unreached, judge, summarise
from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.states import WorkflowState
from squorflow.workflow.queue import ClaimedItem
from squorflow.workflow.waking import BATCHES_TRIED, UNBEGUN_SHARE
from support import workflows
from support.airflow_runs import execute, make_context
from support.workflows import OTHER_RUN

BATCH = 20


def item(state: WorkflowState | None, *, map_index: int = 0, last_error: str | None = None) -> ClaimedItem:
    return ClaimedItem(
        map_index=map_index,
        workflow_id=UUID(int=map_index),
        product_name=f"product {map_index}",
        workflow_state=state,
        stage=None,
        retry_count=0,
        error_category=None,
        last_error=last_error,
        owned=False,
    )


def items(*states: WorkflowState) -> list[ClaimedItem]:
    return [item(state, map_index=index) for index, state in enumerate(states)]


def test_the_summary_counts_products_by_state() -> None:
    done = items(WorkflowState.COMPLETED, WorkflowState.FAILED, WorkflowState.COMPLETED)
    assert summarise(done, given_back=0, claimable=3)[0] == "3 products: 2 completed, 1 failed."


def test_the_summary_groups_failures_by_error_most_frequent_first() -> None:
    failed = [
        item(WorkflowState.SUSPENDED, last_error="DataError: no name"),
        *[item(WorkflowState.FAILED, last_error="NetworkError: reset")] * 2,
    ]
    assert summarise(failed, given_back=0, claimable=0)[-2:] == ["2 x NetworkError: reset", "1 x DataError: no name"]


def test_the_summary_stays_short_when_every_product_fails_differently() -> None:
    failed = [item(WorkflowState.FAILED, last_error=f"Error {number}") for number in range(100)]
    lines = summarise(failed, given_back=0, claimable=0)
    assert lines[-1] == f"and {100 - FAILURES_SHOWN} more kinds of failure."


def test_the_error_of_a_product_that_got_over_it_is_not_a_failure() -> None:
    lines = summarise([item(WorkflowState.COMPLETED, last_error="NetworkError: reset")], given_back=0, claimable=0)
    assert not any("NetworkError" in line for line in lines)


def test_a_product_retired_meanwhile_is_counted_and_nothing_else() -> None:
    assert summarise([item(None)], given_back=0, claimable=0)[0] == "1 products: none."


def test_a_run_fails_when_more_failed_than_is_tolerated() -> None:
    states = [WorkflowState.FAILED] * 2 + [WorkflowState.COMPLETED] * 18
    assert judge(items(*states), unreached=0, tolerance=0.1) is None
    verdict = judge(items(*states), unreached=0, tolerance=0.05)
    assert verdict is not None
    assert verdict.startswith("2 of 20 products ended failed")


def test_one_failure_fails_a_run_that_tolerates_none() -> None:
    assert judge(items(WorkflowState.FAILED, WorkflowState.COMPLETED), unreached=0, tolerance=0) is not None


@pytest.mark.parametrize("state", [WorkflowState.SUSPENDED, WorkflowState.RETRYING, WorkflowState.CANCELLED])
def test_products_that_wait_for_a_person_or_a_later_run_do_not_fail_the_run(state: WorkflowState) -> None:
    assert judge(items(state, state), unreached=0, tolerance=0) is None


def test_an_empty_run_is_not_a_failed_one() -> None:
    assert judge([], unreached=0, tolerance=0) is None


def test_products_whose_tasks_failed_unrecorded_fail_the_run() -> None:
    queued = items(WorkflowState.QUEUED, WorkflowState.QUEUED, WorkflowState.COMPLETED, WorkflowState.SUSPENDED)
    states = {f"product.discovery_{index}": "failed" for index in (0, 1, 3)}
    assert count_unreached(queued, states=states) == 2
    verdict = judge(queued, unreached=2, tolerance=0.05)
    assert verdict is not None
    assert "2 more could not be begun" in verdict


def test_a_product_that_was_given_back_unbegun_is_not_unreached() -> None:
    assert count_unreached(items(WorkflowState.QUEUED), states={"product.discovery_0": "skipped"}) == 0


Pull = Callable[..., list[str]]


@pytest.fixture
def pull(database: Database, monkeypatch: pytest.MonkeyPatch) -> Pull:
    """What the `pull` of a run returns: the ids of the workflows it claimed."""
    monkeypatch.setattr("squorflow.postgres.database.get_database", lambda: database)

    def pull(*, run_type: str = "asset_triggered") -> list[str]:
        context = make_context(get_dr_count=lambda *_, **__: 1, get_task_states=lambda *_, **__: {})
        context["dag_run"].run_type = DagRunType(run_type)
        context["params"] = {"batch_size": BATCH, "workflow_ids": [], "priority_at_least": 1}
        return [row["workflow_id"] for row in execute(PullOperator(task_id="pull"), context)]

    return pull


def hand_out(database: Database, count: int) -> None:
    """Have a run that has `count` products to begin."""
    workflows.enqueue(database, count=count)
    assert len(workflows.claim(database, owner=OTHER_RUN, limit=count)) == count


@pytest.mark.parametrize(
    ("run_type", "unbegun", "claimed"),
    [
        ("asset_triggered", BATCH // UNBEGUN_SHARE - 1, BATCH),
        ("asset_triggered", BATCH // UNBEGUN_SHARE, 0),
        ("scheduled", BATCH // UNBEGUN_SHARE - 1, BATCH),
        ("scheduled", BATCH // UNBEGUN_SHARE, 0),
        ("manual", BATCH, BATCH),
        ("operator_triggered", BATCH, BATCH),
    ],
)
def test_a_run_that_nobody_asked_for_takes_nothing_fresh_while_another_has_enough_to_begin(
    run_type: str, unbegun: int, claimed: int, database: Database, pull: Pull
) -> None:
    hand_out(database, unbegun)
    workflows.enqueue(database, count=BATCH + 1)
    assert len(pull(run_type=run_type)) == claimed


def test_it_counts_what_its_own_instance_has_in_hand(
    database: Database, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_out(database, BATCH)
    workflows.enqueue(database, count=3)
    monkeypatch.setattr("squorflow.airflow.batch.get_config", lambda: WorkflowConfig(instance="elsewhere"))
    assert len(pull()) == 3


def test_what_was_lost_is_taken_whatever_stands_before_it_and_nothing_fresh_with_it(
    database: Database, pull: Pull
) -> None:
    hand_out(database, BATCH)
    lost = [str(workflows.lose_one(database)) for _ in range(2)]
    workflows.enqueue(database, count=3, priority=9)
    assert pull() == lost


def test_what_was_lost_comes_first_also_among_fresh_products_that_are_more_urgent(
    database: Database, pull: Pull
) -> None:
    lost = str(workflows.lose_one(database))
    fresh = [str(one) for one in workflows.enqueue(database, count=3, priority=9)]
    assert pull() == [lost, *fresh]


def test_with_very_much_that_was_tried_in_hand_it_takes_nothing_at_all(database: Database, pull: Pull) -> None:
    for _ in range(BATCHES_TRIED * BATCH):
        workflows.lose_one(database)
    assert len(workflows.claim(database, owner=OTHER_RUN)) == BATCHES_TRIED * BATCH
    workflows.lose_one(database)
    workflows.enqueue(database, count=3)
    assert pull() == []


def test_a_run_that_could_take_nothing_rings_no_bell_for_what_it_could_not_take(
    database: Database, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_out(database, BATCH)
    workflows.enqueue(database)
    rung = []
    monkeypatch.setattr("squorflow.workflow.waking.announce", rung.append)
    context = make_context(get_task_states=lambda *_, **__: {})
    assert pull() == []
    with pytest.raises(AirflowSkipException):
        execute(CloseOperator(task_id="close", pull_task_id="pull"), context)
    assert rung == []


def test_a_database_that_was_never_upgraded_ends_the_run_with_what_to_do(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.ensure_database("never_upgraded")
    database = Database(postgres.url("never_upgraded"), config=WorkflowConfig())
    monkeypatch.setattr("squorflow.postgres.database.get_database", lambda: database)
    with pytest.raises(AirflowFailException, match=r"lacks migrations .*: run `squorflow db upgrade`"):
        PullOperator(task_id="pull").execute({})
    database.close()
    postgres.drop_database("never_upgraded")
