"""Airflow's own web server in a process, with one user per role, for tests to ask as any of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from squorflow.airflow.local import WORKFLOW_DATABASE, LocalAirflow
from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from support.ports import Port
from support.prepared import local_airflow

PREFIX = "/api/v1/workflow"
SCRAPE_TOKEN = "a-token-for-scraping"  # noqa: S105 - of the tests
ROLES = ("viewer", "user", "op", "admin")
_START_SECONDS = 300


class ApiServer:
    """A running api-server; `as_` gives a client signed in by token, `by_cookie` one signed in as a browser is."""

    def __init__(self, airflow: LocalAirflow, database: Database) -> None:
        self.airflow = airflow
        self.database = database
        self.process: subprocess.Popen[bytes]
        self.passwords = airflow.folder / "test-passwords.json"
        self.passwords.write_text(json.dumps({role: f"{role}-secret" for role in ROLES}))
        self.log = airflow.home / f"api-server-{airflow.port}.log"
        self._clients: list[httpx.Client] = []

    @contextmanager
    def running(self, **settings: str) -> Iterator[ApiServer]:
        """Have it up inside the block."""
        environment = {
            **self.airflow.environment(),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{role}:{role}" for role in ROLES),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.passwords),
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = process = subprocess.Popen(
                self.airflow.command("api-server"),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait(process)
            yield self
        finally:
            for client in self._clients:
                client.close()
            process.terminate()
            process.wait(180)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            try:
                httpx.get(f"{self.airflow.address}/api/v2/version", timeout=5, trust_env=False)
            except httpx.HTTPError:
                time.sleep(0.2)
                continue
            return

    def anonymous(self, **headers: str) -> httpx.Client:
        client = httpx.Client(base_url=self.airflow.address, timeout=120, trust_env=False, headers=headers)
        self._clients.append(client)
        return client

    def token(self, role: str) -> str:
        given = self.anonymous().post("/auth/token", json={"username": role, "password": f"{role}-secret"})
        assert given.status_code == 201, given.text
        return str(given.json()["access_token"])

    def as_(self, role: str) -> httpx.Client:
        return self.anonymous(Authorization=f"Bearer {self.token(role)}")

    def by_cookie(self, role: str, **headers: str) -> httpx.Client:
        client = self.anonymous(**headers)
        client.cookies.set("_token", self.token(role))
        return client

    def query(self, statement: str, **parameters: Any) -> list[Any]:
        """Read from Airflow's own database."""
        from sqlalchemy import create_engine, text

        engine = create_engine(self.airflow.postgres.url("airflow"))
        with engine.connect() as connection:
            rows = list(connection.execute(text(statement), parameters))
        engine.dispose()
        return rows


@contextmanager
def beside(server: ApiServer, **settings: str) -> Iterator[ApiServer]:
    """Start another api-server on the same databases."""
    with Port() as port:
        other = ApiServer(LocalAirflow(server.airflow.config, port=port), server.database)
        with other.running(**settings) as running:
            yield running


@contextmanager
def fab_server(server: ApiServer) -> Iterator[ApiServer]:
    """Start another api-server on the same databases, whose users are those of FAB's auth manager."""
    settings = {"AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}
    environment = {**server.airflow.environment(), **settings}
    program = Path(__file__).with_name("fab_users.py")
    for command in (server.airflow.command("fab-db", "migrate"), [sys.executable, program, *ROLES]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    with beside(server, **settings) as running:
        yield running


@contextmanager
def api_server(**settings: str) -> Iterator[ApiServer]:
    """Start an Airflow with empty databases and its api-server; nothing else of it runs."""
    with Port() as port, tempfile.TemporaryDirectory(prefix="squorflow-api-") as folder:
        config = WorkflowConfig(home=Path(folder), lock_timeout=5)
        airflow = local_airflow(config, port=port)
        with airflow.running():
            database = Database(airflow.postgres.url(WORKFLOW_DATABASE), config=config)
            with ApiServer(airflow, database).running(**settings) as server:
                yield server
            database.close()
