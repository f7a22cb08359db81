"""When due work is worth another run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

from squorflow.workflow.waking import FIRST_PATIENCE, LONGEST_PATIENCE, Look, Restraint

START = datetime(2026, 1, 2, tzinfo=UTC)


def look(seconds: float, *, due: int = 1, answered: bool = False, fruitful: bool = False, fresh: bool = True) -> Look:
    return Look(
        at=START + timedelta(seconds=seconds),
        due=frozenset({UUID(int=due)} if due else ()),
        answered=answered or fruitful,
        fruitful=fruitful,
        fresh=fresh,
    )


def test_the_first_work_that_is_due_wakes_at_once() -> None:
    restraint = Restraint()
    assert not restraint.allows(look(0, due=0), rung=False)
    assert restraint.allows(look(10), rung=False)
    assert restraint.since == START + timedelta(seconds=10)


def test_while_no_run_has_claimed_no_ring_starts_another() -> None:
    restraint = Restraint()
    assert restraint.allows(look(0), rung=True)
    assert not any(restraint.allows(look(second / 10), rung=True) for second in range(1, 599))


def test_a_run_that_got_something_lets_the_rest_of_the_backlog_start_the_next() -> None:
    restraint = Restraint()
    assert restraint.allows(look(0), rung=True)
    assert restraint.allows(look(3, fruitful=True), rung=False)


def test_new_work_after_a_run_that_found_nothing_wakes_at_once_but_old_work_does_not() -> None:
    restraint = Restraint()
    assert restraint.allows(look(0), rung=False)
    assert not restraint.allows(look(10, answered=True), rung=False)
    assert restraint.allows(look(12, answered=True), rung=True)


def test_work_that_no_run_takes_starts_fewer_and_fewer() -> None:
    restraint = Restraint()
    woken = [second for second in range(0, 86_400, 10) if restraint.allows(look(second), rung=False)]
    gaps = [later - earlier for earlier, later in pairwise(woken)]
    assert gaps[0] == FIRST_PATIENCE.total_seconds()
    assert gaps == sorted(gaps)
    assert gaps[-1] == LONGEST_PATIENCE.total_seconds()


def test_once_all_was_taken_the_next_work_wakes_at_once() -> None:
    restraint = Restraint()
    assert restraint.allows(look(0), rung=False)
    assert not restraint.allows(look(5, due=0, fruitful=True), rung=False)
    assert restraint.allows(look(6), rung=False)


def test_what_is_due_after_a_run_that_found_nothing_wakes_at_once_if_it_is_something_else() -> None:
    restraint = Restraint()
    assert restraint.allows(look(0, due=1, fresh=False), rung=False)
    assert not restraint.allows(look(10, due=1, answered=True, fresh=False), rung=False)
    assert restraint.allows(look(20, due=2, answered=True, fresh=False), rung=False)
    assert not restraint.allows(look(30, due=2, answered=True, fresh=False), rung=False)


def test_patience_learnt_on_what_nobody_can_take_does_not_hold_fresh_products_back() -> None:
    restraint = Restraint()
    woken = [restraint.allows(look(second, answered=True, fresh=False), rung=False) for second in range(0, 7200, 10)]
    assert sum(woken) > 2
    assert not restraint.allows(look(7200, answered=True, fresh=False), rung=False)
    assert restraint.allows(look(7210, answered=True), rung=False)
    assert not restraint.allows(look(7220, answered=True), rung=False)


def test_only_a_whole_look_that_shows_nothing_due_ends_patience() -> None:
    restraint = Restraint()
    assert restraint.allows(look(0), rung=False)
    assert not restraint.allows(look(5, due=0, answered=True), rung=False, whole=False)
    assert not restraint.allows(look(10, answered=True), rung=False)
    assert not restraint.allows(look(15, due=0, answered=True), rung=False)
    assert restraint.allows(look(20, answered=True), rung=False)
