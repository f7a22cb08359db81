"""What `workflow_maintenance` runs: one operator per chore, each by itself.

Owns the handing over from Airflow's context to the chore and the line its log ends with. When rows count as abandoned
is `squorflow.recovery.reaper`, how events reach their handlers `squorflow.events`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from squorflow.airflow.ownership import RunOwner, make_liveness, make_still_running
from squorflow.airflow.weights import FIRST
from squorflow.config import get_config
from squorflow.errors import Cancelled

if TYPE_CHECKING:
    from airflow.sdk import Context

    from squorflow.workflow.bulk import BulkOperation


RESTED = timedelta(minutes=1)
"""An operation nobody has worked at for so long has lost its run."""


class ChoreOperator(BaseOperator):
    """A chore that goes before all products, is tried again soon, and else left to the next run of the DAG.

    Subclasses do it in `execute`; it must be safe to do at any time, by any number at once.
    """

    ui_color = "#eee6f6"

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("retries", 1)
        settings.setdefault("retry_delay", timedelta(seconds=10))
        settings.setdefault("execution_timeout", timedelta(minutes=10))
        settings.setdefault("priority_weight", FIRST)
        super().__init__(**settings)


class ReapOperator(ChoreOperator):
    """Takes back what dead owners hold and queues the retries that are due."""

    def execute(self, context: Context) -> None:
        """Reap once."""
        from squorflow.postgres.database import get_database
        from squorflow.recovery.reaper import reap

        config = get_config()
        myself = RunOwner.of(context, instance=config.instance)
        report = reap(
            get_database(),
            liveness=make_liveness(context["ti"], myself=myself),
            still_running=make_still_running(context["ti"]),
            config=config,
        )
        self.log.info("%s.", report.summary())


class DeliverOperator(ChoreOperator):
    """Delivers the events that are due, those whose last try failed included."""

    def execute(self, context: Context) -> None:
        """Deliver for at most two minutes; the rest is left to the next run."""
        del context
        from squorflow.events.dispatcher import deliver_pending
        from squorflow.postgres.database import get_database

        report = deliver_pending(get_database(), config=get_config(), budget=timedelta(minutes=2))
        self.log.info("%s.", report.summary())


class AlertOperator(ChoreOperator):
    """Opens an incident for what needs a person, and ends it when it is over; the task `deliver` tells of both."""

    def execute(self, context: Context) -> None:
        """Look once."""
        del context
        from squorflow.monitoring.alerts import look
        from squorflow.postgres.database import get_database

        report = look(get_database(), config=get_config())
        self.log.info("Incidents %s.", report.summary())


class BulkOperator(ChoreOperator):
    """Carries out bulk operations: the one whose id the template `operation_id` renders to, else all that rest.

    It may be stopped or killed at any time; whoever comes next goes on at the next batch.
    """

    template_fields = ("operation_id",)

    def __init__(self, *, operation_id: str = "", **settings: Any) -> None:
        settings.setdefault("execution_timeout", None)
        super().__init__(**settings)
        self.operation_id = operation_id
        self._stopped = False

    def execute(self, context: Context) -> None:
        """Carry out what is to be done, batch by batch."""
        del context
        from squorflow.postgres.database import get_database
        from squorflow.workflow import bulk

        database = get_database()
        if self.operation_id:
            ids = [UUID(self.operation_id)]
        else:
            with database.begin() as connection:
                ids = bulk.list_unfinished(connection, rested=RESTED)
        for one in ids:
            ended = bulk.carry_out(database, one, on_progress=self._tell, should_stop=lambda: self._stopped)
            if self._stopped and not ended.ended:
                raise Cancelled(f"Stopped before the end. {describe(ended)}")

    def on_kill(self) -> None:
        """End after the batch at work."""
        self._stopped = True

    def _tell(self, operation: BulkOperation) -> None:
        self.log.info("%s", describe(operation))


def describe(operation: BulkOperation) -> str:
    """Say in a line for the log how far an operation is."""
    return (
        f"{operation.action} by {operation.actor} ({operation.operation_id}) is {operation.status}: "
        f"{operation.succeeded} done, {operation.refused} refused, {operation.pending} of {operation.total} to do."
    )


class UpkeepOperator(ChoreOperator):
    """Makes partitions, archives old months, and removes what has had its time."""

    def execute(self, context: Context) -> None:
        """Do what is due; fails where a person has to look, after everything else is done."""
        del context
        from squorflow.monitoring.upkeep import run_upkeep
        from squorflow.postgres.database import get_database

        report = run_upkeep(get_database(), config=get_config())
        self.log.info("%s.", report.summary())
        if report.problems:
            raise AirflowFailException("; ".join(report.problems))
