"""The two ends of a run: taking products from the queue, and closing the books on them.

Owns what a run logs about its batch and when a run counts as failed. Claiming, giving back and reaping themselves are
`squorflow.workflow.queue` and `squorflow.recovery.reaper`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.sdk import Asset, BaseOperator, TriggerRule
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from squorflow.airflow.operators import make_label
from squorflow.airflow.ownership import RunOwner, dead_map_indexes, make_liveness, make_still_running
from squorflow.airflow.weights import FIRST
from squorflow.config import get_config
from squorflow.errors import ConfigurationError
from squorflow.states import WorkflowState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from squorflow.postgres.database import Database
    from squorflow.workflow.queue import ClaimedItem

PRODUCTS = Asset(name="squorflow_products", uri="squorflow://products")
"""Updated by every run that had products; `schedule=[PRODUCTS]` makes another DAG follow."""

_BY_ITSELF = frozenset({"asset_triggered", "scheduled"})
"""The types of run that nobody asked for."""

_NEED_ATTENTION = frozenset({WorkflowState.FAILED, WorkflowState.RETRYING, WorkflowState.SUSPENDED})
_NOT_REACHED = frozenset({WorkflowState.QUEUED, WorkflowState.PROCESSING, WorkflowState.WAITING})
_ENDED_BADLY = frozenset({"failed", "upstream_failed"})

FAILURES_SHOWN = 10
"""Kinds of failure a run's summary lists; the rest is counted."""


class PullOperator(BaseOperator):
    """Takes back what dead owners hold, releases due retries, claims up to `batch_size` products for this run.

    Goes before all products, like a chore: what it takes back must not queue behind them. A run that started by itself
    takes only what was tried before while others have enough in hand (`squorflow.workflow.waking`).
    Returns the claimed rows as `{"workflow_id", "product_label"}`: the same ones in the same order when it runs again.
    Reads the run's params `batch_size`, `workflow_ids` and `priority_at_least`.
    """

    ui_color = "#dbe9f6"

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("retries", 3)
        settings.setdefault("retry_delay", timedelta(seconds=5))
        settings.setdefault("priority_weight", FIRST)
        super().__init__(**settings)

    def execute(self, context: Context) -> list[dict[str, str]]:
        """Claim this run's products; a second call by the same run returns the same list."""
        from squorflow.postgres.database import get_database
        from squorflow.recovery.reaper import reap
        from squorflow.workflow.queue import claim_for_run
        from squorflow.workflow.waking import Allowance, find_allowance

        config = get_config()
        database = get_database()
        _refuse_old_schema(database)
        owner = RunOwner.of(context, instance=config.instance)
        report = reap(
            database,
            liveness=make_liveness(context["ti"], myself=owner),
            still_running=make_still_running(context["ti"]),
            config=config,
        )
        self.log.info("Before claiming: %s", report.summary())
        params = context["params"]
        batch_size = int(params["batch_size"])
        allowance = Allowance.ANYTHING
        with database.begin() as connection:
            if context["dag_run"].run_type in _BY_ITSELF:
                allowance = find_allowance(connection, batch_size=batch_size, instance=config.instance)
            claimed = claim_for_run(
                connection,
                owner=str(owner),
                limit=0 if allowance is Allowance.NOTHING else batch_size,
                workflow_ids=[UUID(name) for name in params["workflow_ids"] or ()] or None,
                priority_at_least=int(params["priority_at_least"]),
                only_tried=allowance is Allowance.TRIED_BEFORE,
            )
        if len(claimed) < batch_size and allowance is not Allowance.ANYTHING:
            self.log.info("Other runs have enough in hand; this one may take: %s.", allowance)
        self.log.info("Claimed %d products for %s.", len(claimed), owner)
        return [
            {
                "workflow_id": str(item.workflow_id),
                "product_label": make_label(item.product_name, workflow_id=item.workflow_id),
            }
            for item in claimed
        ]


def _refuse_old_schema(database: Database) -> None:
    """End a run whose database was never upgraded with one sentence, where every statement would fail with a page."""
    from squorflow.orchestrator.preparing import check_schema

    try:
        check_schema(database)
    except ConfigurationError as error:
        # Trying again helps nobody: the next run comes by itself.
        raise AirflowFailException(f"{error}.") from error


class CloseOperator(BaseOperator):
    """Gives back what the run never began, says how its products ended, and judges the run.

    A run's state comes from its leaves only, so this task fails the run: when the task `pull_task_id` failed, or when
    more than `WORKFLOW_FAILURE_TOLERANCE` of the products ended `failed`. Where it took none it is skipped, so that no
    DAG that follows the outlet asset is started for nothing.
    """

    ui_color = "#dbe9f6"

    def __init__(self, *, pull_task_id: str, **settings: Any) -> None:
        settings.setdefault("trigger_rule", TriggerRule.ALL_DONE)
        settings.setdefault("retries", 3)
        settings.setdefault("retry_delay", timedelta(seconds=5))
        settings.setdefault("priority_weight", FIRST)
        super().__init__(**settings)
        self.pull_task_id = pull_task_id

    def execute(self, context: Context) -> None:
        """Close the run; raises what fails it without a retry."""
        from squorflow.postgres.database import get_database
        from squorflow.workflow import waking
        from squorflow.workflow.queue import count_claimable, give_back, list_run_items

        config = get_config()
        owner = str(RunOwner.of(context, instance=config.instance))
        database = get_database()
        states = self._task_states(context)
        if states.get(self.pull_task_id) in _ENDED_BADLY:
            _refuse_old_schema(database)
        with database.begin() as connection:
            given_back = give_back(connection, owner=owner)
            items = list_run_items(connection, owner=owner)
            claimable = count_claimable(connection)
            if claimable and items:
                # Else a backlog would drain at the schedule's speed. What this run could not take, no other would.
                waking.announce(connection)
        unreached = count_unreached(items, states=states)
        for line in summarise(items, given_back=given_back, claimable=claimable):
            self.log.info("%s", line)
        self._tell_handlers()
        if states.get(self.pull_task_id) in _ENDED_BADLY:
            raise AirflowFailException(
                f"The task {self.pull_task_id} failed, so this run did not get its products; its log says why."
            )
        verdict = judge(items, unreached=unreached, tolerance=config.failure_tolerance)
        if verdict is not None:
            raise AirflowFailException(verdict)
        if not items:
            raise AirflowSkipException("This run took no products: there was nothing to close.")

    def _tell_handlers(self) -> None:
        """Deliver events for at most half a minute; what goes wrong there fails no run, and maintenance repeats it."""
        from squorflow.errors import SquorflowError
        from squorflow.events.dispatcher import deliver_pending
        from squorflow.postgres.database import get_database

        try:
            report = deliver_pending(get_database(), config=get_config(), budget=timedelta(seconds=30))
        except SquorflowError as error:
            self.log.error("No events were delivered: %s", error)  # noqa: TRY400 - the sentence says it all
        else:
            self.log.info("Events: %s.", report.summary())

    def _task_states(self, context: Context) -> Mapping[str, str | None]:
        run = context["dag_run"]
        states: Mapping[str, Mapping[str, str | None]] = context["ti"].get_task_states(run.dag_id, run_ids=[run.run_id])
        return states.get(run.run_id, {})


def count_unreached(items: Sequence[ClaimedItem], *, states: Mapping[str, str | None]) -> int:
    """Count the products whose tasks failed without the workflow hearing of it: it is still queued or processing.

    `states` is by `<task_id>_<map_index>`, as the execution API answers.
    """
    dead = dead_map_indexes(states)
    return sum(item.map_index in dead and item.workflow_state in _NOT_REACHED for item in items)


def summarise(items: Sequence[ClaimedItem], *, given_back: int, claimable: int) -> list[str]:
    """Say in lines for the log how a run's products stand, and what its failures have in common."""
    states = Counter(item.workflow_state for item in items)
    counts = ", ".join(f"{states[state]} {state}" for state in WorkflowState if states[state])
    lines = [f"{len(items)} products: {counts or 'none'}."]
    if given_back:
        lines.append(f"{given_back} were never begun, or wait for a retry, and were given back.")
    lines.append(f"{claimable} more are waiting in the queue.")
    errors = Counter(
        item.last_error or "no error was recorded" for item in items if item.workflow_state in _NEED_ATTENTION
    )
    lines.extend(f"{count} x {error}" for error, count in errors.most_common(FAILURES_SHOWN))
    if len(errors) > FAILURES_SHOWN:
        lines.append(f"and {len(errors) - FAILURES_SHOWN} more kinds of failure.")
    return lines


def judge(items: Sequence[ClaimedItem], *, unreached: int, tolerance: float) -> str | None:
    """Say why a run counts as failed; `None` means it does not.

    Products that ended `failed` count, and those whose tasks failed before the workflow heard of it (`unreached`);
    suspended ones wait for a person, released ones for a later run.
    """
    failed = sum(item.workflow_state is WorkflowState.FAILED for item in items)
    if failed + unreached == 0 or failed + unreached <= tolerance * len(items):
        return None
    beside = f" and {unreached} more could not be begun (their tasks' logs say why)" if unreached else ""
    return (
        f"{failed} of {len(items)} products ended failed{beside}: more than the {tolerance:.0%} that "
        "WORKFLOW_FAILURE_TOLERANCE allows. The lines above group the failures by error."
    )
