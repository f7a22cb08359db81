"""What a connection's address asks for holds, but for what squorflow could not work without."""

from __future__ import annotations

import pytest
from sqlalchemy import URL

from squorflow.config import WorkflowConfig
from squorflow.postgres import migrations
from squorflow.postgres.database import Database
from support import workflows
from support.workflows import rows, value


def _shown(url: URL, *settings: str) -> list[str]:
    database = Database(url, config=WorkflowConfig())
    try:
        return [value(database, "SELECT current_setting(:name)", name=name) for name in settings]
    finally:
        database.close()


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
