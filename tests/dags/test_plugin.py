"""The plugin: registered once whichever way Airflow finds it, and its preload only where it pays."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from squorflow.airflow import preload
from support.airflow_runs import CHECKOUT

LIST_PLUGINS = """
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
ours = [plugin for plugin in plugins if plugin.name == "squorflow"]
print(len(ours), type(ours[0].source).__name__, errors)
"""

LIST_PLUGINS_OF_TASKS = LIST_PLUGINS.replace("from airflow import", "from airflow.sdk import")

HIDE_THE_INSTALLED_PACKAGE = f"""
import importlib.metadata, importlib_metadata, sys
sys.path.insert(0, {str(CHECKOUT / "include")!r})
for library in (importlib.metadata, importlib_metadata):
    def find(context=library.DistributionFinder.Context(), found=library.MetadataPathFinder.find_distributions):
        return [one for one in found(context) if one.metadata["Name"] != "squorflow"]
    library.MetadataPathFinder.find_distributions = staticmethod(find)
"""
"""Lets neither Airflow, which uses the backport, nor the plugins folder see that squorflow is installed here."""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "AIRFLOW__CORE__PLUGINS_FOLDER": str(CHECKOUT / "plugins")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("program", [LIST_PLUGINS, LIST_PLUGINS_OF_TASKS], ids=["components", "tasks"])
def test_the_installed_plugin_is_registered_once_and_without_complaint(program: str) -> None:
    assert run(program) == "1 EntryPointSource {}"


@pytest.mark.parametrize("program", [LIST_PLUGINS, LIST_PLUGINS_OF_TASKS], ids=["components", "tasks"])
def test_the_plugins_folder_is_enough_where_the_package_is_not_installed(program: str) -> None:
    assert run(HIDE_THE_INSTALLED_PACKAGE + program) == "1 PluginsDirectorySource {}"


@pytest.mark.parametrize(
    "command_line",
    [
        ["/opt/venv/bin/airflow", "scheduler"],
        ["airflow", "scheduler", "--skip-serve-logs"],
        ["x/airflow/__main__.py", "scheduler"],
    ],
)
def test_the_scheduler_is_told_by_its_command_line(command_line: list[str]) -> None:
    assert preload.is_scheduler(command_line)


@pytest.mark.parametrize(
    "command_line",
    [
        [],
        [""],
        ["airflow"],
        ["airflow", "api-server"],
        ["airflow", "dags", "test", "scheduler"],
        ["celery", "worker"],
        ["pytest", "scheduler"],
    ],
)
def test_everything_else_is_not_the_scheduler(command_line: list[str]) -> None:
    assert not preload.is_scheduler(command_line)


def test_the_scheduler_preloads_before_it_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(preload, "preload", lambda: called.append("preload"))
    monkeypatch.setattr(sys, "argv", ["airflow", "scheduler"])
    preload.on_starting(SimpleNamespace())
    assert called == ["preload"]


def test_a_task_which_has_its_schedulers_command_line_does_not_preload(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.execution_time.task_runner import TaskRunnerMarker

    called: list[str] = []
    monkeypatch.setattr(preload, "preload", lambda: called.append("preload"))
    monkeypatch.setattr(sys, "argv", ["airflow", "scheduler"])
    preload.on_starting(TaskRunnerMarker())
    assert called == []


def test_another_component_does_not_preload(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(preload, "preload", lambda: called.append("preload"))
    monkeypatch.setattr(sys, "argv", ["airflow", "api-server"])
    preload.on_starting(SimpleNamespace())
    assert called == []


def test_everything_named_for_preloading_exists() -> None:
    program = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout); from squorflow.airflow import preload; "
        "preload.preload(); print('end', *[name for name in preload.MODULES if name not in sys.modules])"
    )
    assert run(program) == "end"


def test_a_module_that_cannot_be_preloaded_is_logged_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preload, "MODULES", ("squorflow.no_such_module",))
    preload.preload()
    assert "Could not preload squorflow.no_such_module" in caplog.text


PRELOAD = """
import sys, threading, warnings
warnings.simplefilter("error", FutureWarning)
from squorflow.airflow import preload
preload._import_analyzer()
print(*sorted({"google.generativeai", "google.genai"} & set(sys.modules)), threading.active_count())
"""


@pytest.mark.parametrize(
    ("settings", "imported"),
    [
        ({}, "1"),
        ({"GEMINI_API_KEY": "key-1"}, "google.generativeai 1"),
        ({"GEMINI_API_KEY": "key-1", "WORKFLOW_ANALYZER": "offline"}, "1"),
        ({"WORKFLOW_ANALYZER": "gemini"}, "google.generativeai 1"),
        ({"WORKFLOW_ANALYZER": "gemini-genai"}, "google.genai 1"),
        ({"WORKFLOW_ANALYZER": "nonsense"}, "1"),
    ],
    ids=str,
)
def test_the_scheduler_preloads_the_sdk_that_tasks_will_use_and_starts_no_thread(
    settings: dict[str, str], imported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert run(PRELOAD) == imported
