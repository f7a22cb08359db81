"""What a parse of our DAG and plugin files adds to what `airflow.sdk` imports by itself: nothing heavy.

Every task start parses its DAG file and imports the plugin, so a heavy import here is paid seven times per product.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

HEAVY = {
    "PIL",
    "alembic",
    "fastapi",
    "flask",
    "google",
    "grpc",
    "httpx",
    "pandas",
    "psycopg",
    "psycopg2",
    "rich",
    "sqlalchemy",
    "starlette",
    "uvicorn",
}
"""Packages that may not be added; where Airflow itself has loaded one already it costs nothing."""

LIST_ADDED = """
import runpy, sys
import airflow.sdk
from airflow.sdk import Asset, BaseOperator, Param, RetryPolicy, dag, literal, task, task_group
from airflow.sdk.plugins_manager import AirflowPlugin
{prepare}
before = set(sys.modules)
{load}
print(*sorted(set(sys.modules) - before))
"""
WARM_ASSETS = "Asset(name='any', uri='any://thing')"
"""An asset's address makes Airflow load every provider's asset handlers, once per process; preloading covers that."""

PARSE_DAGS = {path.stem: f"runpy.run_path({str(path)!r})" for path in sorted((CHECKOUT / "dags").glob("*.py"))}
LOAD_PLUGIN = "import squorflow.plugin"


def added_by(load: str, tmp_path: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LIST_ADDED.format(prepare=WARM_ASSETS, load=load)],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("load", [*PARSE_DAGS.values(), LOAD_PLUGIN], ids=[*PARSE_DAGS, "plugin"])
def test_nothing_heavy_is_imported(load: str, tmp_path: Path) -> None:
    added = added_by(load, tmp_path)
    assert {name for name in added if name.partition(".")[0] in HEAVY} == set()


@pytest.mark.parametrize("load", PARSE_DAGS.values(), ids=PARSE_DAGS)
def test_a_dag_file_leaves_the_engine_alone(load: str, tmp_path: Path) -> None:
    ours = {name for name in added_by(load, tmp_path) if name.startswith("squorflow")}
    assert not ours & {"squorflow.stages", "squorflow.postgres.database", "squorflow.recovery.reaper"}
    assert not {name for name in ours if name.split(".")[1:2] in (["api"], ["cli"], ["orchestrator"], ["products"])}


def test_the_plugin_adds_only_itself(tmp_path: Path) -> None:
    ours = {name for name in added_by(LOAD_PLUGIN, tmp_path) if name.startswith("squorflow")}
    assert ours == {
        "squorflow",
        "squorflow.airflow",
        "squorflow.airflow.listener",
        "squorflow.airflow.preload",
        "squorflow.airflow.weights",
        "squorflow.dashboard",
        "squorflow.dashboard.address",
        "squorflow.plugin",
    }
