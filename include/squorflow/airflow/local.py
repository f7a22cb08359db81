"""The local Airflow of `make demo` and `make serve`: its folder, settings, secrets and databases.

Owns what makes an Airflow of a data folder: nothing outside it is read or written, nobody on the network is asked.
Which processes run is `serve` and `demo`; the database server is `squorflow.postgres.embedded`.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError
from squorflow.postgres.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from sqlalchemy import URL

USER = "admin"
ENRICHMENT_POOL = "squorflow_enrichment"
ENRICHMENT_SLOTS = 4
WORKFLOW_DATABASE = "squorflow"
AIRFLOW_DATABASE = "airflow"

_WORKFLOW_CONNECTION = "AIRFLOW_CONN_WORKFLOW_DB"
_METADATA_CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
_AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"

PREFERENCES = {
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
    # Airflow's own 5 and 1 seconds are for clusters; on one machine they are most of what a short task takes.
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    # How long a stage may stay "running" after its supervisor has died; Airflow's own 300 s are our slowest recovery.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "WORKFLOW_ENRICHMENT_POOL": ENRICHMENT_POOL,
}
"""Settings that the environment may override."""


class LocalAirflow:
    """An Airflow whose whole state lies in `config.home`; `port` is where its api-server listens, on loopback only."""

    def __init__(self, config: WorkflowConfig, *, port: int, dags: Path | None = None) -> None:
        self.config = config
        self.port = port
        self.home = config.home.expanduser().resolve()
        self.folder = self.home / "airflow"
        self.dags = dags or _checkout() / "dags"
        self.postgres = EmbeddedPostgres(self.home)
        self.uses_embedded = not {_WORKFLOW_CONNECTION, _METADATA_CONNECTION} <= os.environ.keys()

    @property
    def address(self) -> str:
        """The api-server's address, as a person types it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        """The password of the one user, `admin`; made with the folder."""
        return self._secrets()["password"]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the databases up and migrated inside the block."""
        if not self.uses_embedded:
            self._migrate()
            yield
            return
        with self.postgres.running():
            self._migrate()
            yield

    def workflow_url(self, *, direct: bool = False) -> URL:
        """Return where squorflow's own database is; `direct` goes around a transaction pooler (migrations)."""
        from squorflow.postgres.addresses import find_url

        if _WORKFLOW_CONNECTION in os.environ:
            # Reading a connection starts Airflow in this process too, and it makes its folder where this says.
            os.environ["AIRFLOW_HOME"] = str(self.folder)
            return find_url(self.config, direct=direct)
        return self.postgres.url(WORKFLOW_DATABASE)

    def command(self, *arguments: str) -> list[str | Path]:
        """Return the command line of an Airflow command, run by this interpreter.

        It names the `airflow` script: `squorflow.airflow.preload` tells the scheduler by it.
        """
        return [sys.executable, Path(sys.executable).with_name("airflow"), *arguments]

    def environment(self) -> dict[str, str]:
        """Return the whole environment of this Airflow's processes."""
        kept = self._secrets()
        own = {
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__SECRET_KEY": kept["secret_key"],
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": kept["jwt_secret"],
            "AIRFLOW__CORE__AUTH_MANAGER": _AUTH_MANAGER,
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": kept["fernet_key"],
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.dags.with_name("plugins")),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords_file),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.folder / "logs"),
            "WORKFLOW_HOME": str(self.home),
        }
        environment = {**PREFERENCES, **os.environ, **own}
        if _METADATA_CONNECTION not in environment:
            address = self.postgres.url(AIRFLOW_DATABASE)
            environment[_METADATA_CONNECTION] = address.render_as_string(hide_password=False)
            environment[f"{_METADATA_CONNECTION}_ASYNC"] = address.set(
                drivername="postgresql+asyncpg"
            ).render_as_string(hide_password=False)
        if _WORKFLOW_CONNECTION not in environment:
            address = self.postgres.url(WORKFLOW_DATABASE)
            environment[_WORKFLOW_CONNECTION] = json.dumps(
                {
                    "conn_type": "postgres",
                    "host": address.query["host"],
                    "login": address.username,
                    "schema": address.database,
                }
            )
        # Set on many build machines; it makes every process compile everything again.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return environment

    def _migrate(self) -> None:
        """Bring both databases to this version's schema; only what is missing is done."""
        self._prepare_folder()
        if _METADATA_CONNECTION not in os.environ:
            self._migrate_metadata()
        self._migrate_workflow_database()

    def _prepare_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(self._passwords_file, json.dumps({USER: self.password}))

    def _migrate_metadata(self) -> None:
        """Run `airflow db migrate` once per Airflow version.

        A database whose first migration was interrupted holds nothing of anybody's and is made anew.
        """
        done = self.folder / "migrated"
        wanted = f"apache-airflow {version('apache-airflow')}\npool {ENRICHMENT_POOL} {ENRICHMENT_SLOTS}\n"
        if self.postgres.ensure_database(AIRFLOW_DATABASE):
            done.unlink(missing_ok=True)
        elif not done.exists():
            self.postgres.drop_database(AIRFLOW_DATABASE)
            self.postgres.ensure_database(AIRFLOW_DATABASE)
        elif done.read_text(encoding="utf-8") == wanted:
            return
        self._run("db", "migrate")
        self._run("pools", "set", ENRICHMENT_POOL, str(ENRICHMENT_SLOTS), "The enrichment stage of product_workflow")
        done.write_text(wanted, encoding="utf-8")

    def _migrate_workflow_database(self) -> None:
        from squorflow.orchestrator.preparing import upgrade
        from squorflow.postgres.database import Database

        if _WORKFLOW_CONNECTION not in os.environ:
            self.postgres.ensure_database(WORKFLOW_DATABASE)
        database = Database(self.workflow_url(direct=True), config=self.config)
        try:
            upgrade(database)
        finally:
            database.close()

    def _run(self, *arguments: str) -> None:
        """Run an Airflow command to its end; its output is shown only when it fails."""
        done = subprocess.run(  # noqa: S603 - Airflow
            self.command(*arguments),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-20:])
            raise ConfigurationError(f"`airflow {' '.join(arguments[:2])}` failed:\n{tail}")

    @property
    def _passwords_file(self) -> Path:
        return self.folder / "passwords.json"

    def _secrets(self) -> dict[str, str]:
        """Return this folder's secrets, made at random the first time and kept for their owner's eyes only."""
        path = self.folder / "secrets.json"
        if path.exists():
            kept: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
            return kept
        makers: dict[str, Callable[[], str]] = {
            "fernet_key": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "jwt_secret": lambda: secrets.token_urlsafe(64),
            "secret_key": lambda: secrets.token_urlsafe(32),
            "password": lambda: secrets.token_urlsafe(12),
        }
        made = {name: make() for name, make in makers.items()}
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(path, json.dumps(made, indent=2))
        return made


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def _checkout() -> Path:
    """Return the checkout this package is installed from; its DAG files are not part of the wheel."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / "dags" / "product_workflow.py").exists():
        raise ConfigurationError("The DAG files are not here: run this in a checkout of squorflow, not from its wheel.")
    return checkout
