"""Worker processes for tests to stop, continue and kill (`support.worker_process`), and waiting for what they do.

Processes that others started are only looked at here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psutil
from sqlalchemy import URL

from squorflow.postgres.database import Database
from support.workflows import RUN

TESTS = Path(__file__).parents[1]
PATIENCE_SECONDS = 120


def wait_until(condition: Callable[[], bool], *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for a condition; what it waits for happens in other processes."""
    end = time.monotonic() + patience_seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def runs(process: psutil.Process) -> bool:
    """Say whether a process runs; one that ended and that nobody has asked about yet (a zombie) does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def process(database: Database, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a worker process and end it with the block."""
    address = database.engine.url.render_as_string(hide_password=False)
    started = subprocess.Popen(
        [sys.executable, "-m", "support.worker_process", address, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@contextmanager
def worker(
    database: Database, workflow_id: UUID, *, owner: str = RUN, lease_seconds: float = 1, pause: str = "stage"
) -> Iterator[subprocess.Popen[str]]:
    """Start a worker on a product and wait until it pauses."""
    with process(database, str(workflow_id), owner, str(lease_seconds), pause) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == f"in the {pause}\n"
        yield started


def go_on(stopped: subprocess.Popen[str]) -> str:
    """Continue a worker and let it go on; return the line it says next."""
    stopped.send_signal(signal.SIGCONT)
    assert stopped.stdin is not None
    assert stopped.stdout is not None
    stopped.stdin.write("\n")
    stopped.stdin.flush()
    return stopped.stdout.readline()


@contextmanager
def blocked_worker(database_url: URL, home: Path, *, program: str = "drain") -> Iterator[subprocess.Popen[str]]:
    """Start a program of `support.blocked_worker` and wait until it is in the middle of its first stage."""
    address = database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    environment = {
        **os.environ,
        "AIRFLOW_CONN_WORKFLOW_DB": address,
        "AIRFLOW_HOME": str(home),
        "HOME": str(home),
        "WORKFLOW_HOME": str(home),
        # A machine that stands still for so long costs the worker its lease.
        "WORKFLOW_LOCK_TIMEOUT": "5",
        "PYTHONPATH": str(TESTS),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "support.blocked_worker", program], env=environment, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("begun"):
                break
        try:
            yield process
        finally:
            process.kill()
