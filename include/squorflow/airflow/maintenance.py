"""What `workflow_maintenance` runs: one operator per chore, each by itself.

Owns the handing over from Airflow's context to the chore and the line its log ends with. When rows count as abandoned
is `squorflow.recovery.reaper`, how events reach their handlers `squorflow.events`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from squorflow.airflow.ownership import RunOwner, make_liveness
from squorflow.config import get_config

if TYPE_CHECKING:
    from airflow.sdk import Context


FIRST = 1_000
"""Priority of a chore: a product's last stage has eight, and who rescues products must not queue behind them."""


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
        report = reap(get_database(), liveness=make_liveness(context["ti"], myself=myself), config=config)
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
