"""What is left after a storm: everything that must hold, as sentences about what does not, and the figures to print.

Reads the products' database only, by its trail, its facts and its outbox; the fake Gemini's and the storm's own logs
are handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from squorflow.airflow.ownership import RunOwner
from squorflow.states import Stage
from squorflow.workflow import audit
from squorflow.workflow.heartbeat import LOCK_CLASS
from support.storm_faults import DEADLY, Fault, Injury
from support.storm_ground import Ground

_DUPLICATES = {
    "transitions to completed": """
        SELECT workflow_id, count(*) FROM workflow_transitions
        WHERE to_state = 'completed' GROUP BY 1 HAVING count(*) > 1
    """,
    "beginnings of a trail": """
        SELECT workflow_id, count(*) FROM workflow_transitions WHERE from_state IS NULL GROUP BY 1 HAVING count(*) > 1
    """,
    "events of a move": """
        SELECT workflow_id, event_data ->> 'sequence', count(*) FROM workflow_events
        WHERE event_type = 'state_changed' GROUP BY 1, 2 HAVING count(*) > 1
    """,
    "events of a finished stage": """
        SELECT workflow_id, event_data ->> 'stage', count(*) FROM workflow_events
        WHERE event_type = 'stage_completed' GROUP BY 1, 2 HAVING count(*) > 1
    """,
    "completion notices": """
        SELECT workflow_id, count(*) FROM workflow_events
        WHERE event_type = 'product_completed' GROUP BY 1 HAVING count(*) > 1
    """,
    "stage durations": """
        SELECT workflow_id, metric_name, count(*) FROM workflow_metrics
        WHERE metric_type = 'stage_duration' GROUP BY 1, 2 HAVING count(*) > 1
    """,
    "versions of a product": "SELECT product_id, count(*) FROM product_version GROUP BY 1 HAVING count(*) > 1",
    "analyses of a version": (
        "SELECT product_version_id, count(*) FROM product_analysis GROUP BY 1 HAVING count(*) > 1"
    ),
    "scores of an analysis": "SELECT analysis_id, count(*) FROM squor_score GROUP BY 1 HAVING count(*) > 1",
    "pages of an address": "SELECT url, count(*) FROM source_page GROUP BY 1 HAVING count(*) > 1",
    **{
        f"rows of {table} for one product": f"SELECT product_id, count(*) FROM {table} GROUP BY 1 HAVING count(*) > 1"  # noqa: S608 - names of ours
        for table in ("ingredients_v", "nutrition_v", "allergens_v", "claims_v", "certifications_v", "squor_score")
    },
}
"""What must exist at most once, with the query that finds what exists more often; every product was queued once."""

_LEFT = {
    "rows still owned or leased": """
        SELECT queue_id FROM processing_queue WHERE locked_by IS NOT NULL OR lease_expires_at IS NOT NULL
    """,
    "advisory locks still held": f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = {LOCK_CLASS}",  # noqa: S608 - a number of ours
    "moves that no event tells of": """
        SELECT t.workflow_id, t.sequence FROM workflow_transitions AS t WHERE NOT EXISTS (
            SELECT 1 FROM workflow_events AS e
            WHERE e.workflow_id = t.workflow_id AND e.event_data ->> 'sequence' = CAST(t.sequence AS text)
                AND e.event_type = 'state_changed')
    """,
    "transactions still open": """
        SELECT pid FROM pg_stat_activity
        WHERE application_name = 'squorflow' AND state LIKE 'idle in transaction%' AND datname = current_database()
    """,
}
"""What must not be left over."""

UNREPORTED = "Airflow was not told in time"
"""In the reaper's reason for a stage that had been written when its worker died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How long one product was away after its worker died, beyond its own backoff."""

    injury: Injury
    lost_work: bool
    untold: bool
    """Whether its stage was written, and the reaper did not wait until Airflow noticed the death."""
    begun: bool
    """Whether its product had ever run; one that had not still stands in line with the others."""
    seconds: float


def find_problems(ground: Ground, workflow_ids: Sequence[UUID]) -> list[str]:
    """Say what does not hold; empty when everything does."""
    problems = [
        f"{row.product_name} is {row.workflow_state} ({row.last_error})"
        for row in ground.query(
            "SELECT product_name, workflow_state, last_error FROM processing_queue WHERE workflow_state <> 'completed'"
        )
    ]
    ((queued,),) = ground.query("SELECT count(*) FROM processing_queue")
    if queued != len(workflow_ids):
        problems.append(f"{queued} workflows exist, {len(workflow_ids)} were queued")
    for sets, verb in ((_DUPLICATES, "more than once"), (_LEFT, "after the end")):
        for what, statement in sets.items():
            found = ground.query(statement)
            if found:
                problems.append(f"{len(found)} {what}, {verb}: {[tuple(row) for row in found[:3]]}")
    for stage in Stage:
        missing = ground.query(
            """
            SELECT q.queue_id FROM processing_queue AS q WHERE NOT EXISTS (
                SELECT 1 FROM workflow_checkpoint AS c WHERE c.workflow_id = q.queue_id AND c.stage = :stage)
            """,
            stage=stage.value,
        )
        if missing:
            problems.append(f"{len(missing)} products have no checkpoint of {stage}")
    verification = audit.verify(ground.database)
    problems += [f"{one.workflow_id}: {one.problem}" for one in verification.problems]
    if verification.workflows != len(workflow_ids):
        problems.append(f"{verification.workflows} trails were replayed, {len(workflow_ids)} exist")
    return problems


def measure_recoveries(ground: Ground, injuries: Sequence[Injury]) -> list[Recovery]:
    """Measure by the trail, for every death, the time until its product ran again, without its own backoff.

    Where the trail says that a worker was lost, that is until the next `processing`, without the delay the failing row
    names. Where the stage had been written before the death, or the task survived its supervisor, nothing was lost:
    until the next finished stage. What was lost once more before that ran again when that task began.
    """
    found = [
        one
        for injury in injuries
        if injury.fault in DEADLY and injury.workflow_id is not None and (one := _measure(ground, injury)) is not None
    ]
    return [replace(one, seconds=min([one.seconds, *_hit_again(one, found)])) for one in found]


def _hit_again(one: Recovery, others: Sequence[Recovery]) -> Iterator[float]:
    """Yield after how many seconds those tasks of the same product began that died in the middle of a stage later."""
    for other in others:
        begun = other.injury.begun
        if other.lost_work and other.injury.workflow_id == one.injury.workflow_id and begun and begun > one.injury.at:
            yield (begun - one.injury.at).total_seconds()


def describe_slowest(ground: Ground, measured: Sequence[Recovery], *, most: int = 4) -> list[str]:
    """Return, for the slowest recoveries, what trail and Airflow say after the death and how many seconds after it."""
    lines = []
    for one in sorted(measured, key=lambda one: one.seconds, reverse=True)[:most]:
        trail = ground.query(
            """
            SELECT extract(epoch FROM created_at - :at) AS seconds, to_state, actor, reason FROM workflow_transitions
            WHERE workflow_id = :id AND created_at > :at ORDER BY sequence LIMIT 8
            """,
            id=one.injury.workflow_id,
            at=one.injury.at,
        )
        steps = "; ".join(f"+{row.seconds:.0f} s {row.to_state} by {row.actor}: {row.reason}" for row in trail)
        lines.append(f"{one.seconds:.0f} s after {one.injury.fault} in {one.injury.stage}: {steps}")
        lines.append(
            f"  its tasks by when they were due, had a place, and began: {_describe_tasks(ground, one.injury)}"
        )
    return lines


def _describe_tasks(ground: Ground, injury: Injury) -> str:
    claims = ground.query("SELECT owner, map_index FROM run_claim_item WHERE workflow_id = :id", id=injury.workflow_id)
    told = []
    for claim in claims:
        owner = RunOwner.parse(claim.owner)
        tasks = ground.ask_airflow(
            """
            SELECT task_id, try_number, round(extract(epoch FROM scheduled_dttm - :at)) AS due,
                round(extract(epoch FROM queued_dttm - :at)) AS placed,
                round(extract(epoch FROM start_date - :at)) AS begun
            FROM task_instance
            WHERE run_id = :run_id AND map_index = :map_index AND start_date > :at ORDER BY start_date LIMIT 7
            """,
            run_id=owner.run_id if owner else "",
            map_index=claim.map_index,
            at=injury.at,
        )
        told += [
            f"{task.task_id}[{claim.map_index}]#{task.try_number} {task.due}/{task.placed}/{task.begun}"
            for task in tasks
        ]
    return ", ".join(told) or "none"


def _measure(ground: Ground, injury: Injury) -> Recovery | None:
    trail = ground.query(
        """
        SELECT from_state, to_state, reason, metadata, created_at FROM workflow_transitions
        WHERE workflow_id = :id AND created_at > :at ORDER BY sequence
        """,
        id=injury.workflow_id,
        at=injury.at,
    )
    events = ground.query(
        """
        SELECT created_at FROM workflow_events
        WHERE workflow_id = :id AND event_type = 'stage_completed' AND created_at > :at ORDER BY position LIMIT 1
        """,
        id=injury.workflow_id,
        at=injury.at,
    )
    ((begun,),) = ground.query(
        """
        SELECT count(*) FROM workflow_transitions
        WHERE workflow_id = :id AND created_at <= :at AND to_state = 'processing'
        """,
        id=injury.workflow_id,
        at=injury.at,
    )
    finished: datetime | None = events[0].created_at if events else None
    first = trail[0] if trail else None
    if first is None or (finished is not None and finished < first.created_at):
        # Nothing at all after the death: it had finished the last stage, and the product with it.
        return _recovery(injury, finished or injury.at, lost=False, begun=begun)
    if first.to_state != "failed":
        return _recovery(injury, first.created_at, lost=False, begun=begun)
    again = next((row.created_at for row in trail if row.to_state == "processing"), None)
    if again is None:
        return None
    backoff = timedelta(seconds=float(first.metadata.get("retry_after") or 0))
    untold = UNREPORTED in first.reason
    lost = "worker lost" in first.reason and not untold
    return _recovery(injury, again - backoff, lost=lost, untold=untold, begun=begun)


def _recovery(injury: Injury, at: datetime, *, lost: bool, begun: int, untold: bool = False) -> Recovery:
    seconds = max(0.0, (at - injury.at).total_seconds())
    return Recovery(injury=injury, lost_work=lost, untold=untold, begun=begun > 0, seconds=seconds)


def summarise_recoveries(measured: Sequence[Recovery]) -> list[str]:
    """Return a line for each kind of fault: how many, and how long they took.

    The last line is of the deaths of tasks whose products had not begun.
    """
    lines = []
    for fault in Fault:
        deaths = [one for one in measured if one.injury.fault is fault and one.begun]
        if deaths:
            lost, untold = sum(one.lost_work for one in deaths), sum(one.untold for one in deaths)
            lines.append(
                f"{fault}: {len(deaths)} deaths, {lost} of them in the middle of a stage, {untold} taken back because "
                f"Airflow was not told that it was done; running again {_after(deaths)}"
            )
    unbegun = [one for one in measured if not one.begun]
    if unbegun:
        lines.append(f"whatever died, before its product had begun: {len(unbegun)} deaths; running {_after(unbegun)}")
    return lines


def _after(deaths: Sequence[Recovery]) -> str:
    seconds = sorted(one.seconds for one in deaths)
    return f"after {seconds[len(seconds) // 2]:.1f} s (median), {seconds[-1]:.1f} s (longest)"
