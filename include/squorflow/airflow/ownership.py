"""Who owns a claimed product, who acts on it, and whether the DAG run that owns it is still alive.

Owns the form of owner names (`locked_by`) and of Airflow's actor names, and asks Airflow's execution API about runs.
Does not take anything back: that is `squorflow.recovery.reaper`, which is handed the function made here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from squorflow.recovery.reaper import Liveness, OwnerLife
    from squorflow.recovery.unreported import Silent, StillRunning
    from squorflow.states import Stage

log = logging.getLogger(__name__)

PRODUCT_GROUP = "product"
"""The mapped task group whose map index says which product a task works on."""

LIVE_RUN_STATES = ["queued", "running"]
"""A run that was just cleared is queued, so both count as alive."""

_DAG_TEST_USER = "dag_test"
"""The user Airflow names on runs made by `airflow dags test` (`DAG.test` in airflow.sdk)."""

_ENDED_BADLY = frozenset({"failed", "upstream_failed", "removed"})
_STILL_GOING = frozenset(
    {
        "awaiting_input",
        "deferred",
        "queued",
        "restarting",
        "running",
        "scheduled",
        "up_for_reschedule",
        "up_for_retry",
    }
)


class OwnerKind(StrEnum):
    """The kinds of DAG run that own rows; `worker:` owners belong to the in-process workers, not to Airflow."""

    AIRFLOW = "airflow"
    """A run that a scheduler drives."""

    DAG_TEST = "dagtest"
    """A run inside one `airflow dags test` process: when the process is killed, nothing ever ends the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOwner:
    """One DAG run as the owner of rows, written `<kind>:<instance>/<dag_id>/<run_id>`."""

    kind: OwnerKind
    instance: str
    dag_id: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.instance}/{self.dag_id}/{self.run_id}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read an owner name; `None` means it is not a DAG run's (a worker's, or nobody's we know)."""
        kind, _, rest = name.partition(":")
        instance, _, run = rest.partition("/")
        dag_id, _, run_id = run.partition("/")
        if kind not in set(OwnerKind) or not (instance and dag_id and run_id):
            return None
        return cls(kind=OwnerKind(kind), instance=instance, dag_id=dag_id, run_id=run_id)

    @classmethod
    def of(cls, context: Mapping[str, Any], *, instance: str) -> Self:
        """Name the run of a task's context; `instance` is `WORKFLOW_INSTANCE`."""
        run = context["dag_run"]
        # A run made by `dags test` is told by the user Airflow writes into it, which holds with `--use-executor` too,
        # where the tasks themselves run in ordinary worker processes.
        kind = OwnerKind.DAG_TEST if run.triggering_user_name == _DAG_TEST_USER else OwnerKind.AIRFLOW
        return cls(kind=kind, instance=instance, dag_id=run.dag_id, run_id=run.run_id)


class TaskIdentity(Protocol):
    """What of a task instance goes into an actor name."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None
    try_number: int


def actor_name(task_instance: TaskIdentity) -> str:
    """Name who acts, for the audit trail: `airflow:<dag>/<run>/<task>[map]#try`, without `[map]` where unmapped."""
    index = task_instance.map_index
    mapped = "" if index is None or index < 0 else f"[{index}]"
    place = f"{task_instance.dag_id}/{task_instance.run_id}/{task_instance.task_id}"
    return f"airflow:{place}{mapped}#{task_instance.try_number}"


class RunLookup(Protocol):
    """The two questions about runs that a task may ask Airflow (a running task's `ti` answers them)."""

    def get_dr_count(self, dag_id: str, *, run_ids: list[str], states: list[str]) -> int:
        """Count the named runs in those states."""
        ...

    def get_task_states(
        self, dag_id: str, *, task_ids: list[str] | None = None, task_group_id: str | None = None, run_ids: list[str]
    ) -> Mapping[str, Any]:
        """Return the states of these tasks, or a group's, by run id and then by `<task_id>_<map_index>`."""
        ...


def make_liveness(lookup: RunLookup, *, myself: RunOwner) -> Liveness:
    """Return the function the reaper asks which owners are alive; `myself` is the run that asks.

    Owners it cannot judge are missing from the answer: another instance's runs, in-process workers, and every run
    Airflow would not answer for. Runs of earlier `airflow dags test` processes are dead when a `dags test` asks, since
    it never shares a database with a scheduler or with another of its kind; a scheduler resumes them, so asking from
    a scheduled run goes by their state.
    """
    from squorflow.recovery.reaper import OwnerLife

    def dead() -> OwnerLife:
        return OwnerLife(alive=False)

    def life_of(owner: RunOwner) -> OwnerLife:
        if owner != myself:
            if owner.kind == myself.kind == OwnerKind.DAG_TEST:
                return dead()
            if lookup.get_dr_count(owner.dag_id, run_ids=[owner.run_id], states=LIVE_RUN_STATES) == 0:
                return dead()
        states = lookup.get_task_states(owner.dag_id, task_group_id=PRODUCT_GROUP, run_ids=[owner.run_id])
        return OwnerLife(alive=True, dead_map_indexes=dead_map_indexes(states.get(owner.run_id, {})))

    def liveness(owners: Sequence[str]) -> dict[str, OwnerLife]:
        lives: dict[str, OwnerLife] = {}
        for name in owners:
            owner = RunOwner.parse(name)
            if owner is None or owner.instance != myself.instance:
                continue
            try:
                lives[name] = life_of(owner)
            except Exception:  # whatever Airflow could not answer is unknown, and nothing is done about unknown owners
                log.warning("Airflow did not say whether %s is alive; its products stay with it.", name, exc_info=True)
        return lives

    return liveness


def make_still_running(lookup: RunLookup) -> StillRunning:
    """Return the function that tells whose done stage Airflow believes to be running.

    One question for each stage, about the runs it is done in: Airflow answers for all products of a run, and if asked
    about the group it would load all their tasks.
    """

    def ask(silent: Sequence[tuple[RunOwner, Silent]], *, dag_id: str, stage: Stage) -> list[Silent]:
        task_id = f"{PRODUCT_GROUP}.{stage}"
        run_ids = sorted({owner.run_id for owner, _ in silent})
        states = lookup.get_task_states(dag_id, task_ids=[task_id], run_ids=run_ids)
        return [
            one for owner, one in silent if states.get(owner.run_id, {}).get(f"{task_id}_{one.map_index}") == "running"
        ]

    def still_running(silent: Sequence[Silent]) -> list[Silent]:
        questions: dict[tuple[str, Stage], list[tuple[RunOwner, Silent]]] = {}
        for one in silent:
            owner = RunOwner.parse(one.owner)
            if owner is not None:
                questions.setdefault((owner.dag_id, one.stage), []).append((owner, one))
        running = []
        for (dag_id, stage), asked in questions.items():
            try:
                running += ask(asked, dag_id=dag_id, stage=stage)
            except Exception as error:  # as above: what Airflow does not answer is left to its own heartbeat
                log.warning("Airflow did not say which tasks of %s run: %s: %s", stage, type(error).__name__, error)
        return running

    return still_running


def dead_map_indexes(states: Mapping[str, str | None]) -> frozenset[int]:
    """Return the map indexes that will not go on by themselves: a task ended badly and none is under way.

    `states` is by `<task_id>_<map_index>`, as the execution API answers; entries without an index are passed over.
    """
    ended_badly: set[int] = set()
    still_going: set[int] = set()
    for key, state in states.items():
        index = key.rpartition("_")[2]
        if not index.isdecimal():
            continue
        if state in _ENDED_BADLY:
            ended_badly.add(int(index))
        elif state in _STILL_GOING:
            still_going.add(int(index))
    return frozenset(ended_badly - still_going)
