"""A workflow database with something to see: real products at every place a product can be at, over a day.

What is scored went through the real stages; the rest got where it is by legal steps. Only times are moved back.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from squorflow.config import WorkflowConfig
from squorflow.demo import demo_products
from squorflow.events.dispatcher import deliver_pending
from squorflow.orchestrator.intake import make_item
from squorflow.postgres.database import Database
from squorflow.products.crawler import accept
from squorflow.recovery import breakers, quotas
from squorflow.stages import make_clients, run_stage
from squorflow.states import STAGES, Stage, WorkflowState
from squorflow.workflow import leases, queue
from squorflow.workflow.transitions import transition
from support.image_server import ImageServer
from support.workflows import LEASE, PATHS, rows

RUN_ID = "manual__2026-11-25T08:00:00+00:00"
RUN_PAGE = f"/dags/product_workflow/runs/{quote(RUN_ID, safe='')}"
"""Where Airflow shows it."""
INDEX = 3
"""A map index of it, of which Airflow has a task instance of product.scoring."""
OWNER = f"airflow:airflow/product_workflow/{RUN_ID}"
HOSTILE_NAME = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> Oats"
PAST = 260
"""Workflows that were completed in the course of the last day."""

_DATA = Path(__file__).resolve().parents[1] / "data" / "openfoodfacts_products.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What there is to see, by name."""

    scored: list[UUID]
    """Went through the DAG run `RUN_ID`, by map index; the last one is the hostile product."""
    retrying: UUID
    waiting: UUID
    suspended: UUID
    failed: list[UUID]
    processing: UUID

    @property
    def hostile(self) -> UUID:
        """The product whose name is a piece of a page."""
        return self.scored[-1]


def fill(database: Database, *, home: Path) -> Site:
    """Fill an empty database; `home` is where the server's pictures are."""
    names = _real_names()
    with ImageServer() as images:
        for path in (files("squorflow.demo") / "images").iterdir():
            images.serve_picture(f"/{path.name}", path.read_bytes())
        config = WorkflowConfig(home=home, image_allow=frozenset({images.host}))
        scored = _score(database, config, base=f"http://{images.host}")
    _complete_in_the_past(database, names)
    site = Site(
        scored=scored,
        retrying=_fail_some(database, names, count=7, stage=Stage.IMAGE_FETCH, action="retry", **_TIMEOUT)[0],
        waiting=_wait_one(database, names),
        suspended=_fail_some(database, names, count=5, stage=Stage.DISCOVERY, action="suspend", **_NO_NAME)[0],
        failed=_fail_some(database, names, count=9, stage=Stage.ENRICHMENT, action="fail", **_CUT_OFF),
        processing=_hold(database, names, stage=Stage.ENRICHMENT).workflow_id,
    )
    _hold(database, names, stage=Stage.SCORING)
    _enqueue(database, [next(names) for _ in range(12)])
    _trouble(database)
    _spread_over_a_day(database)
    deliver_pending(database, config=config, budget=timedelta(seconds=20))
    return site


_TIMEOUT = {
    "category": "transient",
    "last_error": "NetworkError: the image host did not answer within 10 s",
    "details": {"class": "NetworkError", "message": "the image host did not answer within 10 s"},
}
_NO_NAME = {
    "category": "data",
    "last_error": "ValidationError: the page has no product name",
    "details": {"class": "ValidationError", "message": "the page has no product name", "code": "missing_name"},
}
_CUT_OFF = {
    "category": "transient",
    "last_error": "TransientError: the answer of the model was cut off",
    "details": {"class": "TransientError", "message": "the answer of the model was cut off after 8192 tokens"},
}


_THEN = {"retry": "retry 1 of 3 in 120 s", "suspend": "a person has to look", "fail": "all 3 retries are used up"}


def _real_names() -> Iterator[tuple[str, str]]:
    """Yield names and brands of real products, for ever."""
    with _DATA.open(encoding="utf-8") as lines:
        products = [json.loads(line) for line in itertools.islice(lines, 400)]
    found = [(one.get("name"), one.get("brand")) for one in products]
    return itertools.cycle([(name, brand if isinstance(brand, str) else "") for name, brand in found if name])


def _score(database: Database, config: WorkflowConfig, *, base: str) -> list[UUID]:
    """Take the demo's products and the hostile one through all stages, as tasks of one DAG run."""
    hostile = {
        "url": "https://shop.example/hostile",
        "name": HOSTILE_NAME,
        "brand": '"><svg onload=alert(1)>',
        "images": [f"{base}/{next((files('squorflow.demo') / 'images').iterdir()).name}"],
        "extracted_data": {"ingredients_text": "<b onmouseover=alert(1)>oats</b>, salt, E150d"},
    }
    items = [make_item(accept(one)) for one in (*demo_products(base), hostile)]
    with database.begin() as connection:
        queue.enqueue(connection, items, actor="airflow:crawl/run/enqueue#1", max_retries=3)
        claimed = queue.claim_for_run(connection, owner=OWNER, limit=100)
    clients = make_clients(config)
    for item in claimed:
        for stage in STAGES:
            run_stage(
                database,
                workflow_id=item.workflow_id,
                stage=stage,
                owner=OWNER,
                actor=f"airflow:product_workflow/{RUN_ID}/product.{stage}[{item.map_index}]#1",
                config=config,
                clients=clients,
            )
    order = {item.product_name: item.workflow_id for item in claimed}
    last = order[HOSTILE_NAME]
    return [*(one for one in order.values() if one != last), last]


def _enqueue(database: Database, products: list[tuple[str, str]]) -> list[UUID]:
    items = [
        queue.NewItem(
            url=f"https://shop.example/{number}",
            name=name,
            brand=brand or None,
            crawler_data={"name": name, "url": f"https://shop.example/{number}"},
            dedupe_key=None,
        )
        for number, (name, brand) in enumerate(products)
    ]
    with database.begin() as connection:
        report = queue.enqueue(connection, items, actor="airflow:crawl/run/enqueue#1", max_retries=3)
    return [one for one in report.workflow_ids if one is not None]


def _complete_in_the_past(database: Database, names: Iterator[tuple[str, str]]) -> None:
    workflow_ids = _enqueue(database, [next(names) for _ in range(PAST)])
    with database.begin() as connection:
        for workflow_id in workflow_ids:
            for step in PATHS[WorkflowState.COMPLETED][1:]:
                transition(connection, workflow_id, step, actor="worker:crawler/4711", reason=f"on the way to {step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    workflow_id: UUID
    token: int
    actor: str


def _hold(database: Database, names: Iterator[tuple[str, str]], *, stage: Stage) -> _Held:
    """Queue one, claim it for a run, and take it as far as `stage`, which is begun."""
    (workflow_id,) = _enqueue(database, [next(names)])
    run = f"scheduled__{workflow_id}"
    owner = f"airflow:airflow/product_workflow/{run}"
    token = 0
    with database.begin() as connection:
        queue.claim_for_run(connection, owner=owner, limit=1, workflow_ids=[workflow_id])
        for step in STAGES[: STAGES.index(stage) + 1]:
            actor = f"airflow:product_workflow/{run}/product.{step}[0]#1"
            token = leases.acquire(
                connection, workflow_id, stage=step, owner=owner, actor=actor, lease=LEASE, manual=False
            ).token
            if step is not stage:
                took = random.Random(f"{workflow_id}{step}").uniform(0.1, 4)  # noqa: S311 - figures to look at
                leases.finish(
                    connection,
                    workflow_id,
                    stage=step,
                    token=token,
                    actor=actor,
                    output={},
                    seconds=took,
                    measures={},
                    keep_lease=None,
                )
    return _Held(workflow_id=workflow_id, token=token, actor=actor)


def _fail_some(
    database: Database,
    names: Iterator[tuple[str, str]],
    *,
    count: int,
    stage: Stage,
    action: str,
    category: str,
    last_error: str,
    details: dict[str, str],
) -> list[UUID]:
    failed = []
    for number in range(count):
        held = _hold(database, names, stage=stage)
        delay = timedelta(minutes=2 + number) if action == "retry" else None
        with database.begin() as connection:
            leases.fail(
                connection,
                held.workflow_id,
                token=held.token,
                actor=held.actor,
                category=category,
                last_error=last_error,
                details=details,
                action=action,
                delay=delay,
                counts=action == "retry",
                reason=f"{stage}: {last_error}; {_THEN[action]}",
            )
        failed.append(held.workflow_id)
    return failed


def _wait_one(database: Database, names: Iterator[tuple[str, str]]) -> UUID:
    held = _hold(database, names, stage=Stage.ENRICHMENT)
    with database.begin() as connection:
        leases.wait(
            connection,
            held.workflow_id,
            token=held.token,
            actor=held.actor,
            category="rate_limit",
            delay=timedelta(minutes=4),
            reason="enrichment: RateLimitError: quota exceeded; waits 240 s without costing a try",
            last_error="RateLimitError: quota exceeded",
            details={"class": "RateLimitError", "message": "quota exceeded"},
        )
    return held.workflow_id


def _trouble(database: Database) -> None:
    """Open a circuit breaker, and use up most of a quota."""
    config = WorkflowConfig()
    dependency = "images:slow.shop.example"
    admission = breakers.Admission(dependency=dependency, caller="test", probe=False, troubled=True)
    breakers.fail(
        database,
        admission,
        error="NetworkError: no answer within 10 s",
        pause=timedelta(minutes=5),
        at_once=True,
        config=config,
    )
    limits = quotas.Limits(requests_per_minute=60, requests_per_day=1500, tokens_per_minute=250_000)
    for _ in range(51):
        quotas.reserve(database, quotas.GEMINI, tokens=1900, limits=limits)


def _spread_over_a_day(database: Database) -> None:
    """Move what was measured and completed back in time, evenly but with a busy afternoon."""
    with database.begin() as connection:
        for trigger in ("zz_guard", "zz_record_update"):
            rows(connection, f"ALTER TABLE processing_queue DISABLE TRIGGER {trigger}")
        rows(
            connection,
            """
            WITH place AS (
                SELECT queue_id, interval '23 hours' * (1 - power(row_number() OVER (ORDER BY md5(queue_id::text)) / count(*) OVER ()::float, 0.7)) AS age
                FROM processing_queue WHERE workflow_state = 'completed' AND product_id IS NULL
            )
            UPDATE processing_queue AS q SET completed_at = q.completed_at - p.age,
                processing_started_at = q.completed_at - p.age - interval '20 seconds' * (1 + random())
            FROM place AS p WHERE p.queue_id = q.queue_id
            """,  # noqa: E501
        )
        for trigger in ("zz_guard", "zz_record_update"):
            rows(connection, f"ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER {trigger}")
        rows(
            connection,
            """
            INSERT INTO workflow_metrics (metric_id, workflow_id, metric_type, metric_name, metric_value, metadata, created_at, stage, workflow_state)
            SELECT uuid_v7(m.moved), m.workflow_id, m.metric_type, m.metric_name, m.metric_value, m.metadata, m.moved, m.stage, m.workflow_state
            FROM (
                SELECT w.*, w.created_at - interval '20 hours' * power(random(), 2) AS moved
                FROM workflow_metrics AS w CROSS JOIN generate_series(1, 3)
                WHERE w.metric_type IN ('error', 'retry')
            ) AS m
            """,  # noqa: E501
        )
