"""What Airflow is told after a failure: always something, and the engine's decision where there is one."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squorflow.airflow.retry import AIRFLOW_RETRIES, AIRFLOW_RETRY_DELAY, WorkflowRetryPolicy, tries_since_clear
from squorflow.config import get_config
from squorflow.errors import Cancelled, ConfigurationError, ErrorCategory, LeaseLost, NetworkError
from squorflow.recovery.policy import Action, Decision
from squorflow.stages import StageFailed

POLICY = WorkflowRetryPolicy()


class Unprintable(Exception):
    """Cannot even be turned into text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def made_by_airflow(name: str, *arguments: Any) -> BaseException:
    from airflow.sdk import exceptions

    made: BaseException = getattr(exceptions, name)(*arguments)
    return made


def failed(action: Action, *, delay: timedelta | None = None) -> StageFailed:
    decision = Decision(
        category=ErrorCategory.TRANSIENT, action=action, delay=delay, counts=True, reason="the server said no"
    )
    return StageFailed("it failed", decision=decision)


exceptions = st.one_of(
    st.builds(RuntimeError, st.text()),
    st.builds(NetworkError, st.text()),
    st.builds(ConfigurationError, st.text()),
    st.builds(LeaseLost, st.text()),
    st.builds(Cancelled, st.text()),
    st.builds(KeyboardInterrupt),
    st.builds(SystemExit, st.integers()),
    st.builds(Unprintable),
    st.builds(lambda text: made_by_airflow("AirflowTaskTimeout", text), st.text()),
    st.builds(lambda text: made_by_airflow("AirflowException", text), st.text()),
    st.builds(failed, st.sampled_from(Action), delay=st.none() | st.timedeltas(min_value=timedelta(milliseconds=1))),
)
contexts = st.sampled_from([None, {}, {"task": SimpleNamespace(retries=AIRFLOW_RETRIES)}])


@given(exception=exceptions, try_number=st.integers(0, 10**6), max_tries=st.integers(0, 10**6), context=contexts)
def test_it_always_says_retry_or_fail_and_why(
    exception: BaseException, try_number: int, max_tries: int, context: Any
) -> None:
    answer = POLICY.evaluate(exception, try_number, max_tries, context)
    assert answer.action.value in {"retry", "fail"}
    assert answer.reason


@given(exception=exceptions, try_number=st.integers(0, 10**6), max_tries=st.integers(0, 10**6))
def test_a_retry_always_has_a_delay(exception: BaseException, try_number: int, max_tries: int) -> None:
    answer = POLICY.evaluate(exception, try_number, max_tries)
    assert answer.action.value == "fail" or (answer.retry_delay is not None and answer.retry_delay > timedelta(0))


def test_it_hands_over_the_engines_delay_and_reason() -> None:
    answer = POLICY.evaluate(failed(Action.RETRY, delay=timedelta(seconds=37)), 1, AIRFLOW_RETRIES)
    assert (answer.action.value, answer.retry_delay) == ("retry", timedelta(seconds=37))
    assert answer.reason == "the server said no"


@pytest.mark.parametrize("action", [Action.SUSPEND, Action.FAIL])
def test_what_the_engine_gave_up_is_not_tried_again(action: Action) -> None:
    assert POLICY.evaluate(failed(action), 1, AIRFLOW_RETRIES).action.value == "fail"


def test_the_engines_retry_holds_however_often_airflow_has_tried() -> None:
    answer = POLICY.evaluate(failed(Action.RETRY, delay=timedelta(seconds=1)), 700, AIRFLOW_RETRIES)
    assert answer.action.value == "retry"


def test_an_ended_task_is_tried_again_soon() -> None:
    answer = POLICY.evaluate(Cancelled("the worker shuts down"), 60, AIRFLOW_RETRIES)
    assert (answer.action.value, answer.retry_delay) == ("retry", AIRFLOW_RETRY_DELAY)


def test_what_never_reached_the_engine_backs_off_and_ends_at_max_retries() -> None:
    answers = [POLICY.evaluate(ConnectionError("Postgres is away"), number, AIRFLOW_RETRIES) for number in range(1, 5)]
    assert get_config().max_retries == 3
    assert [answer.action.value for answer in answers] == ["retry", "retry", "retry", "fail"]
    assert [answer.retry_delay for answer in answers[:3]] == [timedelta(seconds=seconds) for seconds in (60, 120, 240)]


def test_tries_count_from_one_again_after_a_clear() -> None:
    assert tries_since_clear(try_number=3, max_tries=1_000, retries=1_000) == 3
    assert tries_since_clear(try_number=4, max_tries=1_003, retries=1_000) == 1
    assert tries_since_clear(try_number=5, max_tries=1_003, retries=1_000) == 2
