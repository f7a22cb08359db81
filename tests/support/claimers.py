"""What the claiming processes of tests/chaos run; importable, so that a fresh process finds it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import URL

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.workflow import queue

BATCH = 40


def claim_all(address: str, number: int) -> list[UUID]:
    """Claim batch after batch until nothing is left, as a run (even numbers) or as a worker process (odd ones)."""
    database = Database(_url(address), config=WorkflowConfig())
    claimed: list[UUID] = []
    turn = 0
    while True:
        with database.begin() as connection:
            if number % 2:
                got = queue.claim_for_worker(
                    connection, owner=f"worker:host/{number}/x", limit=BATCH, lease=timedelta(minutes=5)
                )
            else:
                owner = f"airflow:airflow/product_workflow/run_{number}_{turn}"
                got = [item.workflow_id for item in queue.claim_for_run(connection, owner=owner, limit=BATCH)]
        if not got:
            database.close()
            return claimed
        claimed += got
        turn += 1


def _url(address: str) -> URL:
    from sqlalchemy import make_url

    return make_url(address)
