"""What an error means, and what follows from it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squorflow.config import WorkflowConfig
from squorflow.errors import (
    CircuitOpen,
    ConfigurationError,
    DataError,
    ErrorCategory,
    NetworkError,
    RateLimitError,
    SystemFault,
    ValidationError,
)
from squorflow.recovery.policy import (
    LONGEST_DELAY,
    SYSTEM_PROBE_DELAY,
    Action,
    Decision,
    backoff,
    categorise,
    decide,
    describe,
    details_of,
)
from squorflow.states import STAGES, Stage

CONFIG = WorkflowConfig()
WORKFLOW_ID = UUID("0190f3a2-0000-7000-8000-000000000001")


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (NetworkError("reset"), ErrorCategory.TRANSIENT),
        (RateLimitError("429"), ErrorCategory.RATE_LIMIT),
        (DataError("bad"), ErrorCategory.DATA),
        (ValidationError("missing"), ErrorCategory.DATA),
        (SystemFault("key"), ErrorCategory.SYSTEM),
        (CircuitOpen("gemini", dependency="gemini", retry_after=timedelta(1)), ErrorCategory.SYSTEM),
        (ConfigurationError("no connection"), ErrorCategory.SYSTEM),
        (MemoryError(), ErrorCategory.SYSTEM),
        (RuntimeError("never heard of"), ErrorCategory.TRANSIENT),
        (KeyError("x"), ErrorCategory.TRANSIENT),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, BaseException) else str(one),
)
def test_an_error_has_its_category_and_an_unknown_one_is_transient(error: Exception, category: ErrorCategory) -> None:
    assert categorise(error) is category


def _decide(
    error: Exception,
    *,
    retry_count: int = 0,
    stage: Stage = Stage.ENRICHMENT,
    workflow_id: UUID = WORKFLOW_ID,
    patience: timedelta = timedelta(0),
) -> Decision:
    return decide(
        error,
        workflow_id=workflow_id,
        stage=stage,
        retry_count=retry_count,
        max_retries=3,
        patience=patience,
        config=CONFIG,
    )


@pytest.mark.parametrize(("retry_count", "seconds"), [(0, 60), (1, 120), (2, 240)])
def test_a_transient_error_is_retried_after_60_120_and_240_seconds_and_a_jitter_of_the_products_own(
    retry_count: int, seconds: int
) -> None:
    delays = {
        _decide(NetworkError("reset"), retry_count=retry_count, workflow_id=UUID(int=number)).delay
        for number in range(50)
    }
    assert len(delays) == 50
    assert all(delay is not None and seconds <= delay.total_seconds() <= seconds * 1.1 for delay in delays)


def test_a_product_that_asks_again_gets_the_same_delay() -> None:
    assert _decide(NetworkError("reset")).delay == _decide(NetworkError("reset")).delay


def test_a_retry_says_which_of_how_many_it_is_and_counts() -> None:
    decision = _decide(NetworkError("reset"), retry_count=1)
    assert (decision.action, decision.counts) == (Action.RETRY, True)
    assert decision.reason.startswith("enrichment: NetworkError: reset; retry 2 of 3 in 1")


def test_a_retry_further_away_than_a_run_should_live_is_given_back_and_costs_its_try() -> None:
    patient = WorkflowConfig(retry_backoff_base=500, retry_backoff_multiplier=2, longest_wait=600)
    decided = [
        decide(
            NetworkError("reset"),
            workflow_id=WORKFLOW_ID,
            stage=Stage.SCORING,
            retry_count=retry_count,
            max_retries=3,
            patience=timedelta(0),
            config=patient,
        )
        for retry_count in (0, 1)
    ]
    assert [(decision.action, decision.counts) for decision in decided] == [
        (Action.RETRY, True),
        (Action.RELEASE, True),
    ]
    assert decided[1].reason.endswith(" s, given back until then")


@pytest.mark.parametrize("retry_count", [3, 4])
def test_with_the_tries_used_up_it_fails(retry_count: int) -> None:
    decision = _decide(NetworkError("reset"), retry_count=retry_count)
    assert (decision.action, decision.delay, decision.counts) == (Action.FAIL, None, False)


def test_images_with_the_tries_used_up_are_for_a_person() -> None:
    decision = _decide(NetworkError("reset"), retry_count=3, stage=Stage.IMAGE_FETCH)
    assert (decision.action, decision.delay, decision.counts) == (Action.SUSPEND, None, False)


def test_a_servers_delay_wins_and_costs_no_try() -> None:
    decision = _decide(RateLimitError("429", retry_after=timedelta(seconds=37)), retry_count=3)
    assert (decision.action, decision.counts) == (Action.RELEASE, False)
    assert decision.delay is not None
    assert 37 <= decision.delay.total_seconds() <= 37 * 1.1


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("429", retry_after=timedelta(seconds=37)),
        CircuitOpen("gemini fails", dependency="gemini", retry_after=timedelta(seconds=37)),
        SystemFault("wrong key"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_its_owner_has_the_patience_for_waits_and_what_takes_longer_is_given_back(error: Exception) -> None:
    waits, released = _decide(error, patience=timedelta(minutes=10)), _decide(error, patience=timedelta(seconds=36))
    assert (waits.action, waits.counts) == (Action.WAIT, False)
    assert (released.action, released.counts) == (Action.RELEASE, False)
    assert waits.delay == released.delay
    assert "without costing a try" in waits.reason


def test_a_rate_limit_without_a_delay_waits_longer_than_a_network_error() -> None:
    limited, broken = _decide(RateLimitError("429")), _decide(NetworkError("reset"))
    assert limited.delay is not None
    assert broken.delay is not None
    assert limited.delay > broken.delay


@pytest.mark.parametrize("stage", STAGES)
def test_bad_data_is_for_a_person_at_any_stage(stage: Stage) -> None:
    decision = _decide(DataError("no name"), stage=stage)
    assert (decision.action, decision.delay, decision.counts) == (Action.SUSPEND, None, False)


@pytest.mark.parametrize("retry_count", [0, 3, 9])
def test_a_fault_of_the_installation_never_costs_a_try_and_never_suspends(retry_count: int) -> None:
    decision = _decide(SystemFault("wrong key"), retry_count=retry_count)
    assert (decision.action, decision.counts) == (Action.RELEASE, False)
    assert decision.delay is not None
    assert SYSTEM_PROBE_DELAY <= decision.delay <= SYSTEM_PROBE_DELAY * 1.1


@given(
    retry_count=st.integers(0, 10**6),
    multiplier=st.floats(1, 10),
    base=st.floats(0.001, 10**9),
    told=st.one_of(st.none(), st.timedeltas()),
)
def test_no_delay_is_negative_or_longer_than_a_day(
    retry_count: int, multiplier: float, base: float, told: timedelta | None
) -> None:
    config = WorkflowConfig(retry_backoff_base=timedelta(seconds=base), retry_backoff_multiplier=multiplier)
    assert timedelta(0) < backoff(retry_count, config=config) <= LONGEST_DELAY
    for error in (NetworkError("x"), RateLimitError("x", retry_after=told)):
        decision = decide(
            error,
            workflow_id=WORKFLOW_ID,
            stage=Stage.SCORING,
            retry_count=retry_count,
            max_retries=10**7,
            patience=timedelta(0),
            config=config,
        )
        assert decision.delay is not None
        assert timedelta(0) <= decision.delay <= LONGEST_DELAY


def test_equal_errors_are_described_alike_whatever_their_addresses_and_numbers() -> None:
    one = NetworkError("GET https://a.example/1?x=2 for 0123abcd-0000-4000-8000-123456789abc took 12345 ms\nmore")
    other = NetworkError("GET https://b.example/9 for fedcba98-1111-4111-9111-abcdef012345 took 99999 ms\nelse")
    assert describe(one) == describe(other) == "NetworkError: GET <url> for <id> took <n> ms"


def test_a_short_number_says_something_and_stays() -> None:
    assert describe(NetworkError("status 503")) == "NetworkError: status 503"


def test_an_error_without_words_is_described_by_its_class() -> None:
    assert describe(TimeoutError()) == "TimeoutError"


def test_a_long_description_is_cut() -> None:
    assert len(describe(NetworkError("word " * 1000))) <= 320


def test_details_keep_what_the_description_drops() -> None:
    error = DataError("https://a.example " + "x" * 9000, code="blocked", details={"field": "name"})
    details = details_of(error, stage=Stage.DISCOVERY)
    assert (details["class"], details["stage"], details["code"]) == ("DataError", "discovery", "blocked")
    assert details["details"] == {"field": "name"}
    assert details["message"].startswith("https://a.example x")
    assert len(details["message"]) == 4000
