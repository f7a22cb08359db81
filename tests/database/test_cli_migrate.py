"""`squorflow migrate …`, also as `scripts/migrate.py`: migrations made, applied and undone, and a legacy queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from squorflow.cli import main
from squorflow.config import WorkflowConfig
from squorflow.postgres import migrations, queries
from squorflow.postgres.addresses import render_url
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from support.legacy import make_legacy
from support.workflows import rows, value

Migrate = Callable[..., Result]
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "migrate.py"


@pytest.fixture
def blank(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """An empty database that has never been upgraded."""
    postgres.ensure_database("cli_migrate")
    database = Database(postgres.url("cli_migrate"), config=WorkflowConfig())
    yield database
    database.close()
    postgres.drop_database("cli_migrate")


@pytest.fixture
def migrate(blank: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Migrate:
    """Call `squorflow migrate` on the empty database, in this process."""
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", render_url(blank.url, with_secrets=True))
    monkeypatch.setenv("WORKFLOW_HOME", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(main, ["migrate", *arguments])


def test_the_script_brings_a_legacy_queue_over_and_says_so_in_numbers(blank: Database, migrate: Migrate) -> None:
    make_legacy(blank, count=30)
    plan = migrate("upgrade", "--dry-run").stdout
    assert "would move to the schema legacy: brand, product, source_page" in plan
    assert "would import 30 legacy rows: 6 cancelled, 6 completed" in plan
    environment = os.environ | {"AIRFLOW_CONN_WORKFLOW_DB": render_url(blank.url, with_secrets=True)}
    done = subprocess.run(
        [sys.executable, SCRIPT, "upgrade", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["applied"] == [one.name for one in migrations.list_migrations()]
    assert sum(report["imported"].values()) == 30
    assert (report["added"], report["refused"]) == (0, {})
    newest = report["applied"][-1]
    assert migrate("current").stdout == f"{newest}\n"
    assert "would import 0 legacy rows" in migrate("upgrade", "--dry-run").stdout
    assert migrate("finalize").stdout == "the old status is no longer kept in step\n"


def test_the_plain_upgrade_says_what_is_left_to_do(blank: Database, migrate: Migrate) -> None:
    make_legacy(blank, count=10)
    assert migrate("current").stdout == (
        "nothing is applied\n10 legacy rows wait for their import: run `squorflow migrate upgrade`\n"
    )
    upgraded = CliRunner().invoke(main, ["db", "upgrade"])
    assert upgraded.stdout.endswith("10 legacy rows wait for their import: run `squorflow migrate upgrade`\n")


def test_rows_that_refuse_are_named_and_the_exit_code_is_one(blank: Database, migrate: Migrate) -> None:
    make_legacy(blank, count=10)
    CliRunner().invoke(main, ["db", "upgrade"])
    rows(
        blank,
        "CREATE FUNCTION grumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$",
    )
    rows(blank, "CREATE TRIGGER grumble BEFORE UPDATE ON processing_queue FOR EACH ROW EXECUTE FUNCTION grumble()")
    result = migrate("upgrade")
    assert result.exit_code == 1
    assert result.stderr.count("not today") == 10


def test_history_and_current_tell_where_a_database_stands(blank: Database, migrate: Migrate) -> None:
    assert json.loads(migrate("current", "--json").stdout) == {"current": None, "legacy_rows_waiting": 0}
    assert {one["applied_at"] for one in json.loads(migrate("history", "--json").stdout)} == {None}
    assert migrate("upgrade").exit_code == 0
    listed = json.loads(migrate("history", "--json").stdout)
    assert [one["name"] for one in listed] == [one.name for one in migrations.list_migrations()]
    assert all(one["applied_at"] for one in listed)


def test_everything_is_given_back_only_when_it_is_said_twice(blank: Database, migrate: Migrate) -> None:
    migrate("upgrade")
    refused = migrate("downgrade", "--to", "base")
    assert refused.exit_code == 1
    assert "would lose every product, score and audit trail" in refused.stderr
    assert migrate("downgrade", "--to", "base", "--drop-everything").stdout == "squorflow is out of the database\n"
    assert value(blank, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    assert migrate("downgrade").stdout == "nothing is applied\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations of a checkout that may be written to."""
    folder = tmp_path / "checkout" / "include" / "sql"
    (folder / "migrations").mkdir(parents=True)
    (folder / "queries").symlink_to(queries.sql_folder() / "queries")
    for one in migrations.list_migrations():
        (folder / "migrations" / one.path.name).write_bytes(one.path.read_bytes())
    (tmp_path / "checkout" / "pyproject.toml").touch()
    monkeypatch.setattr(queries, "sql_folder", lambda: folder)
    monkeypatch.setattr(migrations, "sql_folder", lambda: folder)
    return folder / "migrations"


def test_a_new_migration_is_numbered_applied_and_undone_by_the_file_beside_it(
    blank: Database, migrate: Migrate, checkout: Path
) -> None:
    shipped = [one.name for one in migrations.list_migrations()]
    made = json.loads(migrate("create", "Add shelf-life to products!", "--json").stdout)
    assert made["migration"] == f"{int(shipped[-1][:4]) + 1:04}_add_shelf_life_to_products"
    forth, back = (Path(one) for one in made["files"])
    assert (forth.parent, back.parent) == (checkout, checkout / "down")
    assert migrate("upgrade").exit_code == 0
    assert migrate("downgrade").stdout == f"undone: {made['migration']}\n"
    forth.write_text("CREATE TABLE shelf_life (days int);\n", encoding="utf-8")
    back.write_text("DROP TABLE shelf_life;\n", encoding="utf-8")
    migrate("upgrade")
    assert migrate("current").stdout == f"{made['migration']}\n"
    assert value(blank, "SELECT to_regclass('shelf_life') IS NOT NULL")
    migrate("downgrade")
    assert value(blank, "SELECT to_regclass('shelf_life') IS NULL")
    refused = migrate("downgrade")
    assert refused.exit_code == 1
    assert f"migration {shipped[-1]} has no file in migrations/down that undoes it" in refused.stderr


def test_a_migration_cannot_be_made_without_a_name_nor_in_an_installed_package(
    migrate: Migrate, checkout: Path
) -> None:
    assert migrate("create", "—").exit_code == 2
    (checkout.parents[2] / "pyproject.toml").unlink()
    refused = migrate("create", "something")
    assert (refused.exit_code, "belongs to an installed package" in refused.stderr) == (1, True)
