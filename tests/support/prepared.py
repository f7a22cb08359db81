"""Airflows whose databases are migrated already: one is prepared for the session, the others are copies of it.

Migrating Airflow's own database takes a quarter of a minute, which every module that wants an Airflow would wait for.
"""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from squorflow.airflow.local import LocalAirflow
from squorflow.config import WorkflowConfig

COPIED = ("postgres", "airflow/migrated", "airflow/secrets.json")
"""What has no path or port in it."""


def local_airflow(config: WorkflowConfig, *, port: int) -> LocalAirflow:
    """Return an Airflow under `config.home`, which must be new; nothing of it runs."""
    source = Path(_prepared().name)
    for name in COPIED:
        target = config.home / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        # With its owner: where tests run as root, Postgres does not.
        subprocess.run(["cp", "--archive", source / name, target], check=True)
    return LocalAirflow(config, port=port)


@cache
def _prepared() -> tempfile.TemporaryDirectory[str]:
    """Prepare the one that is copied; its folder goes with the session."""
    folder = tempfile.TemporaryDirectory(prefix="squorflow-prepared-")
    with LocalAirflow(WorkflowConfig(home=Path(folder.name)), port=0).running():
        return folder
