"""The in-process workers on a real queue: what they finish, what they give back, and when they end.

What the stages do is replaced by functions of the test; acquiring, fencing, finishing and failing are the real ones.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import ProgrammingError

from squorflow import stages
from squorflow.config import WorkflowConfig
from squorflow.errors import DataError, TransientError
from squorflow.orchestrator import DrainReport, ProductEvent, ProductOutcome, WorkerPool, drain
from squorflow.postgres.database import Database
from squorflow.recovery.reaper import nothing_known, reap
from squorflow.stages import make_clients
from squorflow.stages.context import StageContext, StageResult
from squorflow.states import STAGES, Stage, WorkflowState
from squorflow.workflow import audit, leases, listing, queue
from squorflow.workflow.transitions import transition
from support.processes import blocked_worker
from support.work import Work

SOON = timedelta(milliseconds=200)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    monkeypatch.setattr(stages, "_stage_function", work.of)
    return work


def enqueue(database: Database, number: int) -> list[UUID]:
    items = [
        queue.NewItem(url=f"https://shop.example/{n}", name=f"n{n}", brand=None, crawler_data={}, dedupe_key=None)
        for n in range(number)
    ]
    with database.begin() as connection:
        report = queue.enqueue(connection, items, actor="test", max_retries=1)
    return [one for one in report.workflow_ids if one is not None]


def run(database: Database, config: WorkflowConfig, **changes: Any) -> DrainReport:
    config = config.model_copy(update=changes)
    return drain(database, config=config, clients=make_clients(config), num_workers=config.num_workers)


def states(database: Database) -> dict[str, int]:
    with database.begin() as connection:
        return {state.value: count for state, count in listing.count_states(connection).items() if count}


def read(database: Database, statement: str, **parameters: Any) -> list[Any]:
    with database.begin() as connection:
        return list(connection.execute(text(statement), parameters))


def owned(database: Database) -> int:
    return len(read(database, "SELECT 1 FROM processing_queue WHERE locked_by IS NOT NULL"))


@contextmanager
def running(pool: WorkerPool) -> Iterator[list[DrainReport]]:
    """Run a pool in a thread; inside the block the list is empty, after it it holds the report."""
    reports: list[DrainReport] = []
    thread = threading.Thread(target=lambda: reports.append(pool.run()))
    thread.start()
    try:
        yield reports
    finally:
        pool.stop("the test is over")
        thread.join()


def test_an_empty_queue_ends_at_once(database: Database, config: WorkflowConfig) -> None:
    report = run(database, config)
    assert (report.completed, report.stopped, report.held_elsewhere) == (0, None, 0)


class SlowToWake(threading.Condition):
    """One whose woken workers get no processor for a while, as on a machine with much else to do."""

    def __init__(self) -> None:
        super().__init__()
        self.woken, self.runs = threading.Event(), threading.Event()

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        came = super().wait_for(predicate, timeout)
        if threading.current_thread().name.startswith("worker-"):
            self.woken.set()
            self.release()
            self.runs.wait(1)
            self.acquire()
        return came


def test_a_worker_that_was_woken_and_is_about_to_claim_does_not_count_as_idle(
    database: Database, config: WorkflowConfig, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = WorkerPool(database, config=config, clients=make_clients(config), num_workers=1, stays=True)
    pool._condition = condition = SlowToWake()
    claimed = threading.Event()
    asked: list[Future[None]] = []
    told_early: list[bool] = []

    def count_after_the_claim(*arguments: Any, **options: Any) -> int:
        if condition.woken.is_set():
            condition.runs.set()
            assert claimed.wait(60)
        return counted(*arguments, **options)

    def discover(_context: StageContext) -> StageResult:
        claimed.set()
        told_early.append(bool(wait(asked, timeout=1).done))
        return StageResult(summary="found")

    counted = queue.count_claimable
    monkeypatch.setattr(queue, "count_claimable", count_after_the_claim)
    work.functions[Stage.DISCOVERY] = discover
    with running(pool):
        pool.emptiness.ask().result(60)
        enqueue(database, 1)
        asked.append(pool.emptiness.ask())
        asked[0].result(60)
        assert told_early == [False]
        assert states(database) == {"completed": 1}


def test_every_product_goes_through_all_stages_once_and_in_order(
    database: Database, config: WorkflowConfig, work: Work
) -> None:
    ids = enqueue(database, 20)
    report = run(database, config)
    assert report.completed == 20
    assert work.order == {one: list(STAGES) for one in ids}
    assert states(database) == {"completed": 20}
    assert audit.verify(database).problems == ()


def test_two_drains_at_once_share_the_queue(database: Database, config: WorkflowConfig, work: Work) -> None:
    enqueue(database, 20)
    with ThreadPoolExecutor(2) as both:
        reports = list(both.map(lambda _: run(database, config), range(2)))
    assert states(database) == {"completed": 20}
    assert set(work.runs.values()) == {1}
    assert sum(report.completed for report in reports) == 20


def test_a_product_that_waits_for_a_retry_belongs_to_nobody(
    database: Database, config: WorkflowConfig, work: Work
) -> None:
    def fail(_context: StageContext) -> StageResult:
        raise TransientError("not now")

    work.functions[Stage.DISCOVERY] = fail
    enqueue(database, 1)
    waits = threading.Event()
    pool = WorkerPool(
        database, config=config, clients=make_clients(config), num_workers=2, on_wait=lambda _seconds: waits.set()
    )
    with running(pool) as reports:
        assert waits.wait(60)
        assert states(database) == {"retrying": 1}
        assert owned(database) == 0
    assert reports[0].retries == 1
    assert reports[0].stopped == "the test is over"


def test_a_retry_that_is_due_later_is_waited_for(database: Database, config: WorkflowConfig, work: Work) -> None:
    def fail_first(context: StageContext) -> StageResult:
        if work.runs[context.workflow_id, Stage.ENRICHMENT] == 1:
            raise TransientError("not now")
        return StageResult(summary="now")

    work.functions[Stage.ENRICHMENT] = fail_first
    enqueue(database, 3)
    report = run(database, config, retry_backoff_base=SOON)
    assert (report.completed, report.retries, report.failed) == (3, 3, 0)
    assert work.runs.total() == 3 * (len(STAGES) + 1), "finished stages are not run again"


def test_a_product_without_tries_left_is_parked(database: Database, config: WorkflowConfig, work: Work) -> None:
    def fail(_context: StageContext) -> StageResult:
        raise TransientError("never")

    work.functions[Stage.SCORING] = fail
    enqueue(database, 1)
    report = run(database, config, retry_backoff_base=SOON)
    assert (report.failed, report.retries) == (1, 1)
    assert states(database) == {"failed": 1}


def test_bad_data_is_left_for_a_person(database: Database, config: WorkflowConfig, work: Work) -> None:
    def refuse(_context: StageContext) -> StageResult:
        raise DataError("no text at all")

    work.functions[Stage.DISCOVERY] = refuse
    enqueue(database, 2)
    assert run(database, config).suspended == 2
    assert states(database) == {"suspended": 2}


def test_products_of_a_dag_run_are_left_to_it(database: Database, config: WorkflowConfig, work: Work) -> None:
    enqueue(database, 3)
    with database.begin() as connection:
        queue.claim_for_run(connection, owner="airflow:here/dag/run", limit=2)
    report = run(database, config)
    assert (report.completed, report.held_elsewhere) == (1, 2)
    assert states(database) == {"completed": 1, "queued": 2}


def test_a_product_that_was_never_queued_is_reported_and_left(
    database: Database, config: WorkflowConfig, work: Work
) -> None:
    enqueue(database, 1)
    with database.begin() as connection:
        connection.execute(text("INSERT INTO processing_queue (workflow_state, product_name) VALUES ('created', 'x')"))
    report = run(database, config)
    assert (report.completed, report.not_queued) == (1, 1)
    assert states(database) == {"completed": 1, "created": 1}


def test_a_product_that_a_person_cancels_meanwhile_is_dropped(
    database: Database, config: WorkflowConfig, work: Work
) -> None:
    def be_cancelled(context: StageContext) -> StageResult:
        with database.begin() as connection:
            transition(connection, context.workflow_id, WorkflowState.CANCELLED, actor="api:anna", reason="recalled")
        return StageResult(summary="too late")

    work.functions[Stage.ENRICHMENT] = be_cancelled
    enqueue(database, 1)
    report = run(database, config)
    assert (report.skipped, report.completed) == (1, 0)
    assert states(database) == {"cancelled": 1}


def test_a_stage_that_overruns_is_ended_and_tried_again(database: Database, config: WorkflowConfig, work: Work) -> None:
    def dawdle(context: StageContext) -> StageResult:
        while work.runs[context.workflow_id, Stage.ENRICHMENT] == 1:
            context.cancellation.wait(10)
        return StageResult(summary="in time")

    work.functions[Stage.ENRICHMENT] = dawdle
    (workflow_id,) = enqueue(database, 1)
    report = run(database, config, processing_timeout=SOON, retry_backoff_base=SOON)
    assert (report.completed, report.retries) == (1, 1)
    with database.begin() as connection:
        reasons = [row.reason for row in audit.list_history(connection, workflow_id)]
    assert any("ran longer than" in reason for reason in reasons)


def test_a_stop_gives_everything_back_and_costs_no_try(database: Database, config: WorkflowConfig, work: Work) -> None:
    begun = threading.Event()

    def wait(context: StageContext) -> StageResult:
        begun.set()
        context.cancellation.wait(600)
        return StageResult(summary="not stopped")

    work.functions[Stage.ENRICHMENT] = wait
    enqueue(database, 12)
    events: list[ProductEvent] = []
    pool = WorkerPool(database, config=config, clients=make_clients(config), num_workers=2, on_event=events.append)
    with running(pool) as reports:
        assert begun.wait(60)
        pool.stop("somebody said so")
    assert reports[0].stopped == "somebody said so"
    assert {event.outcome for event in events} == {ProductOutcome.STOPPED}
    assert owned(database) == 0
    assert set(states(database)) <= {"queued", "retrying"}
    assert read(database, "SELECT DISTINCT retry_count FROM processing_queue") == [(0,)]

    work.functions.clear()
    assert run(database, config).completed == 12
    assert audit.verify(database).problems == ()


def test_a_lost_database_connection_costs_no_product(
    database: Database, database_url: URL, config: WorkflowConfig, work: Work
) -> None:
    cut = threading.Event()
    engine = create_engine(database_url)

    def cut_once(_context: StageContext) -> StageResult:
        if not cut.is_set():
            cut.set()
            with engine.connect() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
        return StageResult(summary="done")

    work.functions[Stage.DATA_MAPPING] = cut_once
    enqueue(database, 12)
    report = run(database, config, retry_backoff_base=SOON)
    engine.dispose()
    assert report.completed == 12
    assert audit.verify(database).problems == ()


def test_a_broken_installation_ends_the_drain_with_its_error(
    database: Database, config: WorkflowConfig, work: Work
) -> None:
    enqueue(database, 1)
    with database.begin() as connection:
        connection.execute(text("DROP FUNCTION workflow_acquire"))
    with pytest.raises(ProgrammingError, match="workflow_acquire"):
        run(database, config)
    assert owned(database) == 0


def test_a_retry_whose_worker_died_before_giving_it_back_is_released(
    database: Database, config: WorkflowConfig
) -> None:
    (workflow_id,) = enqueue(database, 1)
    owner = "worker:host/1/dead"
    with database.begin() as connection:
        queue.claim_for_worker(connection, owner=owner, limit=1, lease=timedelta(hours=1))
        acquired = leases.acquire(
            connection,
            workflow_id,
            stage=Stage.DISCOVERY,
            owner=owner,
            actor="worker",
            lease=timedelta(hours=1),
            manual=False,
        )
        leases.fail(
            connection,
            workflow_id,
            token=acquired.token,
            actor="worker",
            action="retry",
            category="transient",
            delay=timedelta(hours=1),
            reason="not now",
            last_error="E",
            details={},
            counts=True,
        )
    assert owned(database) == 1
    reap(database, liveness=nothing_known, config=config)
    assert owned(database) == 0
    assert states(database) == {"retrying": 1}


def test_a_retry_that_waits_in_a_live_dag_run_stays_its_own(database: Database, config: WorkflowConfig) -> None:
    (workflow_id,) = enqueue(database, 1)
    owner = "airflow:here/dag/run"
    with database.begin() as connection:
        queue.claim_for_run(connection, owner=owner, limit=1)
        acquired = leases.acquire(
            connection,
            workflow_id,
            stage=Stage.DISCOVERY,
            owner=owner,
            actor="task",
            lease=timedelta(hours=1),
            manual=False,
        )
        leases.fail(
            connection,
            workflow_id,
            token=acquired.token,
            actor="task",
            action="retry",
            category="transient",
            delay=timedelta(hours=1),
            reason="not now",
            last_error="E",
            details={},
            counts=True,
        )
    reap(database, liveness=nothing_known, config=config)
    assert owned(database) == 1


def test_the_products_of_a_killed_worker_are_finished_by_the_next(
    database: Database, database_url: URL, config: WorkflowConfig, work: Work, tmp_path: Path
) -> None:
    enqueue(database, 6)
    with blocked_worker(database_url, tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert owned(database) > 0
        report = run(database, config)
    assert (report.completed, report.held_elsewhere) == (6, 0)
    tries = read(database, "SELECT retry_count, count(*) FROM processing_queue GROUP BY 1 ORDER BY 1")
    assert tries == [(0, 5), (1, 1)], "what was running counts as a try, what was only claimed does not"


@pytest.mark.parametrize("program", ["drain", "worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_worker_cleanly(
    number: signal.Signals, program: str, database: Database, database_url: URL, tmp_path: Path
) -> None:
    enqueue(database, 6)
    with blocked_worker(database_url, tmp_path, program=program) as process:
        process.send_signal(number)
        _, complaints = process.communicate()
    assert process.returncode == {"drain": 1, "worker": 0}[program]
    assert f"stopped by {number.name}" in complaints
    assert "Traceback" not in complaints
    assert owned(database) == 0
    assert states(database) == {"queued": 5, "retrying": 1}
