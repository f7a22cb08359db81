"""What a connection's address asks for holds, but for what squorflow could not work without."""

from __future__ import annotations

import re
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine
from sqlalchemy.exc import ProgrammingError

from squorflow.config import WorkflowConfig
from squorflow.monitoring.upkeep import run_upkeep
from squorflow.orchestrator import drain
from squorflow.orchestrator.intake import make_item
from squorflow.orchestrator.preparing import upgrade
from squorflow.postgres import migrations
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.products.crawler import accept
from squorflow.stages import make_clients
from squorflow.states import WorkflowState
from squorflow.workflow import audit, queue
from support import workflows
from support.aging import make_old
from support.workflows import administer, rows, value

RUNBOOK = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
WORKER = "squorflow_test_worker"
LAST_MONTH = "SELECT 'workflow_events' || to_char(now() AT TIME ZONE 'UTC' + interval '3 months', '_YYYY_MM')"


def _shown(url: URL, *settings: str) -> list[str]:
    database = Database(url, config=WorkflowConfig())
    try:
        return [value(database, "SELECT current_setting(:name)", name=name) for name in settings]
    finally:
        database.close()


def test_threads_that_begin_at_once_share_one_pool(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    database, together, made = Database(database_url, config=WorkflowConfig()), threading.Barrier(2), list[Engine]()
    make = database._create_engine

    def make_slowly(address: URL | str, **options: Any) -> Engine:
        # Whoever else is let in here meanwhile makes one too.
        time.sleep(0.05)
        made.append(make(address, **options))
        return made[-1]

    monkeypatch.setattr(database, "_create_engine", make_slowly)

    def use() -> None:
        together.wait(60)
        with database.session():
            pass

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for engine in made:
        engine.dispose()
    assert len(made) == 1


def test_options_of_the_address_hold_beside_ours(database_url: URL) -> None:
    address = database_url.update_query_dict({"options": "-c search_path=tenant -c statement_timeout=7s"})
    shown = _shown(address, "search_path", "statement_timeout", "idle_in_transaction_session_timeout", "DateStyle")
    assert shown == ["tenant", "7s", "5min", "ISO, MDY"]


def test_options_of_the_environment_hold_where_the_address_has_none(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c search_path=tenant")
    assert _shown(database_url, "search_path", "TimeZone") == ["tenant", "UTC"]
    named = database_url.update_query_dict({"options": "-c search_path=other"})
    assert _shown(named, "search_path") == ["other"]


def test_what_times_are_read_by_is_ours(database_url: URL) -> None:
    address = database_url.update_query_dict({"options": "-c TimeZone=Asia/Kathmandu -c DateStyle=German"})
    assert _shown(address, "TimeZone", "DateStyle") == ["UTC", "ISO, DMY"]


def test_no_plan_is_compiled_for_us_or_where_a_function_makes_one_look_dear(database: Database) -> None:
    assert value(database, "SELECT current_setting('jit')") == "off"
    functions = rows(
        database,
        "SELECT proname, 'jit=off' = ANY (proconfig) AS uncompiled FROM pg_proc"
        " WHERE array_to_string(proconfig, ' ') LIKE '%enable\\_%'",
    )
    assert {row.proname for row in functions} >= {"queue_record_update"}
    assert [row.proname for row in functions if not row.uncompiled] == []


def test_the_address_may_name_the_application(database_url: URL) -> None:
    named = database_url.update_query_dict({"application_name": "crawl-eu"})
    assert [*_shown(database_url, "application_name"), *_shown(named, "application_name")] == ["squorflow", "crawl-eu"]


def test_a_schema_named_in_the_options_is_where_everything_lives(database_url: URL) -> None:
    plain = Database(database_url, config=WorkflowConfig())
    rows(plain, "CREATE SCHEMA tenant")
    tenant = Database(database_url.update_query_dict({"options": "-c search_path=tenant"}), config=WorkflowConfig())
    try:
        migrations.upgrade(tenant)
        (workflow_id,) = workflows.enqueue(tenant)
        assert workflows.get_state(tenant, workflow_id) == "queued"
        assert value(plain, "SELECT count(*) FROM tenant.processing_queue") == 1
        assert value(plain, "SELECT count(*) FROM public.processing_queue") == 0
    finally:
        plain.close()
        tenant.close()


def test_a_login_that_owns_nothing_can_work_the_queue_empty_and_keep_up(
    postgres: EmbeddedPostgres, database_url: URL, config: WorkflowConfig
) -> None:
    owner = Database(database_url, config=config)
    worker = Database(database_url.set(username=WORKER), config=config)
    administer(postgres, f"CREATE ROLE {WORKER} LOGIN")
    try:
        upgrade(owner)
        for statement in re.findall(r"^(?:GRANT|REVOKE) .*;$", RUNBOOK, re.MULTILINE):
            rows(owner, statement.replace(" worker;", f" {WORKER};"))
        workflows.enqueue(worker, count=2)
        page = {"url": "https://shop.example/oats", "name": "Oats", "extracted_data": {"ingredients_text": "oats"}}
        with worker.begin() as connection:
            queue.enqueue(connection, [make_item(accept(page))], actor="test", max_retries=1)
        report = drain(worker, config=config, clients=make_clients(config), num_workers=2)
        assert (report.completed, report.suspended, report.retries) == (1, 2, 0)
        assert audit.verify(worker).problems == ()
        with pytest.raises(ProgrammingError, match="permission denied"):
            rows(worker, "UPDATE workflow_rule SET to_state = 'completed'")
        make_old(owner, WorkflowState.COMPLETED, age=timedelta(days=430))
        last_month = value(owner, LAST_MONTH)
        rows(owner, f"ALTER TABLE workflow_events DETACH PARTITION {last_month}")
        rows(owner, f"DROP TABLE {last_month}")
        report = run_upkeep(worker, config=config)
        assert (report.problems, report.postponed) == ([], [])
        assert (report.partitions_made, len(report.archived), report.retired) == (1, 3, 1)
    finally:
        worker.close()
        rows(owner, f"DROP OWNED BY {WORKER}")
        owner.close()
        administer(postgres, f"DROP ROLE {WORKER}")
