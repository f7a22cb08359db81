"""A `make serve` in a process of its own, with a trivial DAG and its own data folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

DAG = """
from airflow.sdk import dag, task


@dag(schedule=None)
def greeting():
    @task
    def greet() -> str:
        return "hello"

    greet()


greeting()
"""


class Serving:
    """A `make serve` in a process of its own, started as often as one likes."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.dags = folder / "dags"
        self.dags.mkdir()
        (self.dags / "greeting.py").write_text(DAG)
        self.terminal = folder / "terminal.txt"
        self.command = [sys.executable, "-m", "squorflow.airflow.serve", "--dags", str(self.dags)]
        self.environment = {**os.environ, "WORKFLOW_HOME": str(self.home)}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.runs: list[dict[psutil.Process, list[str]]] = []

    def start(self) -> None:
        """Start it and return once it says that it is up."""
        with self.terminal.open("wb") as output:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        while "Ctrl-C stops" not in self.said():
            assert self.process.poll() is None, self.said()
            time.sleep(0.2)
        self.runs.append(self.processes())

    @property
    def port(self) -> int:
        return int(next(line for line in self.said().splitlines() if "Airflow  " in line).rsplit(":", 1)[1])

    def said(self) -> str:
        return self.terminal.read_text(encoding="utf-8")

    def processes(self) -> dict[psutil.Process, list[str]]:
        """Return every process that names the data folder or has a file in it open, with its command line."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                if any(str(self.home) in word for word in words) or any(
                    Path(file.path).is_relative_to(self.home) for file in process.open_files()
                ):
                    found[process] = words
        return found

    def terminate(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(180)


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return which of the processes still run; one that has ended may stay a zombie until its parent looks."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
