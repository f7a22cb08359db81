"""Many processes claim from one queue."""

from __future__ import annotations

import multiprocessing
from collections import Counter

from squorflow.postgres.database import Database
from support import workflows
from support.claimers import claim_all
from support.workflows import rows, value

PROCESSES = 16
PRODUCTS = 10_000


def test_sixteen_processes_claim_each_of_ten_thousand_rows_once(database: Database) -> None:
    for _ in range(10):
        workflows.enqueue(database, count=PRODUCTS // 10)
    address = database.engine.url.render_as_string(hide_password=False)
    # Processes from a clean server: they share no connection, no thread and no lock with this one.
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["support.claimers", "sqlalchemy.dialects.postgresql.psycopg"])
    with start.Pool(PROCESSES) as pool:
        claimed = pool.starmap(claim_all, [(address, number) for number in range(PROCESSES)], chunksize=1)
    times = Counter(one for batch in claimed for one in batch)
    assert len(times) == PRODUCTS
    assert set(times.values()) == {1}
    assert value(database, "SELECT count(*) FROM processing_queue WHERE locked_by IS NULL") == 0
    of_runs = rows(
        database,
        "SELECT i.workflow_id, q.locked_by = i.owner AS agreed FROM run_claim_item AS i"
        " JOIN processing_queue AS q ON q.queue_id = i.workflow_id",
    )
    assert all(row.agreed for row in of_runs)
    assert len(of_runs) == sum(len(batch) for batch in claimed[::2])
