"""How a run sums up its products, and when it counts as failed."""

from __future__ import annotations

from uuid import UUID

import pytest
from airflow.sdk.exceptions import AirflowFailException

from squorflow.airflow.batch import FAILURES_SHOWN, PullOperator, count_unreached, judge, summarise
from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.states import WorkflowState
from squorflow.workflow.queue import ClaimedItem


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
