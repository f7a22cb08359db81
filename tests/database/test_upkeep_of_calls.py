"""Upkeep forgets what dead buyers and hosts that nobody asks any more have left behind, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest

from squorflow.config import WorkflowConfig
from squorflow.enrichment import answers
from squorflow.monitoring.upkeep import run_upkeep
from squorflow.postgres.database import Database
from squorflow.postgres.queries import load
from squorflow.recovery import breakers
from support.processes import wait_until
from support.workflows import rows, value

QUIET = "images:quiet.example"


@pytest.fixture(autouse=True)
def _forget_what_this_process_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakers, "_trust", breakers._Trust())


def _fail(database: Database, dependency: str, *, at_once: bool, config: WorkflowConfig) -> None:
    breakers.fail(
        database,
        breakers.admit(database, dependency),
        error="away",
        pause=timedelta(minutes=1),
        at_once=at_once,
        config=config,
    )


def _age(database: Database, dependency: str, *, days: int) -> None:
    rows(
        database,
        f"UPDATE circuit_breaker SET updated_at = now() - interval '{days} days' WHERE dependency = '{dependency}'",  # noqa: S608
    )


def test_the_claim_of_a_buyer_that_died_goes_and_a_living_ones_stays(
    database: Database, config: WorkflowConfig
) -> None:
    for key, lease in (("dead", timedelta(hours=-2)), ("just lapsed", timedelta(0)), ("living", answers.CLAIM_LEASE)):
        claim = {"content_key": key, "prompt_version": "p", "model": "m", "claimant": uuid4(), "lease": lease}
        with database.begin() as connection:
            connection.execute(load("answers")["claim_answer"], claim)
    assert run_upkeep(database, config=config).answer_claims_thinned == 1
    left = {row.content_key for row in rows(database, "SELECT content_key FROM analysis_claim")}
    assert left == {"just lapsed", "living"}
    assert run_upkeep(database, config=config).answer_claims_thinned == 0


@pytest.mark.parametrize("state", ["closed", "open"])
def test_the_breaker_of_a_host_that_nobody_asks_goes_and_so_does_its_incident(
    database: Database, config: WorkflowConfig, state: str
) -> None:
    for dependency in (QUIET, "images:busy.example", "gemini"):
        _fail(database, dependency, at_once=state == "open", config=config)
    for dependency, days in ((QUIET, 31), ("images:busy.example", 29), ("gemini", 400)):
        _age(database, dependency, days=days)
    assert run_upkeep(database, config=config).breakers_thinned == 1
    kept = {"images:busy.example", "gemini"}
    assert {row.dependency for row in rows(database, "SELECT dependency FROM circuit_breaker")} == kept
    subjects = {
        row.subject
        for row in rows(
            database, "SELECT subject FROM alert_incident WHERE alert = 'breaker_open' AND resolved_at IS NULL"
        )
    }
    assert subjects == (kept if state == "open" else set())
    assert not breakers.admit(database, QUIET).troubled


def test_a_failure_that_meets_upkeep_is_counted_in_a_row_of_its_own(database: Database, config: WorkflowConfig) -> None:
    """The row is locked by the transaction that deletes it; whoever fails waits, and finds none."""
    _fail(database, QUIET, at_once=True, config=config)
    _age(database, QUIET, days=31)
    late = breakers.Admission(dependency=QUIET, caller="late", probe=False, troubled=False)
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as connection:
            gone = connection.execute(load("upkeep")["thin_breakers"], {"days": 30, "batch_size": 10}).scalar_one()
            failing = pool.submit(
                breakers.fail, database, late, error="away", pause=timedelta(1), at_once=False, config=config
            )
            wait_until(lambda: bool(rows(database, "SELECT 1 FROM pg_locks WHERE NOT granted")))
        failing.result(30)
    assert gone == 1
    (row,) = rows(database, "SELECT breaker_state, failures FROM circuit_breaker")
    assert (row.breaker_state, row.failures) == ("closed", 1)
    assert value(database, "SELECT count(*) FROM alert_incident WHERE resolved_at IS NULL") == 0
