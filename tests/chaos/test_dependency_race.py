"""Many processes reserve from one quota and probe one breaker."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.recovery import breakers
from support.callers import count_probes, count_reservations
from support.workflows import rows, value

PROCESSES = 8


def _in_processes(database: Database, function: Callable[[str, int], int], *, tries: int) -> list[int]:
    address = database.engine.url.render_as_string(hide_password=False)
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["support.callers", "sqlalchemy.dialects.postgresql.psycopg"])
    shares = [tries // PROCESSES + (number < tries % PROCESSES) for number in range(PROCESSES)]
    with start.Pool(PROCESSES) as pool:
        return pool.starmap(function, [(address, share) for share in shares], chunksize=1)


def test_a_hundred_reservations_at_once_against_a_limit_of_fifteen_grant_exactly_fifteen(database: Database) -> None:
    assert sum(_in_processes(database, count_reservations, tries=100)) == 15
    assert value(database, "SELECT used FROM vw_quota_status WHERE quota = 'requests_per_minute'") == 15


def test_of_192_callers_at_a_breaker_whose_probe_is_due_exactly_one_probes(
    database: Database, config: WorkflowConfig
) -> None:
    for number in range(config.breaker_threshold):
        breakers.fail(
            database,
            breakers.admit(database, "gemini"),
            error=f"failure {number}",
            pause=timedelta(minutes=1),
            at_once=False,
            config=config,
        )
    rows(database, "UPDATE circuit_breaker SET probe_at = clock_timestamp()")
    assert sum(_in_processes(database, count_probes, tries=192)) == 1
    assert value(database, "SELECT breaker_state FROM circuit_breaker") == "half_open"
