"""How fast the API and the dashboard answer over a large queue, beside Airflow's `GET /api/v2/dags` on the same server.

One workflow of each kind gets where it is by legal steps, a completed one through all seven stages. Then it is copied,
with its payload, trail and metrics, as if that many had come over the last weeks. Copying goes past the triggers, or a
million would take an hour: the copies' trails would not verify, and events are left out, which no request reads.

Requests go one after the other, all kinds in turns, so that a machine that got slower shows in all of them. The ratio
is what counts, and nothing asserts it: the machine decides. `--write` puts the table into `benchmarks/results.md`.

    python benchmarks/api.py [--rows 1000000] [--rounds 50] [--write]
"""

from __future__ import annotations

import argparse
import math
import os
import re
import socket
import statistics
import subprocess
import tempfile
import time
from datetime import timedelta
from itertools import islice
from pathlib import Path
from uuid import UUID

import httpx
from sqlalchemy import Connection, text

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.local import USER, WORKFLOW_DATABASE, LocalAirflow
from squorflow.airflow.processes import Processes
from squorflow.config import WorkflowConfig
from squorflow.demo import demo_products
from squorflow.orchestrator.drain import drain
from squorflow.orchestrator.intake import enqueue_items
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.stages import make_clients
from squorflow.states import WorkflowState
from squorflow.workflow.transitions import transition

API = "/api/v1/workflow"
PAGES = "/squorflow"
BASE = "Airflow: GET /api/v2/dags"
RESULTS = Path(__file__).with_name("results.md")
SPREAD = timedelta(days=20)
"""Over this time the finished and the queued have come."""
CHUNK = 100_000
"""So many workflows are copied by a statement."""

_S = WorkflowState
KINDS: dict[WorkflowState, tuple[int, tuple[WorkflowState, ...]]] = {
    _S.COMPLETED: (570, ()),
    _S.QUEUED: (380, ()),
    _S.CANCELLED: (20, (_S.CANCELLED,)),
    _S.FAILED: (10, (_S.PROCESSING, _S.FAILED)),
    _S.RETRYING: (5, (_S.PROCESSING, _S.FAILED, _S.RETRYING)),
    _S.SUSPENDED: (10, (_S.PROCESSING, _S.FAILED, _S.SUSPENDED)),
    _S.PROCESSING: (5, (_S.PROCESSING,)),
}
"""How many of a thousand are in each state, and the steps that lead there from `queued`."""

PLAN = """
CREATE TEMPORARY TABLE plan AS
SELECT
    i.number, t.workflow_id AS template, uuidv7(-a.age) AS workflow_id, a.age
FROM generate_series(1, CAST(:rows AS int)) AS i (number)
CROSS JOIN LATERAL (SELECT i.number % 1000 * 919 % 1000 AS share) AS m
INNER JOIN unnest(
    CAST(:templates AS uuid []), CAST(:firsts AS int []), CAST(:lasts AS int []), CAST(:active AS bool [])
) AS t (workflow_id, first, last, active) ON t.first <= m.share AND m.share < t.last
CROSS JOIN LATERAL (
    SELECT CASE WHEN t.active THEN interval '1 second' ELSE CAST(:spread AS interval) END
        * (1 - i.number / CAST(:rows AS float8)) AS age
) AS a
"""
COPIES: dict[str, tuple[str, dict[str, str]]] = {
    "processing_queue": (
        "queue_id",
        {
            "queue_id": "p.workflow_id",
            "product_name": "'Product ' || p.number",
            "brand_name": "'Brand ' || p.number % 1000",
            "source_url": "'https://shop.example/p/' || p.number",
            "dedupe_key": "decode(md5(CAST(p.number AS text)), 'hex')",
        },
    ),
    "workflow_payload": (
        "workflow_id",
        {
            "workflow_id": "p.workflow_id",
            "crawler_data": "s.crawler_data || jsonb_build_object("
            "'name', 'Product ' || p.number, 'url', 'https://shop.example/p/' || p.number)",
        },
    ),
    "workflow_transitions": (
        "workflow_id",
        {"workflow_id": "p.workflow_id", "transition_id": "uuidv7(s.created_at - p.age - clock_timestamp())"},
    ),
    "workflow_metrics": (
        "workflow_id",
        {"workflow_id": "p.workflow_id", "metric_id": "uuidv7(s.created_at - p.age - clock_timestamp())"},
    ),
}
"""What is copied, by which column it belongs to a workflow, and what is different in a copy."""

COLUMNS = """
SELECT c.column_name AS name, c.data_type LIKE 'timestamp%' AS is_time
FROM information_schema.columns AS c
WHERE c.table_schema = 'public' AND c.table_name = :table AND c.is_generated = 'NEVER'
ORDER BY c.ordinal_position
"""
INDEXES = """
SELECT c.relname AS name, replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ') AS definition
FROM pg_index AS i INNER JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE
    i.indrelid = CAST(:table AS regclass)
    AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
"""
COUNT = """
INSERT INTO workflow_counter_delta (name, delta)
SELECT 'state:' || q.workflow_state, count(*) FROM plan AS p
INNER JOIN processing_queue AS q ON q.queue_id = p.workflow_id GROUP BY q.workflow_state
"""


def make_templates(database: Database, *, config: WorkflowConfig) -> dict[WorkflowState, UUID]:
    """Bring one workflow into each state by legal steps."""
    shipped = [{**product, "images": []} for product in islice(demo_products(), len(KINDS))]
    made: dict[WorkflowState, UUID] = {}

    def queue(state: WorkflowState, product: dict[str, object]) -> None:
        with database.begin() as connection:
            (report,) = enqueue_items(connection, [product], actor="cli:benchmark", max_retries=3)
        if report.workflow_id is None:
            raise SystemExit(f"A product of the demo was refused: {' '.join(report.notes)}")
        made[state] = report.workflow_id

    queue(_S.COMPLETED, shipped[0])
    drain(database, config=config, clients=make_clients(config), num_workers=1)
    for (state, (_, steps)), product in zip(list(KINDS.items())[1:], shipped[1:], strict=True):
        queue(state, product)
        for to in steps:
            with database.begin() as connection:
                transition(connection, made[state], to, actor="cli:benchmark", reason="for a benchmark")
    return made


def fill(database: Database, *, rows: int, config: WorkflowConfig) -> None:
    """Copy the templates until there are that many workflows."""
    templates = make_templates(database, config=config)
    lasts = [sum(share for share, _ in list(KINDS.values())[: place + 1]) for place in range(len(KINDS))]
    with database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(
            text(PLAN),
            {
                "rows": rows,
                "spread": SPREAD,
                "templates": [templates[state] for state in KINDS],
                "firsts": [0, *lasts[:-1]],
                "lasts": lasts,
                "active": [state in {_S.PROCESSING, _S.RETRYING} for state in KINDS],
            },
        )
        connection.execute(text("ALTER TABLE plan ADD PRIMARY KEY (number)"))
        connection.execute(text("ANALYZE plan"))
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("SET LOCAL work_mem = '256MB'"))
        connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
        for table in COPIES:
            started = time.monotonic()
            _copy(connection, table, rows=rows)
            print(f"{table}: {time.monotonic() - started:.0f} s", flush=True)
        connection.execute(text(COUNT))
    with database.session() as session:
        session.execute(text("SET statement_timeout = 0"))
        session.execute(text(f"VACUUM ANALYZE {', '.join(COPIES)}"))
        # As upkeep does, hour by hour.
        session.execute(text("SELECT metrics_fold(:hours)"), {"hours": SPREAD // timedelta(hours=1) + 24})
        session.execute(text("ANALYZE workflow_metrics_hourly"))


def _copy(connection: Connection, table: str, *, rows: int) -> None:
    """Insert a table's rows of each template for all its copies, times moved by the copy's age."""
    belongs_by, changed = COPIES[table]
    columns = {
        row.name: changed.get(row.name, f"s.{row.name} - p.age" if row.is_time else f"s.{row.name}")
        for row in connection.execute(text(COLUMNS), {"table": table})
    }
    # Built once over all rows, an index costs a small part of what it does row by row.
    indexes = connection.execute(text(INDEXES), {"table": table}).all()
    for index in indexes:
        connection.execute(text(f"DROP INDEX {index.name}"))
    connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
    connection.execute(
        text(
            f"CREATE TEMPORARY TABLE template_{table} AS SELECT s.* FROM {table} AS s"  # noqa: S608 - ours
            f" WHERE s.{belongs_by} IN (SELECT template FROM plan)"
        )
    )
    copy = text(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(columns.values())}"  # noqa: S608 - ours
        f" FROM plan AS p INNER JOIN template_{table} AS s ON s.{belongs_by} = p.template"
        " WHERE p.number > :done AND p.number <= :done + :chunk ORDER BY p.number"
    )
    for done in range(0, rows, CHUNK):
        connection.execute(copy, {"done": done, "chunk": CHUNK})
    connection.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
    for index in indexes:
        connection.execute(text(index.definition))


def measure(client: httpx.Client, *, workflow_id: str, cursor: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each request by its kind; what got no answer in time (503) is asked no more: endless."""
    paths = {
        BASE: "/api/v2/dags?limit=20",
        "list": f"{API}?limit=20",
        "list, deep page": f"{API}?limit=20&cursor={cursor}",
        "list, failed": f"{API}?limit=20&state=failed",
        "list, stage": f"{API}?limit=20&stage=enrichment",
        "list, failed in a stage": f"{API}?limit=20&state=failed&stage=enrichment",
        "list, error": f"{API}?limit=20&error_category=transient",
        "list, brand": f"{API}?limit=20&brand=brand%2077",
        "list, words": f"{API}?limit=20&text=product%204711",
        "list, words of all": f"{API}?limit=20&text=product",
        "status": f"{API}/{workflow_id}/status",
        "history": f"{API}/{workflow_id}/history",
        "dashboard": f"{API}/dashboard",
        "metrics, 24h": f"{API}/metrics",
        "metrics, 30d": f"{API}/metrics?time_range=30d",
        "prometheus": f"{API}/prometheus",
        "page: overview": f"{PAGES}/overview",
        "page: list": f"{PAGES}/workflows",
        "page: list, deep": f"{PAGES}/workflows?cursor={cursor}",
        "page: list, failed": f"{PAGES}/workflows?state=failed",
        "page: list, words": f"{PAGES}/workflows?text=product%204711",
        "page: list, words of all": f"{PAGES}/workflows?text=product",
        "page: by failure": f"{PAGES}/workflows?group=true",
        "page: a workflow": f"{PAGES}/workflows/{workflow_id}",
    }
    taken: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds + 1):
        for name, path in paths.items():
            if math.inf in taken[name]:
                continue
            started = time.perf_counter()
            answer = client.get(path)
            seconds = time.perf_counter() - started
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                seconds = math.inf
            else:
                answer.raise_for_status()
            taken[name].append(seconds)
    return {name: seconds[1:] if len(seconds) > 1 else seconds for name, seconds in taken.items()}


def run(folder: Path, *, rows: int, rounds: int) -> dict[str, list[float]]:
    """Fill a fresh installation under `folder`, start its api-server and measure."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = WorkflowConfig(home=folder / "home")
    airflow = LocalAirflow(config, port=port)
    airflow.postgres = EmbeddedPostgres(airflow.home, durable=False)
    with airflow.running(), exclusive(folder, what="a benchmark") as lock:
        database = Database(airflow.postgres.url(WORKFLOW_DATABASE), config=config)
        started = time.monotonic()
        fill(database, rows=rows, config=config)
        print(f"{rows:,} workflows made in {time.monotonic() - started:.0f} s", flush=True)
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


def table(taken: dict[str, list[float]], *, rows: int, rounds: int) -> str:
    """Return what was measured as a table."""
    base = statistics.median(taken[BASE])
    lines = [
        f"| {rows:,} workflows, {rounds} requests each | median ms | p95 ms | x Airflow's |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, seconds in taken.items():
        if math.inf in seconds:
            lines.append(f"| {name} | no answer in time (503) | | |")
            continue
        middle, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
        lines.append(f"| {name} | {middle * 1000:.1f} | {p95 * 1000:.1f} | {middle / base:.2f} |")
    return "\n".join(
        [*lines, "", f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."]
    )


def write(measured: str) -> None:
    """Put the table between this benchmark's marks in the document of all results."""
    begin, end = "<!-- generated: api -->", "<!-- end: api -->"
    section = f"{begin}\n{measured}\n{end}"
    document = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    if begin not in document:
        document += f"\n## The workflow API (`benchmarks/api.py`)\n\n{section}\n"
    document = re.sub(f"{begin}.*?{end}", lambda _: section, document, flags=re.DOTALL)
    RESULTS.write_text(document, encoding="utf-8")


def main() -> None:
    """Print the table, and write it down where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="workflows in the queue (default: 1,000,000)")
    parser.add_argument("--rounds", type=int, default=50, help="requests of each kind (default: 50)")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/results.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="squorflow-bench-") as folder:
        taken = run(Path(folder), rows=options.rows, rounds=options.rounds)
    measured = table(taken, rows=options.rows, rounds=options.rounds)
    print(measured)
    if options.write:
        write(measured)


if __name__ == "__main__":
    main()
