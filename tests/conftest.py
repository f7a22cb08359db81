"""Fixtures shared by all suites: a real Postgres for the session, a database of its own for each test that asks."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, text

from squorflow.config import WorkflowConfig
from squorflow.postgres import migrations
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres

pytest_plugins = ("support.skips",)

_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give the session a temporary folder of its own, which goes with it.

    pytest's shared one is closed to other users again by every pytest that starts, and a Postgres started by root runs
    as another user. A developer's own key for Gemini is put aside: tests never leave this machine. A shell's background
    job ignores Ctrl-C, and so would everything that the tests start and interrupt.
    """
    for name in ("AIRFLOW_CONN_GEMINI_DEFAULT", "GEMINI_API_KEY", "GOOGLE_API_KEY", "WORKFLOW_ANALYZER"):
        os.environ.pop(name, None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.basetemp is None:
        folder = Path(tempfile.mkdtemp(prefix="squorflow-pytest-"))
        folder.chmod(0o711)
        config.option.basetemp = folder / "t"
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def _passable_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path_factory.getbasetemp().chmod(0o711)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """An embedded Postgres for the whole session, in a folder that goes with it; not durable, so fast."""
    with tempfile.TemporaryDirectory(prefix="squorflow-tests-") as folder:
        server = EmbeddedPostgres(Path(folder), durable=False)
        with server.running():
            yield server


def _administer(server: EmbeddedPostgres, statement: str) -> None:
    engine = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated, empty database that tests are cloned from in milliseconds."""
    postgres.ensure_database("template_squorflow")
    database = Database(postgres.url("template_squorflow"), config=WorkflowConfig())
    migrations.upgrade(database)
    database.close()
    return "template_squorflow"


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template: str) -> Iterator[URL]:
    """The address of a migrated, empty database that exists for one test."""
    name = f"test_{next(_numbers)}"
    _administer(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.url(name)
    _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def config(tmp_path: Path) -> WorkflowConfig:
    """Settings for tests: short leases, and a data folder of the test's own."""
    return WorkflowConfig(home=tmp_path, lock_timeout=5, num_workers=2)


@pytest.fixture
def database(database_url: URL, config: WorkflowConfig) -> Iterator[Database]:
    """A migrated, empty database that exists for one test."""
    database = Database(database_url, config=config)
    yield database
    database.close()
