"""Imports heavy libraries once, in the scheduler, before its executor forks the processes that run tasks.

Owns the list and the telling apart of Airflow's components. A module imported before the fork costs a task nothing;
imported in each task it is most of what a short task costs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from pathlib import PurePath

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)

MODULES = (
    "airflow.dag_processing.bundles.local",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.execution_time.timeout",
    "biip",
    "jinja2.ext",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "squorflow.airflow.batch",
    "squorflow.airflow.enqueue",
    "squorflow.airflow.maintenance",
    "squorflow.airflow.operators",
    "squorflow.enrichment.answers",
    "squorflow.enrichment.gemini.access",
    "squorflow.enrichment.offline",
    "squorflow.postgres.database",
    "squorflow.products.image_store",
    "squorflow.products.images",
    "squorflow.recovery.reaper",
    "squorflow.stages",
    "squorflow.workflow.queue",
)
"""What tasks import, beside the stages themselves. None opens a connection when it is imported."""

SDK_NAMES = ("Asset", "BaseHook", "BaseOperator", "Param", "dag", "task", "task_group")
"""Names of `airflow.sdk` that tasks and DAG files use; the package imports them only when they are asked for."""


@hookimpl
def on_starting(component: object) -> None:
    """Preload if this process is the scheduler; Airflow calls this in every component and every task."""
    # Tasks inherit the scheduler's command line with its memory, so they are told by the component they name.
    if type(component).__name__ == "TaskRunnerMarker" or not is_scheduler(sys.argv):
        return
    preload()


def is_scheduler(command_line: Sequence[str]) -> bool:
    """Say whether a command line is `airflow scheduler`; `job_type` is not set yet when listeners are called."""
    program, *arguments = command_line or [""]
    path = PurePath(program)
    is_airflow = path.name == "airflow" or path.parts[-2:] == ("airflow", "__main__.py")
    return is_airflow and arguments[:1] == ["scheduler"]


def preload() -> None:
    """Import what tasks need; what cannot be imported is logged, since the scheduler can do without."""
    sdk = import_module("airflow.sdk")
    for name in SDK_NAMES:
        getattr(sdk, name)
    for name in MODULES:
        _import(name)
    from squorflow.stages import STAGE_MODULES

    for name in STAGE_MODULES.values():
        _import(name)
    _read_vocabulary()
    _import_analyzer()


def _import_analyzer() -> None:
    """Import Gemini's SDK where it will be used: it takes a task 0.8 s, and the scheduler 37 MB once."""
    from squorflow.config import get_config
    from squorflow.enrichment.gemini.access import preload_sdk

    try:
        preload_sdk(get_config())
    except (ImportError, ValueError) as error:
        log.warning("Could not preload the analyser (%s); every task will try by itself.", type(error).__name__)


def _import(name: str) -> None:
    try:
        import_module(name)
    except ImportError as error:
        log.warning("Could not preload %s (%s); every task will try to import it itself.", name, error)


def _read_vocabulary() -> None:
    """Build the word lists, which discovery and enrichment would otherwise build in every task."""
    from squorflow.products import vocabulary

    for value in vars(vocabulary).values():
        if hasattr(value, "cache_info") and not signature(value).parameters:
            value()
