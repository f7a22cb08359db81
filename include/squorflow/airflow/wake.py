"""Starts `product_workflow` when work is due: the trigger that lives in the triggerer, and the schedule that hears it.

Owns how long it waits and what happens when Postgres goes away. When work is due, and when that is worth a run, is
`squorflow.workflow.waking`; Airflow is asked whether what is between two stages still has a task to bring it on. The
cron half of the schedule covers what is missed while no triggerer runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable
from airflow.sdk.exceptions import AirflowTimetableInvalid
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from squorflow.errors import ConfigurationError

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database
    from squorflow.recovery.unreported import Silent
    from squorflow.workflow.waking import Bell, Restraint

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 10
"""How often it looks though nobody rang: rings are lost, and retries fall due in silence."""

BURST_SECONDS = 1.0
"""Rings within this time of each other are one."""

RECONNECT_SECONDS = 5.0


class WorkDueTrigger(BaseEventTrigger):
    """Yields an event when work is due that a run would find; looks every 10 s and whenever it rings."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name the class; it takes everything from the environment."""
        return (f"{type(self).__module__}.{type(self).__qualname__}", {})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch for ever; Postgres may go away and come back."""
        from squorflow.postgres.database import explain
        from squorflow.workflow.waking import Restraint

        restraint = Restraint()
        while True:
            try:
                async for event in self._watch(restraint):
                    yield event
            except Exception as error:  # Postgres is away or not set up; the cron half goes on meanwhile
                why = explain(error)
                self.log.warning(
                    "Cannot watch for work: %s. Trying again in %s s.",
                    why or f"{type(error).__name__}: {error}",
                    RECONNECT_SECONDS,
                    # Where it was raised is a puzzle only where nobody's set-up is at fault.
                    exc_info=None if why else error,
                )
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _watch(self, restraint: Restraint) -> AsyncIterator[TriggerEvent]:
        from asgiref.sync import sync_to_async

        from squorflow.config import get_config
        from squorflow.workflow.waking import Bell

        # The triggerer answers questions about connections only in the way of its own that asgiref knows.
        database: Database = await sync_to_async(_open)()
        with ExitStack() as stack:
            stack.callback(database.close)
            config = get_config()
            hanging = Bell.hung(database, batch_size=config.batch_size, instance=config.instance)
            bell = await asyncio.to_thread(stack.enter_context, hanging)
            # While nobody listened it may have rung.
            rung, ask_at = True, 0.0
            while True:
                # At its own pace, not at every ring: it costs Airflow more than a look costs Postgres.
                asks = time.monotonic() >= ask_at
                lost: frozenset[UUID] = frozenset()
                if asks:
                    lost = await _find_lost(bell, config=config)
                    ask_at = time.monotonic() + LOOK_EVERY_SECONDS
                look = await asyncio.to_thread(bell.look, since=restraint.since)
                if restraint.allows(replace(look, due=look.due | lost), rung=rung, whole=asks):
                    yield TriggerEvent({"due_at": look.at.isoformat()})  # type: ignore[no-untyped-call]  # Airflow's
                rung = await _wait(bell)
                if rung:
                    await asyncio.to_thread(bell.drain, BURST_SECONDS)


async def _wait(bell: Bell) -> bool:
    """Wait until it rings (`True`) or it is time to look; in short steps, since a thread cannot be cancelled."""
    for _ in range(LOOK_EVERY_SECONDS):
        if await asyncio.to_thread(bell.wait, 1.0):
            return True
    return False


async def _find_lost(bell: Bell, *, config: WorkflowConfig) -> frozenset[UUID]:
    """Find what a dead worker has written and not told Airflow of; asks Airflow only if there may be some.

    As `find_unreported` does, but that no thread sleeps: the triggerer could not stop before it woke.
    """
    from squorflow.recovery.unreported import DOUBT, list_silent

    silent = await asyncio.to_thread(bell.ask, partial(list_silent, config=config))
    suspects = await asyncio.to_thread(_ask_airflow, silent) if silent else ()
    if not suspects:
        return frozenset()
    await asyncio.sleep(DOUBT.total_seconds())
    return frozenset(one.workflow_id for one in await asyncio.to_thread(_ask_airflow, suspects))


def _ask_airflow(silent: Sequence[Silent]) -> Sequence[Silent]:
    """Ask as a task does; the triggerer's supervisor answers."""
    from squorflow.airflow.ownership import make_still_running

    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError as error:  # Airflow does not promise it; what is due is due without it
        log.warning("This Airflow cannot be asked by a trigger which tasks run: %s.", error)
        return ()
    return make_still_running(RuntimeTaskInstance)(silent)


def _open() -> Database:
    from squorflow.config import get_config
    from squorflow.postgres.database import Database

    return Database.from_environment(get_config(), direct=True)


WORK = Asset(
    name="squorflow_work",
    uri="squorflow://work",
    watchers=[AssetWatcher(name="work_is_due", trigger=WorkDueTrigger())],  # type: ignore[no-untyped-call]  # Airflow's
)
"""The queue as something to wait for; its events say that a run would find work."""


def make_schedule(cron: str) -> AssetOrTimeSchedule | None:
    """Return a schedule that starts a run when work is due, and by the clock too; `None` where `cron` is empty.

    Raises `ConfigurationError` for what is no cron expression.
    """
    if not cron:
        return None
    clock = CronTriggerTimetable(cron, timezone="UTC")
    try:
        # Airflow does not look into a timetable that is part of another: its scheduler would be the first to stumble.
        clock.validate()
    except AirflowTimetableInvalid as error:
        raise ConfigurationError(f"WORKFLOW_SCHEDULE is {cron!r}, which is no cron expression: {error}") from error
    return AssetOrTimeSchedule(timetable=clock, assets=[WORK])
