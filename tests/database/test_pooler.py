"""Work through PgBouncer in transaction mode: every transaction may be on another session of Postgres."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError
from squorflow.orchestrator import drain
from squorflow.orchestrator.intake import make_item
from squorflow.orchestrator.preparing import upgrade
from squorflow.postgres.addresses import render_url
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.products.crawler import accept
from squorflow.stages import make_clients
from squorflow.workflow import audit, queue
from support.ports import Port
from support.processes import wait_until
from support.workflows import rows, value

PRODUCTS = 12


@pytest.fixture
def pooler(postgres: EmbeddedPostgres, database_url: URL) -> Iterator[str]:
    """PgBouncer on loopback before the test's database, with two sessions for everybody; yields its address."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("not available here: pgbouncer")
    # It does not run as root either; the session's own Postgres has found somebody who may.
    owner = pwd.getpwuid(postgres.data.stat().st_uid)
    as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with Port() as port, tempfile.TemporaryDirectory(prefix="squorflow-pooler-") as name:
        folder = Path(name)
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            f"""
            [databases]
            behind = host={database_url.query["host"]} dbname={database_url.database} user={database_url.username}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = 2
            max_client_conn = 100
            """,
            encoding="utf-8",
        )
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([program, settings], stdout=log, stderr=log, **as_owner)  # type: ignore[call-overload]
        try:
            wait_until(lambda: _answers(port))
            yield f"postgresql://postgres@127.0.0.1:{port}/behind?pooled=true"
        finally:
            server.terminate()
            server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def pooled(
    pooler: str, database_url: URL, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """The test's database through the pooler, and past it for what needs a session."""
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", pooler)
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB_DIRECT", render_url(database_url, with_secrets=True))
    database = Database.from_environment(config)
    yield database
    database.close()


def test_products_go_through_all_stages_behind_a_pooler(pooled: Database, config: WorkflowConfig) -> None:
    items = [
        make_item(
            accept(
                {
                    "url": f"https://shop.example/{number}",
                    "name": f"Oat drink {number}",
                    "extracted_data": {"ingredients_text": "Water, oats 11%, salt."},
                }
            )
        )
        for number in range(PRODUCTS)
    ]
    upgrade(pooled)
    with pooled.begin() as connection:
        queue.enqueue(connection, items, actor="cli:test", max_retries=3)
    report = drain(pooled, config=config, clients=make_clients(config), num_workers=2)
    assert report.completed == PRODUCTS
    assert audit.verify(pooled) == audit.Verification(workflows=PRODUCTS, problems=())
    assert value(pooled, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def test_our_settings_hold_in_every_transaction_and_are_left_in_no_session(pooled: Database) -> None:
    with pooled.begin() as connection:
        shown = [
            value(connection, "SELECT current_setting(:name)", name=name)
            for name in ("idle_in_transaction_session_timeout", "TimeZone")
        ]
        rows(connection, "COMMIT")
        left = value(connection, "SELECT current_setting('idle_in_transaction_session_timeout')")
    assert (shown, left) == (["5min", "UTC"], "0")


def test_a_statement_that_is_repeated_is_not_prepared_in_a_session_that_is_not_ours(pooled: Database) -> None:
    for _ in range(20):
        value(pooled, "SELECT 1 + :one", one=1)
    assert value(pooled, "SELECT count(*) FROM pg_prepared_statements") == 0


def test_a_pooled_connection_without_a_way_past_it_is_refused_in_words(
    pooled: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    del pooled
    monkeypatch.delenv("AIRFLOW_CONN_WORKFLOW_DB_DIRECT")
    database = Database.from_environment(config)
    with pytest.raises(ConfigurationError, match="workflow_db_direct has to name the way past it"), database.session():
        pass
    assert "pooled" not in render_url(database.url, with_secrets=True)
    database.close()
