"""One bulk operation over a large queue, asked for over HTTP and carried out by Airflow, its task killed on the way.

It takes minutes, so its name keeps it out of the suite: `make bulk` runs it and prints the figures.
SQUORFLOW_TEST_BULK_WORKFLOWS says how many workflows it covers.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from squorflow.orchestrator.intake import enqueue_items
from squorflow.workflow import audit
from support.airflow_api import running_airflow
from support.airflow_runs import Installation, crawled
from support.results import record
from support.storm_ground import is_task

WORKFLOWS = int(os.environ.get("SQUORFLOW_TEST_BULK_WORKFLOWS", "100000"))
OUT_OF_REACH = WORKFLOWS // 1000
"""So many are cancelled by hand before the operation comes to them: it has to say so of each."""
CHUNK = 1000
PATIENCE_SECONDS = 1800
BULK = "/api/v1/workflow/bulk"
FILTER = {"filter": {"brand": "recalled"}, "reason": "recalled by the maker"}

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)


def _enqueue(installation: Installation) -> None:
    for first in range(0, WORKFLOWS, CHUNK):
        items = [crawled(f"recalled {number}", brand="Recalled") for number in range(first, first + CHUNK)]
        with installation.database.begin() as connection:
            enqueue_items(connection, items, actor="cli:test", max_retries=3)
    # Some that it must not touch.
    installation.enqueue(*[crawled(f"kept {number}", brand="Kept") for number in range(CHUNK)])


def _cancel_the_last(installation: Installation) -> None:
    """Take those away from under the operation that it comes to last."""
    with installation.database.begin() as connection:
        connection.execute(
            text(
                """
                UPDATE processing_queue SET workflow_state = 'cancelled' WHERE queue_id IN (
                    SELECT i.workflow_id FROM bulk_operation_item AS i ORDER BY i.workflow_id DESC LIMIT :count)
                """
            ),
            {"count": OUT_OF_REACH},
        )


def _kill_the_task() -> None:
    """Kill the only task that runs, as the machine would for want of memory."""
    tasks = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if is_task(process):
                tasks.append(process)
    (task,) = tasks
    task.kill()


def test_a_bulk_operation_reaches_every_workflow_once_though_its_task_is_killed(installation: Installation) -> None:
    _enqueue(installation)
    with running_airflow(installation) as api:
        api.wait_for(lambda: api.knows("workflow_bulk"))
        began = time.monotonic()
        counted = api.post(f"{BULK}/suspend", {**FILTER, "dry_run": True})
        counting = time.monotonic() - began
        operation = api.post(f"{BULK}/suspend", FILTER)
        creating = time.monotonic() - began - counting
        _cancel_the_last(installation)
        path = f"{BULK}/{operation['operation_id']}"
        progress: dict[str, Any] = {}

        def reached(count: int) -> bool:
            progress.update(api.get(path))
            return int(progress["succeeded"]) >= count

        api.wait_for(lambda: reached(WORKFLOWS // 4), patience_seconds=PATIENCE_SECONDS)
        _kill_the_task()
        at_kill = progress["succeeded"]
        api.wait_for(lambda: reached(0) and progress["status"] == "done", patience_seconds=PATIENCE_SECONDS)
        seconds = time.monotonic() - began
        failures = api.get(f"{path}/failures", limit=OUT_OF_REACH)

    states = installation.query(
        "SELECT brand_name, workflow_state, count(*) FROM processing_queue GROUP BY 1, 2 ORDER BY 1, 2"
    )
    ((moves, moved),) = installation.query(
        "SELECT count(*), count(DISTINCT workflow_id) FROM workflow_transitions WHERE to_state = 'suspended'"
    )
    verification = audit.verify(installation.database)
    record(
        "`make bulk`",
        {
            "workflows": operation["total"],
            "counted in s": f"{counting:.1f}",
            "created in s": f"{creating:.1f}",
            "done when killed": at_kill,
            "done": progress["succeeded"],
            "refused": progress["refused"],
            "twice": moves - moved,
            "trails that do not hold": len(verification.problems),
            "seconds": round(seconds),
            "workflows a second": round(WORKFLOWS / seconds),
        },
    )
    assert counted["total"] == operation["total"] == WORKFLOWS
    assert (progress["succeeded"], progress["refused"]) == (WORKFLOWS - OUT_OF_REACH, OUT_OF_REACH)
    assert len(failures["items"]) == OUT_OF_REACH
    assert states == [
        ("Kept", "queued", CHUNK),
        ("Recalled", "cancelled", OUT_OF_REACH),
        ("Recalled", "suspended", WORKFLOWS - OUT_OF_REACH),
    ]
    assert (moves, moved) == (WORKFLOWS - OUT_OF_REACH, WORKFLOWS - OUT_OF_REACH)
    assert verification == audit.Verification(workflows=WORKFLOWS + CHUNK, problems=())
