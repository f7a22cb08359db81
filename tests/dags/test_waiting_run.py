"""Products that have to wait, in whole runs by `airflow dags test`: deferred in their mapped group, or released."""

from __future__ import annotations

import pytest

from support.airflow_runs import Installation, crawled
from support.image_server import Answer, ImageServer, picture

TRAIL = """
SELECT t.from_state, t.to_state FROM workflow_transitions AS t
INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id WHERE q.product_name = :name ORDER BY t.sequence
"""
ROW = "SELECT workflow_state, retry_count, stage FROM processing_queue WHERE product_name = :name"

BEGAN = """
SELECT t.reason FROM workflow_transitions AS t INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id
WHERE q.product_name = :name AND t.reason LIKE 'discovery %'
"""


def _come_back_in(seconds: int) -> Answer:
    return Answer(status=429, headers={"Retry-After": str(seconds)})


def test_a_short_wait_is_deferred_and_a_long_one_released_for_a_later_run_that_goes_on_from_there(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ImageServer() as server:
        monkeypatch.setenv("WORKFLOW_IMAGE_ALLOW", server.host)
        soon = server.serve("/soon.png", _come_back_in(6), Answer(body=picture()))
        later = server.serve("/later.png", _come_back_in(7200), Answer(body=picture()))
        installation.enqueue(
            crawled("soon", images=[soon], extracted_data={}), crawled("later", images=[later], extracted_data={})
        )
        code, printed = installation.dags_test()
        assert code == 0, printed
        assert "image_fetch waits until" in printed
        assert "Released: a run after" in printed
        assert installation.query(ROW, name="soon") == [("completed", 0, "notification")]
        trail = installation.query(TRAIL, name="soon")
        assert {("processing", "waiting"), ("waiting", "processing")} <= set(trail)
        assert ("processing", "failed") not in trail
        assert installation.query(ROW, name="later") == [("retrying", 0, "image_fetch")]
        # Two hours later.
        installation.execute("UPDATE processing_queue SET next_retry_at = now() WHERE workflow_state = 'retrying'")
        code, printed = installation.dags_test()
    assert code == 0, printed
    assert "discovery was done before" in printed
    assert installation.query(ROW, name="later") == [("completed", 0, "notification")]
    assert installation.query(BEGAN, name="later") == [("discovery began",)]
