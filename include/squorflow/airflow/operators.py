"""The operator that runs one stage of one product as an Airflow task.

Owns the translation both ways: Airflow's context into owner, actor and cancellation; the engine's outcome into
Airflow's success, skip, deferral, retry and failure. What a stage does is `squorflow.stages`, what an error means is
`squorflow.recovery.policy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout, TaskDeferralTimeout

from squorflow.airflow.ownership import RunOwner, actor_name
from squorflow.airflow.retry import AIRFLOW_RETRIES, AIRFLOW_RETRY_DELAY, WorkflowRetryPolicy, tries_since_clear
from squorflow.config import get_config
from squorflow.errors import Cancelled
from squorflow.states import Stage

if TYPE_CHECKING:
    from airflow.sdk import Context

    from squorflow.postgres.database import Database
    from squorflow.recovery.policy import Decision
    from squorflow.stages import StageOutcome
    from squorflow.stages.context import Cancellation, Clients

TRIGGERER_GRACE = timedelta(seconds=30)
"""How late the triggerer may wake a stage; then the scheduler, which looks every 15 s, does it instead."""

_ENDED = "Airflow ended its task: the worker is shut down, or the task was cleared or marked"

LONGEST_LABEL = 200
"""Airflow refuses a map index label over 250 characters, or an empty one, and fails the finished task."""


class StageOperator(BaseOperator):
    """Runs one stage of the product of this map index.

    `workflow_id` and `product_label` come from the claimed rows; the label is what Airflow's grid shows for the index.
    """

    template_fields: Sequence[str] = ("workflow_id", "product_label")
    ui_color = "#e3f2e1"

    def __init__(self, *, stage: Stage, workflow_id: str, product_label: str, **settings: Any) -> None:
        settings.setdefault("execution_timeout", get_config().processing_timeout)
        settings.setdefault("map_index_template", "{{ task.product_label }}")
        super().__init__(
            retries=AIRFLOW_RETRIES, retry_delay=AIRFLOW_RETRY_DELAY, retry_policy=WorkflowRetryPolicy(), **settings
        )
        self.stage = stage
        self.workflow_id = workflow_id
        self.product_label = product_label
        self._cancellation: Cancellation | None = None
        self._killed = False

    def execute(self, context: Context) -> None:
        """Run the stage; it succeeds, skips with a reason, is deferred, or raises what `WorkflowRetryPolicy` reads."""
        self._run_to_its_end(context, manual=was_cleared_by_hand(context))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> None:
        """Go on after a wait, also where no triggerer was there to end it."""
        try:
            super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            self.log.warning("No triggerer ended this wait in time; is one running? The scheduler did.")
            self.resume(context)

    def resume(self, context: Context, event: object = None) -> None:
        """Run the stage again after it was deferred; a person who stopped it meanwhile has the last word.

        `event` says no more than that the time has come.
        """
        self._run_to_its_end(context, manual=False)

    def _run_to_its_end(self, context: Context, *, manual: bool) -> None:
        """Run the stage, and again after each wait: short ones are slept through, longer ones deferred."""
        from squorflow.monitoring.stats import emit_stage
        from squorflow.recovery.policy import Action
        from squorflow.stages import StageFailed, StageSkipped, StageWaiting

        config = get_config()
        while True:
            try:
                outcome = self._run(context, manual=manual)
            except StageSkipped as skipped:
                emit_stage(self.stage, "skipped", config=config)
                if self._killed:
                    # Whoever marked or cleared the task has settled its state; after a shutdown it is tried again.
                    raise Cancelled(str(skipped)) from skipped
                raise AirflowSkipException(str(skipped)) from skipped
            except StageWaiting as waiting:
                emit_stage(self.stage, "waiting", config=config)
                self._wait(waiting.delay)
                manual = False
            except StageFailed as failed:
                emit_stage(self.stage, "failed", config=config)
                if failed.decision.action is Action.RELEASE:
                    raise AirflowSkipException(_say_when_it_returns(failed.decision)) from failed
                raise
            else:
                seconds = outcome.seconds if outcome.status == "done" else None
                emit_stage(self.stage, outcome.status, seconds=seconds, config=config)
                self.log.info("%s: %s (%.2f s, %s)", self.stage, outcome.summary, outcome.seconds, outcome.status)
                return

    def _wait(self, delay: timedelta) -> None:
        """Sleep through a short wait, give the worker back for a longer one.

        Airflow can take a task that defers for a few seconds only for one that was killed.
        """
        from squorflow.stages import SHORT_WAIT
        from squorflow.stages.context import Cancellation

        until = datetime.now(UTC) + delay
        self.log.info("%s waits until %s UTC.", self.stage, f"{until:%Y-%m-%d %H:%M:%S}")
        if delay > SHORT_WAIT:
            from squorflow.airflow.triggers import WaitTrigger

            trigger = WaitTrigger(until.isoformat())
            self.defer(trigger=trigger, method_name="resume", timeout=delay + TRIGGERER_GRACE)
        self._cancellation = Cancellation()
        try:
            if self._killed:
                raise Cancelled(f"{self.stage} was ended while its wait was written")
            self._cancellation.wait(delay.total_seconds())
        finally:
            self._cancellation = None

    def on_kill(self) -> None:
        """Stop the stage where it stands, or once what it is writing is written; Airflow calls this at each SIGTERM."""
        if self._killed:
            return
        # Also where there is nothing to stop yet: what is begun after this would be killed in the middle.
        self._killed = True
        if self._cancellation is not None:
            self._cancellation.cancel(_ENDED, resumable=True)
            if self._cancellation.may_interrupt:
                raise Cancelled(_ENDED)

    def _run(self, context: Context, *, manual: bool) -> StageOutcome:
        from squorflow.postgres.database import get_database
        from squorflow.stages import run_stage
        from squorflow.stages.context import Cancellation

        config = get_config()
        task_instance = context["ti"]
        database = get_database()
        owner = str(RunOwner.of(context, instance=config.instance))
        manual = manual and _was_asked_for(database, owner=owner, stage=self.stage, task_instance=task_instance)
        self._cancellation = Cancellation()
        try:
            if self._killed:
                raise Cancelled(_ENDED)
            return run_stage(
                database,
                workflow_id=UUID(self.workflow_id),
                stage=self.stage,
                owner=owner,
                actor=actor_name(task_instance),
                config=config,
                clients=_clients(),
                cancellation=self._cancellation,
                manual=manual,
                longest_wait=config.longest_wait,
                timeout_errors=(AirflowTaskTimeout,),
            )
        finally:
            self._cancellation = None


def was_cleared_by_hand(context: Context) -> bool:
    """Say whether this try is the first since somebody cleared the task, which had run before.

    A clear of other tasks of the run says nothing about this one. `_was_asked_for` tells whom it was for.
    """
    task_instance = context["ti"]
    tries = tries_since_clear(
        try_number=task_instance.try_number,
        max_tries=task_instance.max_tries,
        retries=context["task"].retries or 0,
    )
    return tries == 1 and task_instance.try_number > 1


def _was_asked_for(database: Database, *, owner: str, stage: Stage, task_instance: Any) -> bool:
    """Say whether a person wanted this try: Airflow also clears failed tasks when another product's is marked."""
    from squorflow.workflow.marks import StageTry, was_unasked

    attempt = StageTry(map_index=task_instance.map_index, stage=stage, try_number=task_instance.try_number)
    with database.begin() as connection:
        return not was_unasked(connection, owner=owner, attempt=attempt)


def make_label(product_name: str, *, workflow_id: UUID) -> str:
    """Return what Airflow's grid shows for a product: its name in one line, cut to what Airflow takes, else its id."""
    printable = "".join(character if character.isprintable() else " " for character in product_name)
    return " ".join(printable.split())[:LONGEST_LABEL] or str(workflow_id)


def _say_when_it_returns(decision: Decision) -> str:
    due = datetime.now(UTC) + (decision.delay or timedelta(0))
    return f"{decision.reason}. Released: a run after {due:%Y-%m-%d %H:%M:%S} UTC takes it up."


@cache
def _clients() -> Clients:
    from squorflow.stages import make_clients

    return make_clients(get_config())
