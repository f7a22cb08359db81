"""Whole runs by `airflow dags test`: one process, real stages, a real Postgres."""

from __future__ import annotations

import os
import re
import signal
import time
from subprocess import Popen

from support.airflow_runs import Installation, crawled, hopeless

STATES_OF = "SELECT product_name, workflow_state FROM processing_queue WHERE product_name LIKE :like"
ACTORS_OF = """
SELECT DISTINCT t.actor FROM workflow_transitions AS t INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id
WHERE q.product_name = :name AND t.actor LIKE 'airflow:%'
"""


def end(process: Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_products_go_through_all_stages_and_hopeless_ones_wait_for_a_person(installation: Installation) -> None:
    installation.enqueue(crawled("good one"), crawled("good two"), hopeless("good for nothing"))
    code, printed = installation.dags_test()
    assert code == 0, printed
    assert dict(installation.query(STATES_OF, like="good%")) == {  # type: ignore[arg-type]
        "good one": "completed",
        "good two": "completed",
        "good for nothing": "suspended",
    }
    assert "3 products: 2 completed, 1 suspended." in printed
    actors = [actor for (actor,) in installation.query(ACTORS_OF, name="good one")]
    assert actors
    form = re.compile(r"airflow:product_workflow/manual__[^/]+/product\.[a-z_]+\[\d+\]#1")
    assert all(form.fullmatch(actor) for actor in actors)
    assert installation.query("SELECT DISTINCT split_part(owner, ':', 1) FROM run_claim") == [("dagtest",)]


def test_an_empty_queue_is_a_green_run_that_updates_no_asset(installation: Installation) -> None:
    code, printed = installation.dags_test()
    assert code == 0, printed
    assert "This run took no products" in printed


def test_a_run_takes_only_the_workflows_it_is_asked_for(installation: Installation) -> None:
    installation.enqueue(crawled("picked one"), crawled("picked by nobody"))
    [(workflow_id,)] = installation.query("SELECT queue_id FROM processing_queue WHERE product_name = 'picked one'")
    code, printed = installation.dags_test(workflow_ids=[str(workflow_id)])
    assert code == 0, printed
    states = dict(installation.query(STATES_OF, like="picked%"))  # type: ignore[arg-type]
    assert states == {"picked one": "completed", "picked by nobody": "queued"}


def test_the_products_of_a_killed_run_are_finished_by_the_next(installation: Installation) -> None:
    installation.enqueue(*[crawled(f"killed {number}") for number in range(3)])
    process = installation.start_dags_test()
    checkpoints = """
        SELECT count(*) FROM workflow_checkpoint AS c INNER JOIN processing_queue AS q ON q.queue_id = c.workflow_id
        WHERE q.product_name LIKE 'killed%'
    """
    while installation.query(checkpoints) == [(0,)]:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    end(process)
    left = dict(installation.query(STATES_OF, like="killed%"))  # type: ignore[arg-type]
    assert "processing" in left.values()
    code, printed = installation.dags_test()
    assert code == 0, printed
    assert set(dict(installation.query(STATES_OF, like="killed%")).values()) == {"completed"}  # type: ignore[arg-type]
