"""Quotas: no minute and no day ever takes more than the limit, and nothing that was reserved is lost for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from squorflow.config import WorkflowConfig
from squorflow.errors import RateLimitError
from squorflow.postgres.database import Database
from squorflow.recovery import quotas
from squorflow.recovery.quotas import GEMINI, Limits, Reservation
from support.workflows import rows, value


def _reserve(database: Database, *, tokens: int = 0, **limits: Any) -> Reservation:
    return quotas.reserve(database, GEMINI, tokens=tokens, limits=Limits(**limits))


def _let_pass(database: Database, seconds: int) -> None:
    """Make everything that was used, and promised, so many seconds older."""
    for account in ("seconds", "promised"):
        rows(
            database,
            "UPDATE quota_usage SET usage = jsonb_set(usage, ARRAY[CAST(:account AS text)], (SELECT coalesce("
            " jsonb_object_agg(s.key::bigint - :seconds, s.value), '{}') FROM jsonb_each(usage -> :account) AS s))",
            account=account,
            seconds=seconds,
        )


def _let_the_day_end(database: Database) -> None:
    rows(database, "UPDATE quota_usage SET usage = usage || jsonb_build_object('day', (usage ->> 'day')::date - 1)")


def _used(database: Database, quota: str) -> int:
    return int(value(database, "SELECT used FROM vw_quota_status WHERE quota = :quota", quota=quota))


def test_a_request_beyond_the_minutes_limit_is_told_when_it_fits(database: Database) -> None:
    _reserve(database, requests_per_minute=2)
    _let_pass(database, 20)
    _reserve(database, requests_per_minute=2)
    with pytest.raises(RateLimitError, match=r"quota of gemini is used up \(requests_per_minute\)") as refused:
        _reserve(database, requests_per_minute=2)
    assert refused.value.code == "own_quota"
    assert refused.value.retry_after is not None
    assert 38 <= refused.value.retry_after.total_seconds() <= 41


def _told(database: Database, *, tokens: int = 0, **limits: Any) -> int:
    """Be refused; return the seconds that are to be waited."""
    with pytest.raises(RateLimitError) as refused:
        _reserve(database, tokens=tokens, **limits)
    assert refused.value.retry_after is not None
    return round(refused.value.retry_after.total_seconds())


def test_many_who_are_refused_are_told_one_minute_after_the_other_as_many_as_each_holds(database: Database) -> None:
    for _ in range(15):
        _reserve(database, requests_per_minute=15)
    told = [_told(database, requests_per_minute=15) for _ in range(40)]
    assert [(seconds + 5) // 61 for seconds in told] == [1] * 15 + [2] * 15 + [3] * 10


def test_tokens_are_promised_as_requests_are(database: Database) -> None:
    _reserve(database, tokens=900, tokens_per_minute=1000)
    told = [_told(database, tokens=400, tokens_per_minute=1000) for _ in range(5)]
    assert [(seconds + 5) // 61 for seconds in told] == [1, 1, 2, 2, 3]


def test_a_promise_keeps_nobody_out_and_is_forgotten_when_its_time_has_come(database: Database) -> None:
    _reserve(database, requests_per_minute=1)
    told = [_told(database, requests_per_minute=1) for _ in range(3)]
    assert max(told) > 150
    # None of those three has come back, and somebody new finds the minute empty.
    _let_pass(database, 61)
    _reserve(database, requests_per_minute=1)
    _let_pass(database, 180)
    _reserve(database, requests_per_minute=1)
    assert 55 <= _told(database, requests_per_minute=1) <= 62


def test_who_waits_for_the_day_is_promised_no_minute(database: Database) -> None:
    _reserve(database, requests_per_minute=1, requests_per_day=1)
    _told(database, requests_per_minute=1, requests_per_day=1)
    assert 55 <= _told(database, requests_per_minute=1) <= 62


def test_the_minute_slides_so_its_edge_takes_no_more_than_the_limit(database: Database) -> None:
    _reserve(database, requests_per_minute=2)
    _reserve(database, requests_per_minute=2)
    _let_pass(database, 59)
    with pytest.raises(RateLimitError):
        _reserve(database, requests_per_minute=2)
    _let_pass(database, 2)
    _reserve(database, requests_per_minute=2)


def test_a_reservation_whose_worker_died_leaves_with_its_minute(database: Database) -> None:
    _reserve(database, tokens=900, tokens_per_minute=1000)
    with pytest.raises(RateLimitError, match="tokens_per_minute"):
        _reserve(database, tokens=900, tokens_per_minute=1000)
    _let_pass(database, 61)
    _reserve(database, tokens=900, tokens_per_minute=1000)


def test_what_was_reserved_becomes_what_was_used(database: Database) -> None:
    reservation = _reserve(database, tokens=900, tokens_per_minute=1000, tokens_per_day=5000)
    quotas.settle(database, reservation, tokens=100)
    assert (_used(database, "tokens_per_minute"), _used(database, "tokens_per_day")) == (100, 100)
    _reserve(database, tokens=900, tokens_per_minute=1000)
    assert _used(database, "requests_per_minute") == 2


def test_a_call_that_was_never_made_is_given_back(database: Database) -> None:
    quotas.give_back(database, _reserve(database, tokens=5, requests_per_minute=1))
    assert [_used(database, quota) for quota in ("requests_per_minute", "requests_per_day", "tokens_per_day")] == [
        0
    ] * 3
    _reserve(database, requests_per_minute=1)


def test_settling_after_minute_and_day_are_over_changes_nothing_of_the_present_ones(database: Database) -> None:
    present = _reserve(database, tokens=10, tokens_per_day=1000)
    old = replace(present, slot=present.slot - 100, reserved_day=present.reserved_day - timedelta(days=1), tokens=900)
    quotas.settle(database, old, tokens=5)
    assert (_used(database, "tokens_per_minute"), _used(database, "tokens_per_day")) == (10, 10)


def test_more_than_was_reserved_counts_too(database: Database) -> None:
    quotas.settle(database, _reserve(database, tokens=10, tokens_per_minute=100), tokens=5000)
    with pytest.raises(RateLimitError):
        _reserve(database, tokens=1, tokens_per_minute=100)


def test_a_call_larger_than_a_whole_limit_goes_alone(database: Database) -> None:
    assert _reserve(database, tokens=5000, tokens_per_minute=1000).tokens == 1000
    with pytest.raises(RateLimitError):
        _reserve(database, tokens=5000, tokens_per_minute=1000)


def test_a_days_quota_is_refused_until_midnight_of_its_zone(database: Database) -> None:
    zone = "America/Los_Angeles"
    _reserve(database, requests_per_day=1, zone=zone)
    with pytest.raises(RateLimitError, match="requests_per_day") as refused:
        _reserve(database, requests_per_day=1, zone=zone)
    seconds = value(
        database, "SELECT extract(epoch FROM quota_next_day(clock_timestamp(), :zone) - clock_timestamp())", zone=zone
    )
    assert refused.value.retry_after is not None
    assert abs(refused.value.retry_after.total_seconds() - float(seconds)) < 5
    _let_the_day_end(database)
    _reserve(database, requests_per_day=1, zone=zone)


@pytest.mark.parametrize(
    ("now", "zone", "midnight"),
    [
        ("2026-03-08 12:00+00", "America/Los_Angeles", "2026-03-09 07:00+00"),
        ("2026-11-01 07:30+00", "America/Los_Angeles", "2026-11-02 08:00+00"),
        ("2026-06-01 06:59:59+00", "America/Los_Angeles", "2026-06-01 07:00+00"),
        ("2026-06-01 12:00+00", "UTC", "2026-06-02 00:00+00"),
    ],
    ids=["clocks go forward", "clocks go back", "a second before", "UTC"],
)
def test_the_next_midnight_knows_when_clocks_change(database: Database, now: str, zone: str, midnight: str) -> None:
    assert value(
        database,
        "SELECT quota_next_day(CAST(:now AS timestamptz), :zone) = CAST(:midnight AS timestamptz)",
        now=now,
        zone=zone,
        midnight=midnight,
    )


def test_what_the_server_refuses_nobody_asks_until_it_is_over(database: Database) -> None:
    remaining = quotas.exhaust(database, GEMINI, wait=timedelta(seconds=37), zone="UTC")
    assert timedelta(seconds=36) < remaining <= timedelta(seconds=37)
    with pytest.raises(RateLimitError, match="the server said so") as refused:
        _reserve(database)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after <= timedelta(seconds=37)
    rows(database, "UPDATE quota_usage SET exhausted_until = clock_timestamp()")
    _reserve(database)


def test_a_shorter_refusal_does_not_end_a_longer_one(database: Database) -> None:
    quotas.exhaust(database, GEMINI, wait=timedelta(hours=2), zone="UTC")
    assert quotas.exhaust(database, GEMINI, wait=timedelta(seconds=1), zone="UTC") > timedelta(hours=1)


def test_a_row_of_the_table_wins_over_the_settings(database: Database) -> None:
    rows(database, "INSERT INTO quota_limits (dependency, requests_per_minute) VALUES ('gemini', 1)")
    _reserve(database, requests_per_minute=100)
    with pytest.raises(RateLimitError):
        _reserve(database, requests_per_minute=100)


def test_a_time_zone_that_does_not_exist_is_refused_where_it_is_entered(database: Database) -> None:
    with pytest.raises(DBAPIError, match="Mars/Olympus"):
        rows(database, "INSERT INTO quota_limits (dependency, resets_at_zone) VALUES ('gemini', 'Mars/Olympus')")
    _reserve(database, requests_per_minute=1)


def test_limits_come_from_the_settings_and_none_is_no_limit() -> None:
    config = WorkflowConfig(gemini_requests_per_minute=15)
    limits = quotas.limits_of(GEMINI, config=config)
    assert (limits.requests_per_minute, limits.tokens_per_day, limits.zone) == (15, None, "America/Los_Angeles")
    assert quotas.limits_of("images:a.example", config=config) == Limits()


def test_operators_see_what_is_used_of_which_limit(database: Database) -> None:
    _reserve(database, tokens=250, requests_per_minute=4, tokens_per_day=1000)
    with database.begin() as connection:
        status = {one.quota: (one.used, one.allowed, one.share) for one in quotas.list_status(connection)}
    assert status == {
        "requests_per_minute": (1, 4, 0.25),
        "requests_per_day": (1, None, None),
        "tokens_per_minute": (250, None, None),
        "tokens_per_day": (250, 1000, 0.25),
    }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), max_size=25))
def test_no_sixty_seconds_hold_more_than_either_limit(database: Database, steps: list[tuple[int, int]]) -> None:
    clock = 0
    granted: list[tuple[int, int]] = []
    waits: list[timedelta | None] = []
    # One database serves all examples.
    rows(database, "DELETE FROM quota_usage")
    for pause, tokens in steps:
        _let_pass(database, pause)
        clock += pause
        try:
            _reserve(database, tokens=tokens, requests_per_minute=5, tokens_per_minute=100)
        except RateLimitError as refused:
            waits.append(refused.retry_after)
        else:
            granted.append((clock, tokens))
    for others, wait in enumerate(waits):
        assert wait is not None
        assert timedelta(0) < wait <= (others + 1) * timedelta(seconds=61)
    for start, _ in granted:
        window = [tokens for when, tokens in granted if start <= when <= start + 60]
        assert len(window) <= 5
        assert sum(window) <= 100
