"""How fast the API and the dashboard answer over a large queue, beside Airflow's `GET /api/v2/dags` on the same server.

The rows are made by legal steps, in batches, with their payloads, so that trails, counters and indexes are as they
would be. Requests go one after the other, all kinds in turns, so that a machine that got slower shows in all of them.
The ratio is what counts, and nothing asserts it: the machine decides.

    python benchmarks/api.py [--rows 1000000] [--rounds 50]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
from sqlalchemy import text

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.local import USER, WORKFLOW_DATABASE, LocalAirflow
from squorflow.airflow.processes import Processes
from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database

BATCH = 20_000
API = "/api/v1/workflow"
PAGES = "/squorflow"
BASE = "Airflow: GET /api/v2/dags"
MAKE = """
WITH made AS (
    INSERT INTO processing_queue (product_name, brand_name, source_url)
    SELECT 'Product ' || i, 'Brand ' || i % 1000, 'https://shop.example/p/' || i
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS i
    RETURNING queue_id, product_name, source_url
)
INSERT INTO workflow_payload (workflow_id, crawler_data)
SELECT queue_id, jsonb_build_object('name', product_name, 'url', source_url) FROM made
"""
MOVE = """
UPDATE processing_queue SET workflow_state = :to
WHERE queue_id >= :mark AND workflow_state = :state AND CAST(split_part(product_name, ' ', 2) AS int) % 1000 < :share
"""
STEPS = (
    ("created", "cancelled", 600),
    ("created", "queued", 1000),
    ("queued", "processing", 610),
    ("processing", "failed", 605),
)
"""Of each thousand 600 end cancelled, 390 queued, five processing and five failed."""


def fill(database: Database, *, rows: int) -> None:
    """Make the workflows and move them to their states."""
    for first in range(1, rows + 1, BATCH):
        with database.begin() as connection:
            mark = connection.execute(text("SELECT uuid_v7_floor(clock_timestamp())")).scalar_one()
            connection.execute(text("SELECT workflow_say('cli:benchmark', 'for a benchmark')"))
            connection.execute(text(MAKE), {"first": first, "last": min(first + BATCH - 1, rows)})
            for state, to, share in STEPS:
                connection.execute(text(MOVE), {"mark": mark, "state": state, "to": to, "share": share})
    with database.session() as session:
        session.execute(
            text("VACUUM ANALYZE processing_queue, workflow_payload, workflow_transitions, workflow_metrics")
        )


def measure(client: httpx.Client, *, workflow_id: str, cursor: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each request by its kind."""
    paths = {
        BASE: "/api/v2/dags?limit=20",
        "list": f"{API}?limit=20",
        "list, deep page": f"{API}?limit=20&cursor={cursor}",
        "list, failed": f"{API}?limit=20&state=failed",
        "list, brand": f"{API}?limit=20&brand=brand%2077",
        "list, words": f"{API}?limit=20&text=product%204711",
        "status": f"{API}/{workflow_id}/status",
        "history": f"{API}/{workflow_id}/history",
        "dashboard": f"{API}/dashboard",
        "metrics, 24h": f"{API}/metrics",
        "prometheus": f"{API}/prometheus",
        "page: overview": f"{PAGES}/overview",
        "page: list": f"{PAGES}/workflows",
        "page: list, deep": f"{PAGES}/workflows?cursor={cursor}",
        "page: list, failed": f"{PAGES}/workflows?state=failed",
        "page: list, words": f"{PAGES}/workflows?text=product%204711",
        "page: by failure": f"{PAGES}/workflows?group=true",
        "page: a workflow": f"{PAGES}/workflows/{workflow_id}",
    }
    taken: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds + 1):
        for name, path in paths.items():
            started = time.perf_counter()
            client.get(path).raise_for_status()
            taken[name].append(time.perf_counter() - started)
    return {name: seconds[1:] for name, seconds in taken.items()}


def run(folder: Path, *, rows: int, rounds: int) -> dict[str, list[float]]:
    """Fill a fresh installation under `folder`, start its api-server and measure."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = WorkflowConfig(home=folder / "home")
    airflow = LocalAirflow(config, port=port)
    with airflow.running(), exclusive(folder, what="a benchmark") as lock:
        database = Database(airflow.postgres.url(WORKFLOW_DATABASE), config=config)
        started = time.monotonic()
        fill(database, rows=rows)
        print(f"{rows} workflows made in {time.monotonic() - started:.0f} s", flush=True)
        database.close()
        environment = airflow.environment()
        subprocess.run(airflow.command("dags", "reserialize"), env=environment, check=True, capture_output=True)
        with (
            Processes(home=folder, environment=environment, lock=lock) as processes,
            httpx.Client(base_url=airflow.address, timeout=120, trust_env=False) as client,
        ):
            processes.start("api-server", airflow.command("api-server"))
            while not _sign_in(client, airflow.password):
                time.sleep(0.5)
            page = client.get(f"{API}?state=queued&limit=200").raise_for_status().json()
            for _ in range(10):
                page = client.get(f"{API}?limit=200&cursor={page['next_cursor']}").raise_for_status().json()
            workflow_id = page["items"][-1]["workflow_id"]
            return measure(client, workflow_id=workflow_id, cursor=page["next_cursor"], rounds=rounds)


def _sign_in(client: httpx.Client, password: str) -> bool:
    try:
        answer = client.post("/auth/token", json={"username": USER, "password": password})
    except httpx.TransportError:
        return False
    client.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
    return True


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="workflows in the queue (default: 1,000,000)")
    parser.add_argument("--rounds", type=int, default=50, help="requests of each kind (default: 50)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="squorflow-bench-") as folder:
        taken = run(Path(folder), rows=options.rows, rounds=options.rounds)
    base = statistics.median(taken[BASE])
    print(f"| {options.rows:,} workflows, {options.rounds} requests each | median ms | p95 ms | x Airflow's |")
    print("| --- | ---: | ---: | ---: |")
    for name, seconds in taken.items():
        p95 = statistics.quantiles(seconds, n=20)[-1]
        middle = statistics.median(seconds)
        print(f"| {name} | {middle * 1000:.1f} | {p95 * 1000:.1f} | {middle / base:.2f} |")
    print(f"load of the machine meanwhile: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
