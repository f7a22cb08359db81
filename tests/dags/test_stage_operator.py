"""The translation between Airflow's task and the engine's stage, with the engine's answers given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.exceptions import TaskDeferralError
from hypothesis import given
from hypothesis import strategies as st

from squorflow import stages
from squorflow.airflow import operators
from squorflow.airflow.operators import LONGEST_LABEL, StageOperator, make_label, was_cleared_by_hand
from squorflow.config import get_config
from squorflow.errors import Cancelled, ErrorCategory
from squorflow.postgres import database
from squorflow.recovery.policy import Action, Decision
from squorflow.stages import StageFailed, StageOutcome, StageSkipped, StageWaiting
from squorflow.states import Stage
from squorflow.workflow import marks
from support.airflow_runs import RUN, execute, make_context

WORKFLOW_ID = UUID("0190f3a2-0000-7000-8000-000000000001")

Answer = Callable[..., StageOutcome]


@pytest.fixture
def operator() -> StageOperator:
    return StageOperator(
        task_id="scoring", stage=Stage.SCORING, workflow_id=str(WORKFLOW_ID), product_label="Pâté Cookies"
    )


@pytest.fixture
def answer_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Return a function that sets what `run_stage` does."""
    monkeypatch.setattr(database, "get_database", Transactions)
    monkeypatch.setattr(marks, "was_unasked", lambda *_, **__: False)
    monkeypatch.setattr(operators, "_clients", object)
    return lambda answer: monkeypatch.setattr(stages, "run_stage", answer)


def raises(error: Exception) -> Answer:
    def answer(*_: Any, **__: Any) -> StageOutcome:
        raise error

    return answer


def failed(action: Action) -> StageFailed:
    decision = Decision(category=ErrorCategory.DATA, action=action, delay=None, counts=False, reason="no name")
    return StageFailed("workflow: no name", decision=decision)


def test_the_stage_runs_as_the_run_and_task_it_belongs_to(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    seen: dict[str, Any] = {}

    def answer(_database: object, **given: Any) -> StageOutcome:
        seen.update(given)
        return StageOutcome(status="done", summary="scored", seconds=0.1)

    answer_with(answer)
    execute(operator, make_context(try_number=2, max_tries=1_000))
    assert (seen["workflow_id"], seen["stage"]) == (WORKFLOW_ID, Stage.SCORING)
    assert seen["owner"] == f"airflow:airflow/product_workflow/{RUN}"
    assert seen["actor"] == f"airflow:product_workflow/{RUN}/product.scoring[4]#2"
    assert seen["manual"] is False


@pytest.mark.parametrize("asked_for", [True, False], ids=["by a person", "by a mark of another product"])
def test_a_cleared_stage_runs_as_asked_for_only_where_a_person_cleared_it(
    operator: StageOperator,
    answer_with: Callable[[Answer], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    asked_for: bool,
) -> None:
    seen: dict[str, Any] = {}

    def answer(_database: object, **given: Any) -> StageOutcome:
        seen.update(given)
        return StageOutcome(status="done", summary="scored", seconds=0.1)

    answer_with(answer)
    monkeypatch.setattr(marks, "was_unasked", lambda *_, **__: not asked_for)
    execute(operator, make_context(try_number=2, max_tries=1_001))
    assert seen["manual"] is asked_for


class Transactions:
    """A database whose transactions nobody looks into."""

    def begin(self) -> AbstractContextManager[None]:
        return nullcontext()


def test_a_stage_that_was_done_before_succeeds(operator: StageOperator, answer_with: Callable[[Answer], None]) -> None:
    answer_with(lambda *_, **__: StageOutcome(status="checkpoint", summary="done before", seconds=0.0))
    assert execute(operator, make_context()) is None


def test_a_stage_that_is_not_ours_skips_and_says_why(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    answer_with(raises(StageSkipped("it is owned by airflow:airflow/product_workflow/other")))
    with pytest.raises(AirflowSkipException, match="owned by airflow:airflow/product_workflow/other"):
        execute(operator, make_context())


def test_a_released_product_skips_and_says_when_it_returns(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    answer_with(raises(failed(Action.RELEASE)))
    with pytest.raises(AirflowSkipException, match=r"no name\. Released: a run after \d{4}-\d\d-\d\d .* UTC"):
        execute(operator, make_context())


@pytest.mark.parametrize("action", [Action.RETRY, Action.SUSPEND, Action.FAIL])
def test_a_failed_stage_leaves_the_decision_to_the_policy(
    operator: StageOperator, answer_with: Callable[[Answer], None], action: Action
) -> None:
    answer_with(raises(failed(action)))
    with pytest.raises(StageFailed) as caught:
        execute(operator, make_context())
    assert caught.value.decision.action is action


def waiting(seconds: float) -> StageWaiting:
    decision = Decision(
        category=ErrorCategory.RATE_LIMIT,
        action=Action.WAIT,
        delay=timedelta(seconds=seconds),
        counts=False,
        reason="slow down",
    )
    return StageWaiting("workflow: slow down", decision=decision)


def one_after_the_other(seen: list[dict[str, Any]], *answers: StageOutcome | Exception) -> Answer:
    left = list(answers)

    def answer(_database: object, **given: Any) -> StageOutcome:
        seen.append(given)
        following = left.pop(0)
        if isinstance(following, Exception):
            raise following
        return following

    return answer


def test_a_long_wait_is_deferred_to_a_trigger_that_any_triggerer_can_make(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    answer_with(raises(waiting(37)))
    before = datetime.now(UTC)
    with pytest.raises(TaskDeferred) as deferred:
        execute(operator, make_context())
    path, arguments = deferred.value.trigger.serialize()
    assert (deferred.value.method_name, deferred.value.kwargs) == ("resume", None)
    module, _, name = path.rpartition(".")
    again = getattr(import_module(module), name)(**arguments)
    assert again.serialize() == (path, arguments)
    until = datetime.fromisoformat(arguments["until"])
    assert timedelta(seconds=37) <= until - before < timedelta(seconds=67)
    # A wait that no triggerer ends is ended by the scheduler.
    assert timedelta(seconds=37) < deferred.value.timeout < timedelta(seconds=97)


def test_a_trigger_fires_once_when_its_time_has_come() -> None:
    from squorflow.airflow.triggers import WaitTrigger

    async def collect(until: datetime) -> tuple[list[Any], datetime]:
        events = [event async for event in WaitTrigger(until.isoformat()).run()]
        return events, datetime.now(UTC)

    moment = datetime.now(UTC) + timedelta(milliseconds=50)
    events, ended = asyncio.run(collect(moment))
    assert len(events) == 1
    assert ended >= moment
    events, _ = asyncio.run(collect(moment - timedelta(days=1)))
    assert len(events) == 1


def test_a_short_wait_is_slept_through_in_the_task(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    seen: list[dict[str, Any]] = []
    done = StageOutcome(status="done", summary="scored", seconds=0.1)
    answer_with(one_after_the_other(seen, waiting(0.01), waiting(0.01), done))
    execute(operator, make_context(try_number=2, max_tries=1_001))
    # What a person asked for is the first go; afterwards a product that was suspended meanwhile stays so.
    assert [given["manual"] for given in seen] == [True, False, False]
    assert {given["longest_wait"] for given in seen} == {get_config().longest_wait}


def test_a_deferred_stage_resumes_with_nothing_but_the_event(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    seen: list[dict[str, Any]] = []
    answer_with(one_after_the_other(seen, StageOutcome(status="done", summary="scored", seconds=0.1)))
    context: Any = make_context(try_number=2, max_tries=1_001)
    operator.resume_execution("resume", {"event": {"until": "2026-01-01T00:00:00+00:00"}}, context)
    operator_again = seen[0]
    assert (operator_again["workflow_id"], operator_again["manual"]) == (WORKFLOW_ID, False)


def test_a_deferred_stage_that_no_triggerer_woke_goes_on_when_the_scheduler_ends_its_wait(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    seen: list[dict[str, Any]] = []
    answer_with(one_after_the_other(seen, StageOutcome(status="done", summary="scored", seconds=0.1)))
    context: Any = make_context(try_number=2, max_tries=1_001)
    operator.resume_execution(TRIGGER_FAIL_REPR, {"error": TriggerFailureReason.TRIGGER_TIMEOUT}, context)
    assert [given["manual"] for given in seen] == [False]


def test_a_trigger_that_failed_is_left_to_the_retry_policy(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    seen: list[dict[str, Any]] = []
    answer_with(one_after_the_other(seen))
    context: Any = make_context()
    with pytest.raises(TaskDeferralError):
        operator.resume_execution(TRIGGER_FAIL_REPR, {"error": TriggerFailureReason.TRIGGER_FAILURE}, context)
    assert seen == []


def test_a_kill_ends_a_short_wait(operator: StageOperator, answer_with: Callable[[Answer], None]) -> None:
    answer_with(raises(waiting(4)))
    timer = threading.Timer(0.05, lambda: operator._cancellation and operator._cancellation.cancel("killed"))
    timer.start()
    with pytest.raises(Cancelled, match="killed"):
        execute(operator, make_context())
    timer.join()


def test_a_kill_ends_the_stage_at_once_and_is_no_skip(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    def answer(_database: object, **given: Any) -> StageOutcome:
        try:
            with given["cancellation"].interruptible():
                operator.on_kill()
        except Cancelled as stopped:
            # Where a whole service is stopped, the task is told by its supervisor too.
            operator.on_kill()
            assert given["cancellation"].cancelled
            raise StageSkipped(f"scoring stopped: {stopped}") from stopped
        return StageOutcome(status="done", summary="not stopped", seconds=0.1)

    answer_with(answer)
    with pytest.raises(Cancelled, match="Airflow ended its task"):
        execute(operator, make_context())


def test_a_kill_while_the_stage_is_written_lets_it_end(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    def answer(_database: object, **given: Any) -> StageOutcome:
        operator.on_kill()
        assert given["cancellation"].resumable
        return StageOutcome(status="done", summary="written", seconds=0.1)

    answer_with(answer)
    execute(operator, make_context())


def test_a_kill_while_a_short_wait_is_written_ends_the_task(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    def answer(_database: object, **_: Any) -> StageOutcome:
        operator.on_kill()
        raise waiting(4)

    answer_with(answer)
    with pytest.raises(Cancelled, match="while its wait was written"):
        execute(operator, make_context())


def test_a_kill_before_the_stage_keeps_it_from_beginning(
    operator: StageOperator, answer_with: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while it is looked up who wanted this try; seconds later the process would be killed in the middle."""
    begun: list[str] = []

    def look_up(*_: object, **__: object) -> bool:
        operator.on_kill()
        return False

    def answer(*_: object, **__: object) -> StageOutcome:
        begun.append("scoring")
        return StageOutcome(status="done", summary="scored", seconds=0.1)

    answer_with(answer)
    monkeypatch.setattr(operators, "_was_asked_for", look_up)
    with pytest.raises(Cancelled, match="Airflow ended its task"):
        execute(operator, make_context(try_number=2, max_tries=1_001))
    assert begun == []


def test_a_kill_after_the_stage_does_no_harm(operator: StageOperator, answer_with: Callable[[Answer], None]) -> None:
    answer_with(lambda *_, **__: StageOutcome(status="done", summary="scored", seconds=0.1))
    execute(operator, make_context())
    assert operator.on_kill() is None


def test_airflows_clock_ends_a_stage_as_an_error_the_engine_records(
    operator: StageOperator, answer_with: Callable[[Answer], None]
) -> None:
    from airflow.sdk.exceptions import AirflowTaskTimeout

    seen: dict[str, Any] = {}

    def answer(_database: object, **given: Any) -> StageOutcome:
        seen.update(given)
        return StageOutcome(status="done", summary="scored", seconds=0.1)

    answer_with(answer)
    execute(operator, make_context())
    assert seen["timeout_errors"] == (AirflowTaskTimeout,)


def test_a_products_name_is_never_rendered_as_a_template() -> None:
    from airflow.sdk import DAG

    with DAG("any") as dag:
        operator = StageOperator(
            task_id="scoring",
            stage=Stage.SCORING,
            workflow_id=str(WORKFLOW_ID),
            product_label="unused",
        )
    operator.product_label = "{{ 1 / 0 }}"
    label = dag.get_template_env().from_string(operator.map_index_template or "").render(task=operator)
    assert label == "{{ 1 / 0 }}"


@pytest.mark.parametrize(
    ("try_number", "max_tries", "clear_number", "cleared"),
    [(1, 1_000, 0, False), (2, 1_000, 0, False), (2, 1_001, 0, True), (3, 1_001, 0, False), (1, 1_000, 1, False)],
    ids=[
        "first try",
        "retry",
        "cleared after one try",
        "retry after a clear",
        "first try after another task of the run was cleared",
    ],
)
def test_a_clear_is_told_from_a_retry(*, try_number: int, max_tries: int, clear_number: int, cleared: bool) -> None:
    context: Any = make_context(try_number=try_number, max_tries=max_tries, clear_number=clear_number)
    assert was_cleared_by_hand(context) is cleared


@given(st.text())
def test_a_label_is_one_printable_line_that_airflow_takes(name: str) -> None:
    label = make_label(name, workflow_id=WORKFLOW_ID)
    assert 0 < len(label) <= LONGEST_LABEL
    assert label.isprintable()


def test_a_product_without_a_printable_name_is_shown_by_its_id() -> None:
    assert make_label(" \n\x00", workflow_id=WORKFLOW_ID) == str(WORKFLOW_ID)


def test_a_label_keeps_letters_of_all_scripts() -> None:
    assert make_label("Pâté\n  苏打饼干", workflow_id=WORKFLOW_ID) == "Pâté 苏打饼干"
