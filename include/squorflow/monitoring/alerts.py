"""Looks whether something needs a person: failures, stuck workflows, quotas, queue, deliveries, partitions, trails.

Owns thresholds' meaning. An incident is opened once and ended once, each time as an event through the handlers (a
trigger writes it). Open circuit breakers alert by themselves, when they open (`squorflow.recovery.breakers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.monitoring import metrics
from squorflow.postgres.queries import load
from squorflow.recovery import quotas
from squorflow.workflow import audit

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database


class Alert(StrEnum):
    """What can be wrong; `alert_incident.alert`."""

    FAILURE_RATE = "failure_rate"
    """Too many of the workflows that ended lately failed."""

    STUCK = "stuck_workflows"
    """Workflows that should have moved on have not."""

    QUOTA = "quota"
    """Most of a quota is used; the subject names dependency and quota."""

    OLDEST_QUEUED = "oldest_queued"
    """Something has been waiting in the queue for too long."""

    DEAD_DELIVERIES = "dead_deliveries"
    """A handler did not get some events and is not tried any more; the subject is the handler."""

    UNSERVED = "unserved_handler"
    """Events wait for a handler that no dispatcher serves; the subject is the handler."""

    PARTITIONS = "missing_partitions"
    """The coming months have no partitions, so upkeep does not run or may not make them."""

    AUDIT = "audit_mismatch"
    """A trail does not hold; the subject is its workflow."""


FEWEST_ENDS = 20
"""Of fewer ended workflows no rate is told."""

CALM = 0.8
"""An incident ends when its figure has fallen below this share of the threshold, so that it does not flicker."""

MOST_COUNTED = 1000
"""Workflows and deliveries are counted up to here."""

FEWEST_MONTHS = 2
"""Months ahead that have to have their partitions."""

TRAILS_PER_ROUND = 2000
_ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A figure and the threshold it is measured by; at or above it an incident is opened."""

    alert: Alert
    subject: str
    message: str
    figure: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertReport:
    """Which incidents were opened and ended, as `alert/subject`."""

    opened: tuple[str, ...]
    ended: tuple[str, ...]

    def summary(self) -> str:
        """Say it in one line."""
        return f"opened: {', '.join(self.opened) or 'none'}; ended: {', '.join(self.ended) or 'none'}"


def look(database: Database, *, config: WorkflowConfig) -> AlertReport:
    """Measure everything once, open and end incidents; safe at any time, by any number at once."""
    measures: tuple[Callable[[Connection, WorkflowConfig], Iterable[Finding]], ...] = (
        _failure_rate,
        _stuck,
        _quotas,
        _oldest_queued,
        _undelivered,
        _partitions,
    )
    findings: list[Finding] = []
    for measure in measures:
        with database.begin() as connection:
            findings += measure(connection, config)
    findings += _verify_slice(database)
    return _record(database, findings)


def _failure_rate(connection: Connection, config: WorkflowConfig) -> Iterable[Finding]:
    row = connection.execute(load("alerts")["count_ends"], {"window": config.alert_window}).one()
    rate = row.failures / row.ends if row.ends >= FEWEST_ENDS else 0.0
    yield Finding(
        alert=Alert.FAILURE_RATE,
        subject=_ALL,
        message=f"{row.failures} of the last {row.ends} workflows that ended failed ({rate:.0%})",
        figure=rate,
        threshold=config.alert_failure_rate,
    )


def _stuck(connection: Connection, config: WorkflowConfig) -> Iterable[Finding]:
    parameters = {"patience": config.alert_stuck_after, "most": MOST_COUNTED}
    ids = list(connection.execute(load("alerts")["list_stuck"], parameters).scalars())
    some = ", ".join(str(one) for one in ids[:3])
    more = " or more" if len(ids) >= MOST_COUNTED else ""
    yield Finding(
        alert=Alert.STUCK,
        subject=_ALL,
        message=f"{len(ids)}{more} workflows should have moved on {config.alert_stuck_after} ago, such as {some}",
        figure=len(ids),
        threshold=1,
    )


def _quotas(connection: Connection, config: WorkflowConfig) -> Iterable[Finding]:
    for status in quotas.list_status(connection):
        if status.share is not None:
            yield Finding(
                alert=Alert.QUOTA,
                subject=f"{status.dependency} {status.quota}",
                message=f"{status.used:,} of {status.allowed:,} {status.quota.replace('_', ' ')} are used",
                figure=status.share,
                threshold=config.alert_quota_share,
            )


def _oldest_queued(connection: Connection, config: WorkflowConfig) -> Iterable[Finding]:
    seconds = metrics.get_oldest_queued_seconds(connection) or 0
    yield Finding(
        alert=Alert.OLDEST_QUEUED,
        subject=_ALL,
        message=f"the oldest workflow in the queue has been waiting for {seconds / 60:.0f} minutes",
        figure=seconds,
        threshold=config.alert_oldest_queued.total_seconds(),
    )


def _undelivered(connection: Connection, config: WorkflowConfig) -> Iterable[Finding]:
    patience = config.alert_stuck_after.total_seconds()
    for row in connection.execute(load("alerts")["list_undelivered"], {"most": MOST_COUNTED}):
        more = " or more" if row.dead >= MOST_COUNTED else ""
        yield Finding(
            alert=Alert.DEAD_DELIVERIES,
            subject=row.handler,
            message=f"{row.dead}{more} events did not reach {row.handler} and are given up: "
            "`squorflow events list` says why, `squorflow events replay` tries them anew",
            figure=row.dead,
            threshold=1,
        )
        # Switched off, nobody is to be served but the log.
        unserved = float(row.unserved_seconds or 0) if config.enable_notifications else 0
        yield Finding(
            alert=Alert.UNSERVED,
            subject=row.handler,
            message=f"events have been waiting for {row.handler} for {unserved / 60:.0f} minutes and no dispatcher has "
            "it: name it in WORKFLOW_EVENT_HANDLERS, or end it by `squorflow events forget`",
            figure=unserved,
            threshold=patience,
        )


def _partitions(connection: Connection, config: WorkflowConfig) -> Iterable[Finding]:
    del config
    months = metrics.count_partitions_ahead(connection)
    yield Finding(
        alert=Alert.PARTITIONS,
        subject=_ALL,
        message=f"only {months} coming months have their partitions: run `squorflow upkeep` as the schema's owner",
        figure=FEWEST_MONTHS - months,
        threshold=1,
    )


def _verify_slice(database: Database) -> list[Finding]:
    """Verify the next trails, and those with an open incident again."""
    queries = load("alerts")
    with database.begin() as connection:
        begin = connection.execute(queries["get_audit_round"]).scalar_one()
        suspects = [
            UUID(row.subject) for row in connection.execute(queries["list_open"], {"alerts": [Alert.AUDIT.value]})
        ]
    found, following = audit.verify_slice(database, first=begin, size=TRAILS_PER_ROUND)
    found += audit.verify_some(database, suspects)
    with database.begin() as connection:
        connection.execute(queries["move_audit_round"], {"next_workflow_id": following})
    problems: dict[UUID, str] = {}
    for one in found:
        problems.setdefault(one.workflow_id, one.problem)
    return [
        Finding(
            alert=Alert.AUDIT,
            subject=str(workflow_id),
            message=f"the trail of workflow {workflow_id} does not hold: {problem}",
            figure=1,
            threshold=1,
        )
        for workflow_id, problem in problems.items()
    ]


def _record(database: Database, findings: Iterable[Finding]) -> AlertReport:
    """Open what has reached its threshold, end what is open and calm or no longer found."""
    queries = load("alerts")
    by_incident = {(one.alert.value, one.subject): one for one in findings}
    opened: list[str] = []
    ended: list[str] = []
    with database.begin() as connection:
        for (alert, subject), one in sorted(by_incident.items()):
            if one.figure >= one.threshold:
                parameters = {"alert": alert, "subject": subject, "message": one.message}
                if connection.execute(queries["open_incident"], parameters).rowcount:
                    opened.append(f"{alert}/{subject}")
        known = [one.value for one in Alert]
        for row in connection.execute(queries["list_open"], {"alerts": known}).all():
            finding = by_incident.get((row.alert, row.subject))
            if finding is None or finding.figure < CALM * finding.threshold:
                parameters = {"alert": row.alert, "subject": row.subject}
                if connection.execute(queries["resolve_incident"], parameters).rowcount:
                    ended.append(f"{row.alert}/{row.subject}")
    return AlertReport(opened=tuple(opened), ended=tuple(ended))
