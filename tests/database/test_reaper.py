"""The reaper: takes back what nobody works on any more, touches nothing it knows nothing of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.recovery import reaper, unreported
from squorflow.recovery.reaper import OwnerLife, nothing_known, reap, release_due
from squorflow.recovery.unreported import Silent, list_silent
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import audit, queue
from squorflow.workflow.leases import Outcome
from support import workflows
from support.storm_findings import UNREPORTED
from support.workflows import LEASE, OTHER_RUN, RUN, Held, enqueue, get_row, get_state, hold_one, rows, value

WORKER = "worker:host/7/0c9d"


class Runs:
    """A liveness that knows what it was told, and remembers what it was asked."""

    def __init__(self, **lives: OwnerLife) -> None:
        self.lives = {RUN if name == "run" else OTHER_RUN: life for name, life in lives.items()}
        self.asked: list[str] = []

    def __call__(self, owners: Sequence[str]) -> Mapping[str, OwnerLife]:
        self.asked += owners
        return {owner: life for owner, life in self.lives.items() if owner in owners}


ALIVE, DEAD = OwnerLife(alive=True), OwnerLife(alive=False)


def _expire(database: Database) -> None:
    rows(database, "UPDATE processing_queue SET lease_expires_at = clock_timestamp() - interval '1 s'")


def _forget_lease(database: Database) -> None:
    rows(database, "UPDATE processing_queue SET lease_expires_at = NULL")


def _reasons(database: Database, workflow_id: UUID) -> list[str]:
    found = rows(
        database,
        "SELECT actor, reason FROM workflow_transitions WHERE workflow_id = :id AND to_state = 'failed'",
        id=workflow_id,
    )
    assert {row.actor for row in found} <= {"reaper"}
    return [row.reason for row in found]


@pytest.fixture(autouse=True)
def _every_trail_holds(database: Database) -> Iterator[None]:
    yield
    assert audit.verify(database).problems == ()


@pytest.mark.parametrize("owner", [RUN, WORKER, "airflow:elsewhere/product_workflow/run_9", "somebody"])
def test_a_row_whose_lease_ran_out_is_taken_back_whoever_owns_it(
    database: Database, config: WorkflowConfig, owner: str
) -> None:
    held = hold_one(database, owner=owner)
    _expire(database)
    report = reap(database, liveness=nothing_known, config=config)
    assert (report.expired, report.of_dead_runs, report.released) == (1, 0, 1)
    row = get_row(database, held.workflow_id)
    assert (row.workflow_state, row.locked_by, row.retry_count) == ("queued", None, 1)
    assert row.lease_token > held.token
    assert _reasons(database, held.workflow_id) == [f"worker lost: the lease of {owner} ran out"]


def test_work_begun_in_psql_comes_back_when_its_short_lease_runs_out(
    database: Database, config: WorkflowConfig
) -> None:
    (workflow_id,) = enqueue(database)
    rows(database, "UPDATE processing_queue SET workflow_state = 'processing'")
    assert get_row(database, workflow_id).locked_by == "db:postgres"
    assert reap(database, liveness=nothing_known, config=config).expired == 0
    _expire(database)
    assert reap(database, liveness=nothing_known, config=config).expired == 1
    assert get_state(database, workflow_id) == "queued"


def test_work_whose_owner_was_blanked_in_psql_comes_back(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database)
    rows(database, "UPDATE processing_queue SET locked_by = NULL, locked_at = NULL, lease_expires_at = NULL")
    assert reap(database, liveness=nothing_known, config=config).expired == 1
    assert get_state(database, held.workflow_id) == "queued"


def test_a_live_lease_is_left_alone(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database)
    before = get_row(database, held.workflow_id)
    assert reap(database, liveness=Runs(run=DEAD), config=config).of_dead_runs == 0
    assert get_row(database, held.workflow_id) == before


def test_what_a_dead_worker_claimed_and_never_began_is_claimable_again_at_no_cost(
    database: Database, config: WorkflowConfig
) -> None:
    enqueue(database, count=3)
    with database.begin() as connection:
        queue.claim_for_worker(connection, owner=WORKER, limit=3, lease=LEASE)
    _expire(database)
    assert reap(database, liveness=nothing_known, config=config).expired == 3
    assert len(workflows.claim(database)) == 3
    assert value(database, "SELECT max(retry_count) FROM processing_queue") == 0


def test_a_retry_that_belongs_to_a_dead_worker_is_not_lost(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database, owner=WORKER)
    workflows.fail(database, held, action="retry", delay=timedelta(0))
    assert get_row(database, held.workflow_id).locked_by == WORKER
    reap(database, liveness=nothing_known, config=config)
    row = get_row(database, held.workflow_id)
    assert (row.workflow_state, row.locked_by, row.retry_count) == ("queued", None, 1)


def test_a_run_between_two_stages_is_alive_without_a_lease(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database)
    workflows.finish(database, held)
    before = get_row(database, held.workflow_id)
    report = reap(database, liveness=Runs(run=ALIVE), config=config)
    assert (report.expired, report.of_dead_runs) == (0, 0)
    assert get_row(database, held.workflow_id) == before


def test_the_rows_of_a_dead_run_are_taken_back(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database)
    workflows.finish(database, held)
    report = reap(database, liveness=Runs(run=DEAD), config=config)
    assert (report.of_dead_runs, report.released) == (1, 1)
    row = get_row(database, held.workflow_id)
    assert (row.workflow_state, row.stage, row.locked_by) == ("queued", "image_fetch", None)
    assert _reasons(database, held.workflow_id) == [f"worker lost: {RUN} is no longer running"]


def test_what_a_dead_run_never_began_costs_no_try(database: Database, config: WorkflowConfig) -> None:
    enqueue(database, count=2)
    claimed = workflows.claim(database)
    assert reap(database, liveness=Runs(run=DEAD), config=config).of_dead_runs == 2
    assert [get_row(database, one).retry_count for one in claimed] == [0, 0]
    assert len(workflows.claim(database, owner=OTHER_RUN)) == 2


def test_a_retry_of_a_dead_run_goes_to_any_run_and_costs_no_further_try(
    database: Database, config: WorkflowConfig
) -> None:
    held = hold_one(database)
    workflows.fail(database, held, action="retry", delay=timedelta(0))
    reap(database, liveness=Runs(run=DEAD), config=config)
    assert get_row(database, held.workflow_id).retry_count == 1
    assert workflows.claim(database, owner=OTHER_RUN) == [held.workflow_id]


def test_the_dead_run_is_told_that_its_product_belongs_to_another(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database)
    workflows.finish(database, held)
    reap(database, liveness=Runs(run=DEAD), config=config)
    workflows.claim(database, owner=OTHER_RUN)
    late = workflows.acquire(database, held.workflow_id, stage=Stage.IMAGE_FETCH)
    assert late.detail == f"it is owned by {OTHER_RUN}"


def test_a_retry_of_a_live_run_is_left_to_airflow(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database)
    workflows.fail(database, held, action="retry", delay=timedelta(0))
    assert reap(database, liveness=Runs(run=ALIVE), config=config).released == 0
    assert get_state(database, held.workflow_id) == "retrying"


def test_single_products_of_a_live_run_whose_tasks_ended_are_taken_back(
    database: Database, config: WorkflowConfig
) -> None:
    enqueue(database, count=3)
    claimed = workflows.claim(database)
    for one in claimed:
        workflows.acquire(database, one)
    _forget_lease(database)
    life = OwnerLife(alive=True, dead_map_indexes=frozenset({1}))
    assert reap(database, liveness=Runs(run=life), config=config).of_dead_runs == 1
    assert [get_state(database, one) for one in claimed] == ["processing", "queued", "processing"]
    assert _reasons(database, claimed[1]) == [f"worker lost: its tasks in {RUN} have ended"]


@pytest.fixture
def between(database: Database) -> Held:
    """A product whose image_fetch was written longer ago than a task takes to end."""
    held = workflows.run_to(database, hold_one(database), stage=Stage.IMAGE_FETCH)
    workflows.finish(database, held, stage=Stage.IMAGE_FETCH)
    _written_long_ago(database)
    return held


def _written_long_ago(database: Database, *, seconds: int = 3_600) -> None:
    rows(
        database,
        "UPDATE workflow_checkpoint SET created_at = clock_timestamp() - :ago",
        ago=timedelta(seconds=seconds),
    )


RUNS, ENDED = True, False


class Tasks:
    """Says which done stages still run, one answer after the other, and remembers what it was asked."""

    def __init__(self, *answers: bool, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.answers = list(answers)
        self.meanwhile = meanwhile
        self.asked: list[list[Silent]] = []

    def __call__(self, silent: Sequence[Silent]) -> Sequence[Silent]:
        self.asked.append(list(silent))
        if self.answers.pop(0):
            self.meanwhile()
            return silent
        return ()


@pytest.fixture(autouse=True)
def _no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreported, "DOUBT", timedelta(0))


def test_a_stage_that_was_written_and_still_runs_in_airflow_has_lost_its_worker(
    database: Database, config: WorkflowConfig, between: Held
) -> None:
    tasks = Tasks(RUNS, RUNS)
    report = reap(database, liveness=Runs(run=ALIVE), still_running=tasks, config=config)
    silent = Silent(
        workflow_id=between.workflow_id, owner=RUN, map_index=0, stage=Stage.IMAGE_FETCH, token=between.token
    )
    assert tasks.asked == [[silent], [silent]]
    assert (report.unreported, report.released, report.of_dead_runs) == (1, 1, 0)
    assert "1 rows taken back of which Airflow was not told" in report.summary()
    row = get_row(database, between.workflow_id)
    assert (row.workflow_state, row.stage, row.locked_by, row.retry_count) == ("queued", "enrichment", None, 1)
    assert row.error_details == {"class": "WorkerLost", "stage": "image_fetch", "owner": RUN}
    assert _reasons(database, between.workflow_id) == [f"worker lost: {UNREPORTED} that image_fetch was done, in {RUN}"]


@pytest.mark.parametrize(("spent", "after"), [(0, 1), (1, 1), (3, 3)])
def test_nothing_was_lost_so_it_costs_no_more_than_one_try_and_never_the_last(
    database: Database, config: WorkflowConfig, between: Held, spent: int, after: int
) -> None:
    rows(database, "UPDATE processing_queue SET retry_count = :spent", spent=spent)
    reap(database, liveness=Runs(run=ALIVE), still_running=Tasks(RUNS, RUNS), config=config)
    row = get_row(database, between.workflow_id)
    assert (row.workflow_state, row.retry_count) == ("queued", after)


def test_a_workflow_without_retries_goes_on_as_well(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database, max_retries=0)
    workflows.finish(database, held)
    _written_long_ago(database)
    assert reap(database, liveness=Runs(), still_running=Tasks(RUNS, RUNS), config=config).unreported == 1
    assert get_state(database, held.workflow_id) == "queued"


def test_its_own_run_takes_it_up_if_it_comes_first(database: Database, config: WorkflowConfig, between: Held) -> None:
    reap(database, liveness=Runs(run=ALIVE), still_running=Tasks(RUNS, RUNS), config=config)
    assert workflows.claim(database, owner=OTHER_RUN) == [between.workflow_id]
    own = workflows.acquire(database, between.workflow_id, stage=Stage.ENRICHMENT)
    assert own.outcome is Outcome.ACQUIRED
    late = workflows.acquire(database, between.workflow_id, stage=Stage.ENRICHMENT, owner=OTHER_RUN)
    assert late.detail == f"it is owned by {RUN}"


@pytest.mark.parametrize("answers", [(ENDED,), (RUNS, ENDED)])
def test_a_task_that_does_not_run_or_ends_within_seconds_is_left_alone(
    database: Database, config: WorkflowConfig, between: Held, answers: tuple[bool, ...]
) -> None:
    before = get_row(database, between.workflow_id)
    tasks = Tasks(*answers)
    assert reap(database, liveness=Runs(run=ALIVE), still_running=tasks, config=config).unreported == 0
    assert tasks.answers == []
    assert get_row(database, between.workflow_id) == before


@pytest.mark.parametrize(("lease", "ago", "asked"), [(4, 8, 0), (4, 12, 1), (30, 50, 0), (30, 70, 1)])
def test_a_task_has_two_leases_and_at_least_ten_seconds_to_end_after_its_stage_was_written(
    database: Database, between: Held, lease: int, ago: int, asked: int
) -> None:
    del between
    _written_long_ago(database, seconds=ago)
    tasks = Tasks(ENDED)
    reap(
        database,
        liveness=nothing_known,
        still_running=tasks,
        config=WorkflowConfig(lock_timeout=timedelta(seconds=lease), instance="airflow"),
    )
    assert len(tasks.asked) == asked


def test_what_has_been_taken_up_while_airflow_was_asked_is_left_alone(
    database: Database, config: WorkflowConfig, between: Held
) -> None:
    def take_up() -> None:
        workflows.acquire(database, between.workflow_id, stage=Stage.ENRICHMENT)

    tasks = Tasks(RUNS, RUNS, meanwhile=take_up)
    assert reap(database, liveness=Runs(run=ALIVE), still_running=tasks, config=config).unreported == 0
    assert get_row(database, between.workflow_id).lease_expires_at is not None


def test_one_that_was_taken_up_and_finished_meanwhile_is_told_by_its_token(
    database: Database, config: WorkflowConfig, between: Held
) -> None:
    def take_up_and_finish() -> None:
        if get_row(database, between.workflow_id).stage == "enrichment":
            got = workflows.acquire(database, between.workflow_id, stage=Stage.ENRICHMENT)
            held = Held(workflow_id=between.workflow_id, token=got.token, owner=RUN)
            workflows.finish(database, held, stage=Stage.ENRICHMENT)

    tasks = Tasks(RUNS, RUNS, meanwhile=take_up_and_finish)
    assert reap(database, liveness=Runs(run=ALIVE), still_running=tasks, config=config).unreported == 0
    assert get_row(database, between.workflow_id).locked_by == RUN


def _list_silent(database: Database, config: WorkflowConfig) -> list[Silent]:
    with database.begin() as connection:
        return list_silent(connection, config=config)


def test_only_rows_between_two_stages_of_this_instances_runs_are_silent(
    database: Database, config: WorkflowConfig
) -> None:
    hold_one(database, owner=_run(1))
    waiting = workflows.run_to(database, hold_one(database, owner=_run(2)), stage=Stage.IMAGE_FETCH)
    workflows.wait(database, waiting)
    workflows.run_to(database, hold_one(database, owner=_run(3)), stage=Stage.IMAGE_FETCH)
    workflows.finish(database, hold_one(database, owner="airflow:elsewhere/product_workflow/run_1"))
    workflows.finish(database, hold_one(database, owner=WORKER), keep_lease=LEASE)
    enqueue(database)
    workflows.claim(database, owner=_run(4))
    _written_long_ago(database)
    assert _list_silent(database, config) == []
    between = hold_one(database, owner=_run(5))
    workflows.finish(database, between)
    _written_long_ago(database)
    assert [one.workflow_id for one in _list_silent(database, config)] == [between.workflow_id]


def _run(number: int) -> str:
    return f"airflow:airflow/product_workflow/run_{number}"


def test_of_a_product_that_two_runs_have_claimed_the_second_ones_index_counts(
    database: Database, config: WorkflowConfig, between: Held
) -> None:
    reap(database, liveness=Runs(run=DEAD), config=config)
    enqueue(database)
    both = workflows.claim(database, owner=OTHER_RUN)
    got = workflows.acquire(database, between.workflow_id, stage=Stage.ENRICHMENT, owner=OTHER_RUN)
    held = Held(workflow_id=between.workflow_id, token=got.token, owner=OTHER_RUN)
    workflows.finish(database, held, stage=Stage.ENRICHMENT)
    _written_long_ago(database)
    (one,) = _list_silent(database, config)
    assert (one.owner, one.map_index) == (OTHER_RUN, both.index(between.workflow_id))
    assert one.stage is Stage.ENRICHMENT


@pytest.mark.parametrize("state", list(WorkflowState))
def test_what_nothing_is_known_of_is_left_as_it_is(
    database: Database, config: WorkflowConfig, state: WorkflowState
) -> None:
    owner = "airflow:elsewhere/product_workflow/run_9"
    with database.begin() as connection:
        workflow_id = workflows.reach(connection, state)
        rows(
            connection,
            "UPDATE processing_queue SET locked_by = :owner, lease_expires_at = NULL,"
            " next_retry_at = CASE WHEN workflow_state = 'retrying' THEN clock_timestamp() - interval '1 s' END",
            owner=owner,
        )
    before = get_row(database, workflow_id)
    runs = Runs()
    reap(database, liveness=runs, config=config)
    assert get_row(database, workflow_id) == before
    assert runs.asked == []


def test_liveness_is_asked_about_the_runs_of_this_instance_only(database: Database, config: WorkflowConfig) -> None:
    for owner in (
        RUN,
        "dagtest:airflow/product_workflow/t",
        "airflow:airflow2/product_workflow/r",
        WORKER,
        "airflow:a",
    ):
        enqueue(database)
        workflows.claim(database, owner=owner, limit=1)
    runs = Runs()
    reap(database, liveness=runs, config=config)
    assert sorted(runs.asked) == [RUN, "dagtest:airflow/product_workflow/t"]


def _wait_since(database: Database, minutes: int) -> None:
    """Let what is held wait for something whose time came so many minutes ago."""
    rows(
        database,
        "UPDATE processing_queue SET workflow_state = 'waiting',"
        " waiting_until = clock_timestamp() - make_interval(mins => :minutes)",
        minutes=minutes,
    )


@pytest.mark.parametrize("owner", [WORKER, "airflow:elsewhere/product_workflow/run_9", "airflow:airflow2/d/r"])
def test_a_wait_whose_deadline_has_long_passed_is_taken_back(
    database: Database, config: WorkflowConfig, owner: str
) -> None:
    held = hold_one(database, owner=owner)
    _wait_since(database, 4)
    assert reap(database, liveness=nothing_known, config=config).expired == 0
    _wait_since(database, 6)
    assert reap(database, liveness=nothing_known, config=config).expired == 1
    assert get_state(database, held.workflow_id) == "queued"


@pytest.mark.parametrize("owner", [RUN, "dagtest:airflow/product_workflow/t"])
@pytest.mark.parametrize("alive", [True, None], ids=["alive", "unknown"])
def test_a_run_of_ours_that_is_not_known_to_be_over_may_wake_its_product_late(
    database: Database, config: WorkflowConfig, owner: str, *, alive: bool | None
) -> None:
    held = hold_one(database, owner=owner)
    _wait_since(database, 90)
    lives = {} if alive is None else {owner: ALIVE}
    assert reap(database, liveness=lambda _owners: lives, config=config).expired == 0
    assert get_state(database, held.workflow_id) == "waiting"


def test_a_wait_of_a_run_that_is_over_is_taken_back_at_once(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database)
    _wait_since(database, 0)
    assert reap(database, liveness=Runs(run=DEAD), config=config).of_dead_runs == 1
    assert get_state(database, held.workflow_id) == "queued"


def test_retries_that_are_due_and_belong_to_nobody_are_queued(database: Database) -> None:
    due = hold_one(database)
    workflows.fail(database, due, action="release", delay=timedelta(0))
    later = hold_one(database, owner=OTHER_RUN)
    workflows.fail(database, later, action="release", delay=timedelta(minutes=1))
    assert release_due(database) == 1
    assert (get_state(database, due.workflow_id), get_state(database, later.workflow_id)) == ("queued", "retrying")
    signed = value(
        database,
        "SELECT actor || ': ' || reason FROM workflow_transitions"
        " WHERE workflow_id = :id ORDER BY sequence DESC LIMIT 1",
        id=due.workflow_id,
    )
    assert signed == "reaper: retry due"


def test_more_rows_than_one_batch_are_all_brought_back(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "_BATCH", 3)
    enqueue(database, count=10)
    for one in workflows.claim(database):
        workflows.acquire(database, one)
    _expire(database)
    report = reap(database, liveness=nothing_known, config=config)
    assert (report.expired, report.released) == (10, 10)
    assert report.summary().startswith("10 rows with expired leases and 0 of ended runs taken back, 10 due retries")


def test_a_product_that_kills_its_workers_ends_failed(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database, max_retries=2)
    seen = []
    for number in range(4):
        _expire(database)
        reap(database, liveness=nothing_known, config=config)
        row = get_row(database, held.workflow_id)
        seen.append((row.workflow_state, row.retry_count))
        if row.workflow_state == "queued":
            owner = f"airflow:airflow/product_workflow/again_{number}"
            workflows.claim(database, owner=owner)
            workflows.acquire(database, held.workflow_id, owner=owner)
    assert seen == [("queued", 1), ("queued", 2), ("failed", 2), ("failed", 2)]
    assert get_row(database, held.workflow_id).last_error.startswith("WorkerLost: worker lost: the lease of")


def test_two_reapers_at_once_take_each_row_back_once(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "_BATCH", 5)
    enqueue(database, count=60)
    for one in workflows.claim(database):
        workflows.acquire(database, one)
    _expire(database)
    together = threading.Barrier(4)

    def work() -> int:
        together.wait(30)
        return reap(database, liveness=nothing_known, config=config).expired

    with ThreadPoolExecutor(4) as pool:
        taken = [future.result() for future in [pool.submit(work) for _ in range(4)]]
    assert sum(taken) == 60
    assert value(database, "SELECT count(*) FROM workflow_transitions WHERE to_state = 'failed'") == 60
    assert value(database, "SELECT max(retry_count) FROM processing_queue") == 1


def test_a_heartbeat_that_comes_in_time_wins_over_the_reaper(database: Database, config: WorkflowConfig) -> None:
    held = hold_one(database)
    _expire(database)
    with database.begin() as connection:
        rows(
            connection,
            "UPDATE processing_queue SET lease_expires_at = clock_timestamp() + interval '1 min' WHERE queue_id = :id",
            id=held.workflow_id,
        )
        assert reap(database, liveness=nothing_known, config=config).expired == 0
    assert reap(database, liveness=nothing_known, config=config).expired == 0
    assert get_row(database, held.workflow_id).lease_token == held.token


def test_a_liveness_that_breaks_does_not_undo_what_was_taken_back_before(
    database: Database, config: WorkflowConfig
) -> None:
    expired = hold_one(database, owner=WORKER)
    _expire(database)
    hold_one(database)

    def broken(_owners: Sequence[str]) -> Mapping[str, OwnerLife]:
        raise ConnectionError("the execution API is away")

    with pytest.raises(ConnectionError):
        reap(database, liveness=broken, config=config)
    assert get_state(database, expired.workflow_id) == "retrying"


def test_the_counters_are_folded_and_agree_with_the_queue(database: Database, config: WorkflowConfig) -> None:
    enqueue(database, count=4)
    held = Held(workflow_id=workflows.claim(database, limit=1)[0], token=1, owner=RUN)
    workflows.acquire(database, held.workflow_id)
    reap(database, liveness=nothing_known, config=config)
    counted = {row.name: row.value for row in rows(database, "SELECT name, value FROM workflow_counter")}
    assert counted == {"state:created": 0, "state:queued": 3, "state:processing": 1}
    assert value(database, "SELECT count(*) FROM workflow_counter_delta") == 0
