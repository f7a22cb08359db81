"""Keeps the database small, planned for and provable: what `workflow_maintenance` and `squorflow upkeep` do.

Owns the order of the chores and their report. Each chore is many short transactions, so upkeep may be stopped at any
moment and done again at any time; only one does it at once.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from squorflow.errors import SquorflowError
from squorflow.monitoring.archive import archive_old_months
from squorflow.monitoring.heads import export_heads
from squorflow.postgres.queries import load
from squorflow.recovery.policy import describe
from squorflow.states import TERMINAL_STATES
from squorflow.workflow.transitions import to_json

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

_BATCH = 1000
_CHANGED_ROWS, _CHANGED_SHARE = 10_000, 0.2
_REPORT_DAYS = 90
_HOURS = 24
_QUIET_DAYS = 30
"""How long nobody has asked an image host for anything before its breaker is forgotten."""


@dataclass(slots=True, kw_only=True)
class UpkeepReport:
    """What was done. `problems` need a person; what is `postponed` comes by itself."""

    partitions_made: int = 0
    heads_exported: int = 0
    archived: list[str] = field(default_factory=list)
    postponed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    retired: int = 0
    deliveries_thinned: int = 0
    claims_thinned: int = 0
    requests_thinned: int = 0
    operations_thinned: int = 0
    answer_claims_thinned: int = 0
    incidents_thinned: int = 0
    breakers_thinned: int = 0
    analyzed: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return one line: what was done, or that nothing was."""
        done = [
            f"{name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}"
            for name, value in dataclasses.asdict(self).items()
            if value
        ]
        return "; ".join(done) or "nothing was due"


def run_upkeep(database: Database, *, config: WorkflowConfig) -> UpkeepReport:
    """Do all that is due; an empty report while another upkeep is at work."""
    report = UpkeepReport()
    with _alone(database) as mine:
        if not mine:
            report.postponed.append("another upkeep is at work")
            return report
        started_at = datetime.now(UTC)
        queries = load("upkeep")
        with _reporting(report, "partitions were not made"), database.begin() as connection:
            report.partitions_made = connection.execute(queries["ensure_partitions"]).scalar_one()
        with _reporting(report, "hours of measurements were not summed up"):
            _fold(database, config=config)
        # The archive may be away: everything else goes on, and nothing leaves the database without it.
        with _reporting(report, "nothing was archived"):
            report.heads_exported = export_heads(database, config=config) or 0
            months = archive_old_months(database, config=config)
            report.archived, report.postponed = months.archived, months.postponed
            report.problems += months.problems
        _thin(database, report=report, config=config)
        changed = {"changed_rows": _CHANGED_ROWS, "share": _CHANGED_SHARE}
        with database.begin() as connection:
            report.analyzed = list(connection.execute(queries["analyze_changed"], changed).scalars())
        if report != UpkeepReport():
            with database.begin() as connection:
                content = to_json(dataclasses.asdict(report))
                connection.execute(queries["record_run"], {"started_at": started_at, "report": content})
    return report


def _fold(database: Database, *, config: WorkflowConfig) -> None:
    """Sum up the hours that are over, a day at a time, and let go of sums whose measurements have left."""
    queries = load("upkeep")
    hours = _HOURS
    while hours == _HOURS:
        with database.begin() as connection:
            hours = connection.execute(queries["fold_metrics"], {"hours": _HOURS}).scalar_one()
    with database.begin() as connection:
        connection.execute(queries["thin_hours"], {"days": config.retention_metrics_days})


def _thin(database: Database, *, report: UpkeepReport, config: WorkflowConfig) -> None:
    """Remove rows that have had their time, batch by batch."""
    trail_days = config.retention_trail_days
    for state in sorted(TERMINAL_STATES):
        report.retired += _repeat(database, "retire_finished", state=state.value, days=trail_days)
    report.deliveries_thinned = _repeat(database, "thin_deliveries", days=config.retention_deliveries_days)
    report.claims_thinned = _repeat(database, "thin_claims", days=trail_days)
    report.requests_thinned = _repeat(database, "thin_requests")
    report.operations_thinned = _repeat(database, "thin_operations", days=trail_days)
    report.answer_claims_thinned = _repeat(database, "thin_answer_claims")
    report.incidents_thinned = _repeat(database, "thin_incidents", days=config.retention_events_days)
    report.breakers_thinned = _repeat(database, "thin_breakers", days=_QUIET_DAYS)
    with database.begin() as connection:
        connection.execute(load("upkeep")["thin_reports"], {"days": _REPORT_DAYS})


def _repeat(database: Database, name: str, **parameters: Any) -> int:
    """Run a statement in transactions of a batch each until it finds less than a batch; return how many rows went."""
    total = 0
    while True:
        with database.begin() as connection:
            result = connection.execute(load("upkeep")[name], {**parameters, "batch_size": _BATCH})
            count: int = result.scalar_one() if result.returns_rows else result.rowcount
        total += count
        if count < _BATCH:
            return total


@contextmanager
def _reporting(report: UpkeepReport, what: str) -> Iterator[None]:
    """Make whatever stops a chore a problem for a person, so that the next one has its turn.

    Object stores raise errors of their clients' own, so no list of them would be whole.
    """
    try:
        yield
    except (OSError, SquorflowError) as error:
        report.problems.append(str(error))
    except Exception as error:
        log.exception("Upkeep: %s.", what)
        report.problems.append(f"{what}: {describe(error)}")


@contextmanager
def _alone(database: Database) -> Iterator[bool]:
    """Hold the lock of upkeep, which goes with its session; `False` when somebody else has it."""
    queries = load("upkeep")
    with database.session() as session:
        mine: bool = session.execute(queries["try_lock"]).scalar_one()
        try:
            yield mine
        finally:
            if mine:
                session.execute(queries["unlock"])
