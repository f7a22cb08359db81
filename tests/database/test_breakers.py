"""Circuit breakers, and what the end of a call says about who was called."""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest

from squorflow.config import WorkflowConfig
from squorflow.errors import (
    Cancelled,
    CircuitOpen,
    DataError,
    MachineFault,
    NetworkError,
    RateLimitError,
    SystemFault,
)
from squorflow.postgres.database import Database
from squorflow.recovery import breakers, dependency
from support.workflows import rows, value

NAME = "gemini"
CONFIG = WorkflowConfig(breaker_threshold=3, breaker_pause=30)


def _call(database: Database, *, error: BaseException | None = None, tokens: int | None = None) -> None:
    with dependency.calling(database, NAME, config=CONFIG, tokens=tokens) as call:
        if error is not None:
            raise error
        call.settle(tokens=1)


def _call_and_fail(database: Database, error: BaseException, *, tokens: int | None = None) -> None:
    with pytest.raises(type(error)):
        _call(database, error=error, tokens=tokens)


def _open(database: Database) -> None:
    for _ in range(CONFIG.breaker_threshold):
        _call_and_fail(database, NetworkError("reset"))


def _let_the_pause_end(database: Database) -> None:
    rows(database, "UPDATE circuit_breaker SET probe_at = clock_timestamp()")


def _state(database: Database) -> str:
    return str(value(database, "SELECT coalesce(max(breaker_state), 'closed') FROM circuit_breaker"))


def _open_incidents(database: Database) -> int:
    return int(
        value(
            database,
            "SELECT count(*) FROM alert_incident"
            " WHERE alert = 'breaker_open' AND subject = 'gemini' AND resolved_at IS NULL",
        )
    )


@pytest.fixture(autouse=True)
def _forget_what_this_process_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakers, "_trust", breakers._Trust())


def test_failures_one_after_the_other_open_it_and_then_nobody_calls(database: Database) -> None:
    _open(database)
    with pytest.raises(CircuitOpen, match=r"gemini is not called for now.*NetworkError: reset") as refused:
        _call(database, error=AssertionError("called"))
    assert timedelta(0) < refused.value.retry_after <= timedelta(seconds=30)
    assert _state(database) == "open"


def test_a_success_between_failures_keeps_it_closed(database: Database) -> None:
    for _ in range(2):
        _call_and_fail(database, NetworkError("reset"))
        _call_and_fail(database, NetworkError("reset"))
        _call(database)
    assert (_state(database), value(database, "SELECT failures FROM circuit_breaker")) == ("closed", 0)


def test_a_fault_of_the_installation_opens_it_at_once_and_for_longer(database: Database) -> None:
    _call_and_fail(database, SystemFault("wrong key"))
    with pytest.raises(CircuitOpen) as refused:
        _call(database)
    assert refused.value.retry_after > timedelta(minutes=4)


@pytest.mark.parametrize(
    "error",
    [
        *(
            DataError("blocked"),
            RateLimitError("429"),
            Cancelled("stop"),
            KeyError("a bug of ours"),
            KeyboardInterrupt(),
        ),
        *(MachineFault("disk full"), OSError(errno.ENOSPC, "disk full"), MemoryError()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_failure_of_the_service_never_opens_it(database: Database, error: BaseException) -> None:
    for _ in range(CONFIG.breaker_threshold + 1):
        _call_and_fail(database, error)
    assert _state(database) == "closed"


def test_another_librarys_error_counts_by_the_table(database: Database) -> None:
    import httpx

    for _ in range(CONFIG.breaker_threshold):
        _call_and_fail(database, httpx.ReadTimeout("late"))
    assert _state(database) == "open"


def test_the_first_call_after_the_pause_is_a_probe_and_its_success_closes_it(database: Database) -> None:
    _open(database)
    _let_the_pause_end(database)
    with dependency.calling(database, NAME, config=CONFIG):
        assert _state(database) == "half_open"
        with pytest.raises(CircuitOpen):
            breakers.admit(database, NAME)
    assert _state(database) == "closed"
    _call(database)


def test_each_failed_probe_doubles_the_pause_up_to_a_limit(database: Database) -> None:
    _open(database)
    pauses = []
    for _ in range(7):
        _let_the_pause_end(database)
        _call_and_fail(database, NetworkError("still away"))
        pauses.append(
            round(float(value(database, "SELECT extract(epoch FROM probe_at - updated_at) FROM circuit_breaker")))
        )
    assert pauses == [60, 120, 240, 480, 900, 900, 900]


def test_a_prober_that_died_is_followed_by_another_when_its_time_is_over(database: Database) -> None:
    _open(database)
    _let_the_pause_end(database)
    assert breakers.admit(database, NAME).probe
    with pytest.raises(CircuitOpen) as refused:
        breakers.admit(database, NAME)
    assert refused.value.retry_after <= breakers.PROBE_LASTS
    _let_the_pause_end(database)
    assert breakers.admit(database, NAME).probe


def test_who_comes_while_a_probe_is_under_way_waits_as_long_again_as_it_has_taken(database: Database) -> None:
    _open(database)
    _let_the_pause_end(database)
    assert breakers.admit(database, NAME).probe
    waits = []
    for taken in (0, 20, 115):
        rows(
            database,
            "UPDATE circuit_breaker SET probe_at = clock_timestamp() + :left",
            left=breakers.PROBE_LASTS - timedelta(seconds=taken),
        )
        with pytest.raises(CircuitOpen) as refused:
            breakers.admit(database, NAME)
        waits.append(round(refused.value.retry_after.total_seconds()))
    assert waits == [1, 20, 5]


def test_a_caller_that_can_pause_sees_inside_its_call_how_anothers_probe_ends(database: Database) -> None:
    _open(database)
    _let_the_pause_end(database)
    probe = breakers.admit(database, NAME)
    paused: list[int] = []

    def pause(seconds: float) -> None:
        paused.append(round(seconds))
        breakers.succeed(database, probe)

    with dependency.calling(database, NAME, config=CONFIG, pause=pause):
        assert _state(database) == "closed"
    assert paused == [1]


def test_a_probe_that_takes_long_is_not_waited_for_inside_a_call(database: Database) -> None:
    _open(database)
    _let_the_pause_end(database)
    breakers.admit(database, NAME)
    rows(
        database,
        "UPDATE circuit_breaker SET probe_at = clock_timestamp() + :left",
        left=breakers.PROBE_LASTS - timedelta(seconds=20),
    )
    paused: list[float] = []
    with pytest.raises(CircuitOpen), dependency.calling(database, NAME, config=CONFIG, pause=paused.append):
        raise AssertionError("called")
    assert paused == []


def test_a_prober_that_comes_back_late_decides_nothing(database: Database) -> None:
    _open(database)
    _let_the_pause_end(database)
    late = breakers.admit(database, NAME)
    _let_the_pause_end(database)
    present = breakers.admit(database, NAME)
    breakers.succeed(database, late)
    assert _state(database) == "half_open"
    breakers.fail(database, late, error="late", pause=timedelta(1), at_once=False, config=CONFIG)
    assert _state(database) == "half_open"
    breakers.succeed(database, present)
    assert _state(database) == "closed"


def test_a_probe_without_a_verdict_leaves_the_next_caller_to_probe_at_once(database: Database) -> None:
    _open(database)
    _let_the_pause_end(database)
    _call_and_fail(database, Cancelled("stop"))
    assert breakers.admit(database, NAME).probe


def test_a_probe_the_quota_refuses_leaves_the_next_caller_to_probe(database: Database) -> None:
    rows(database, "INSERT INTO quota_limits (dependency, requests_per_minute) VALUES ('gemini', 1)")
    _call(database, tokens=1)
    breakers._trust.drop(database, NAME)
    _open(database)
    _let_the_pause_end(database)
    with pytest.raises(RateLimitError, match="quota of gemini"):
        _call(database, tokens=1)
    assert breakers.admit(database, NAME).probe


def test_a_failure_that_began_before_it_opened_changes_nothing(database: Database) -> None:
    early = breakers.admit(database, NAME)
    _open(database)
    before = rows(database, "SELECT failures, probe_at FROM circuit_breaker")
    breakers.fail(database, early, error="late", pause=timedelta(hours=1), at_once=True, config=CONFIG)
    assert rows(database, "SELECT failures, probe_at FROM circuit_breaker") == before


def test_an_incident_opens_once_and_ends_when_it_closes(database: Database) -> None:
    _open(database)
    for _ in range(2):
        _let_the_pause_end(database)
        _call_and_fail(database, NetworkError("still away"))
    assert _open_incidents(database) == 1
    _let_the_pause_end(database)
    _call(database)
    assert _open_incidents(database) == 0
    assert value(database, "SELECT count(*) FROM alert_incident") == 1


def test_one_dependencys_failures_are_not_anothers(database: Database) -> None:
    _open(database)
    with dependency.calling(database, "images:shop.example", config=CONFIG):
        pass
    assert value(database, "SELECT count(*) FROM circuit_breaker") == 1


def test_in_the_good_case_a_process_asks_postgres_once_in_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _call(database)
    monkeypatch.setattr(Database, "begin", lambda _self: pytest.fail("asked again"))
    for _ in range(50):
        _call(database)


def test_a_failure_ends_the_trust_of_its_own_process(database: Database) -> None:
    _call(database)
    _open(database)
    with pytest.raises(CircuitOpen):
        _call(database)


def test_the_tokens_of_a_call_are_settled_and_those_of_a_refused_one_given_back(database: Database) -> None:
    with dependency.calling(database, NAME, config=CONFIG, tokens=500) as call:
        call.settle(tokens=120)
        call.settle(tokens=999)
    _call_and_fail(database, RateLimitError("429"), tokens=500)
    used = dict(tuple(row) for row in rows(database, "SELECT quota, used FROM vw_quota_status"))
    assert (used["tokens_per_minute"], used["requests_per_minute"]) == (120, 2)


def test_a_call_that_failed_keeps_what_it_reserved_because_it_may_have_been_charged(database: Database) -> None:
    _call_and_fail(database, NetworkError("cut off"), tokens=500)
    assert value(database, "SELECT used FROM vw_quota_status WHERE quota = 'tokens_per_minute'") == 500


def test_a_servers_delay_holds_for_all_workers(database: Database) -> None:
    _call_and_fail(database, RateLimitError("429", retry_after=timedelta(seconds=37)), tokens=1)
    with pytest.raises(RateLimitError, match="the server said so") as refused:
        _call(database, tokens=1)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after <= timedelta(seconds=37)


def test_a_quota_per_day_comes_back_when_the_services_day_ends(database: Database) -> None:
    error = RateLimitError("quota", code="daily_quota", details={"quota": "per_day"})
    _call_and_fail(database, error, tokens=1)
    seconds = value(
        database,
        "SELECT extract(epoch FROM quota_next_day(clock_timestamp(), 'America/Los_Angeles') - clock_timestamp())",
    )
    assert error.retry_after is not None
    assert abs(error.retry_after.total_seconds() - float(seconds)) < 5


def test_an_answer_outlives_a_postgres_that_takes_no_note_of_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with dependency.calling(database, NAME, config=CONFIG, tokens=1) as call:
        rows(database, "ALTER TABLE quota_usage RENAME TO quota_usage_away")
        call.settle(tokens=5)
    assert "a quota was not settled" in caplog.text


def test_operators_see_the_open_ones_first(database: Database) -> None:
    with dependency.calling(database, "images:a.example", config=CONFIG):
        pass
    with pytest.raises(NetworkError), dependency.calling(database, "images:b.example", config=CONFIG):
        raise NetworkError("reset")
    _open(database)
    with database.begin() as connection:
        seen = [(one.dependency, one.state, one.failures) for one in breakers.list_breakers(connection)]
    assert seen == [("gemini", "open", 3), ("images:b.example", "closed", 1)]
