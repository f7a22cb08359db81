"""Brings workflows along when a person marks a task or a run in Airflow's UI.

Airflow calls this in its api-server, before the request commits. So it must never block or break it: every statement
is bounded, every error logged, and after one it stays quiet for a while; the reaper brings along what it missed. What a
task comes to by itself is committed by the stage before Airflow hears of it, so in tasks there is nothing to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database
    from squorflow.states import Stage
    from squorflow.workflow.marks import Mark

log = logging.getLogger(__name__)

LIMIT = timedelta(seconds=2)
"""The longest a statement, or reaching Postgres, may keep a person's click waiting."""

QUIET = timedelta(seconds=30)
"""How long nothing is tried after a failure: a mark of a whole run calls once per task."""

DAG_ID = "product_workflow"
_BY_HAND = "manually set"
"""In the message Airflow gives when a person ended a run; the scheduler calls for every run that ends."""

_ENDED = frozenset({"failed", "success"})
_quiet_until = 0.0


@hookimpl
def on_task_instance_failed(previous_state: Any, task_instance: Any, error: Any) -> None:
    """Fail or suspend the product whose task a person marked failed."""
    del error
    _on_mark(previous_state, task_instance, "failed")


@hookimpl
def on_task_instance_success(previous_state: Any, task_instance: Any) -> None:
    """Suspend the product whose task a person marked success though the stage is not done."""
    _on_mark(previous_state, task_instance, "success")


@hookimpl
def on_dag_run_failed(dag_run: Any, msg: str) -> None:
    """Release the products of a run that a person marked failed."""
    _on_run_end(dag_run, msg)


@hookimpl
def on_dag_run_success(dag_run: Any, msg: str) -> None:
    """Release the products of a run that a person marked success."""
    _on_run_end(dag_run, msg)


def _on_mark(previous_state: Any, task_instance: Any, mark: Mark) -> None:
    # Only a person's mark comes without a previous state; tasks and the scheduler name it.
    if previous_state is not None or task_instance.dag_id != DAG_ID:
        return
    stage = stage_of(task_instance.task_id)
    # Where a whole run was marked, its products are released instead (below).
    if stage is None or task_instance.map_index < 0 or str(task_instance.dag_run.state) in _ENDED:
        return
    from squorflow.airflow.ownership import actor_name
    from squorflow.workflow import marks

    owner = _owner_of(task_instance.dag_run)

    def bring_along(connection: Connection) -> None:
        state = marks.mark(
            connection,
            owner=owner,
            map_index=task_instance.map_index,
            stage=stage,
            as_=mark,
            actor=actor_name(task_instance),
        )
        marks.record_unasked(connection, owner=owner, tries=_woken_by(task_instance))
        log.info("%s[%d] was marked %s: %s.", stage, task_instance.map_index, mark, state or "nothing to change")

    _attempt(bring_along, what=f"the mark of {stage}[{task_instance.map_index}] in {owner}")


def _on_run_end(dag_run: Any, message: str) -> None:
    if dag_run.dag_id != DAG_ID or _BY_HAND not in message:
        return
    from squorflow.workflow import marks

    owner = _owner_of(dag_run)
    reason = f"its run was marked {dag_run.state} by a person in Airflow"

    def release(connection: Connection) -> None:
        count = marks.release_run(
            connection, owner=owner, actor=f"airflow:{dag_run.dag_id}/{dag_run.run_id}", reason=reason
        )
        log.info("%s was marked %s: %d products released.", owner, dag_run.state, count)

    _attempt(release, what=f"the end of {owner}")


def stage_of(task_id: str) -> Stage | None:
    """Return the stage that a task of the mapped group runs; `None` for other tasks."""
    from squorflow.airflow.ownership import PRODUCT_GROUP
    from squorflow.states import Stage

    group, _, name = task_id.rpartition(".")
    return Stage(name) if group == PRODUCT_GROUP and name in set(Stage) else None


def _owner_of(dag_run: Any) -> str:
    from squorflow.airflow.ownership import RunOwner
    from squorflow.config import get_config

    return str(RunOwner.of({"dag_run": dag_run}, instance=get_config().instance))


def _woken_by(task_instance: Any) -> list[Any]:
    """Return the next tries of other products' tasks that Airflow has just cleared because this one was marked."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    from squorflow.workflow.marks import StageTry

    session = object_session(task_instance)
    if session is None:
        return []
    cleared = session.execute(
        select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.try_number).where(
            TaskInstance.dag_id == task_instance.dag_id,
            TaskInstance.run_id == task_instance.run_id,
            TaskInstance.map_index != task_instance.map_index,
            TaskInstance.map_index >= 0,
            TaskInstance.state.is_(None),
            # What has never run is not cleared, but still to come.
            TaskInstance.try_number > 0,
        )
    )
    stages = [(stage_of(row.task_id), row) for row in cleared]
    return [
        StageTry(map_index=row.map_index, stage=stage, try_number=row.try_number + 1)
        for stage, row in stages
        if stage is not None
    ]


@cache
def _database() -> Database:
    """Open this process's database, patient for as long as a click may wait."""
    from sqlalchemy import make_url

    from squorflow.config import get_config
    from squorflow.postgres.addresses import find_url
    from squorflow.postgres.database import Database

    config = get_config()
    url = make_url(find_url(config)).update_query_dict({"connect_timeout": str(int(LIMIT.total_seconds()))})
    return Database(url, config=config)


def _attempt(change: Callable[[Connection], None], *, what: str) -> None:
    """Make a change in a transaction of its own; whatever goes wrong is logged and left to the reaper."""
    global _quiet_until  # noqa: PLW0603 - one pause for the process, whichever thread met the failure
    if time.monotonic() < _quiet_until:
        log.warning("%s was not brought along, because the last try failed; the reaper will see to it.", what)
        return
    try:
        _make(change)
    except Exception:  # it is Airflow's request that would break
        _quiet_until = time.monotonic() + QUIET.total_seconds()
        log.exception("%s was not brought along; the reaper will see to it.", what)


def _make(change: Callable[[Connection], None]) -> None:
    from sqlalchemy.exc import OperationalError

    from squorflow.workflow.marks import bound_time

    for last in (False, True):
        try:
            with _database().begin() as connection:
                bound_time(connection, limit=LIMIT)
                change(connection)
        except OperationalError as error:
            # A connection kept from before Postgres was restarted.
            if last or not error.connection_invalidated:
                raise
        else:
            return
