"""A whole cluster on loopback: Redis, every Airflow component, and Celery workers that can be killed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.processes import Processes
from squorflow.airflow.serve import COMPONENTS, say
from support.airflow_runs import Installation
from support.ports import Port

WORKERS = ("worker-1", "worker-2")
SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": "4",
    "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": '{"imports": ["squorflow.airflow.celery_worker"]}',
    # A dead worker is noticed after minutes instead of hours; what it had taken from the broker comes back.
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "300",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "90",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "180",
    "WORKFLOW_ENRICHMENT_POOL": "default_pool",
    # Airflow's scheduler looks at every waiting task of all active runs in each round, so few at once go faster.
    "WORKFLOW_BATCH_SIZE": "10",
}


@contextmanager
def redis() -> Iterator[str]:
    """Have a Redis on loopback inside the block, with a password of its own; yields its address."""
    program = shutil.which("redis-server")
    assert program is not None
    password = secrets.token_hex(16)
    with Port() as port, tempfile.TemporaryDirectory(prefix="squorflow-redis-") as folder:
        # From stdin: a password on the command line is for everybody to read.
        settings = f'port {port}\nbind 127.0.0.1\nrequirepass {password}\nsave ""\nappendonly no\ndir {folder}\n'
        server = subprocess.Popen([program, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert server.stdin is not None
        server.stdin.write(settings)
        server.stdin.close()
        try:
            yield f"redis://:{password}@127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


class Cluster:
    """The running processes; workers may be killed, everything else has to stay up."""

    def __init__(self, components: Processes, workers: dict[str, subprocess.Popen[bytes]]) -> None:
        self._components = components
        self._workers = workers

    def kill(self, name: str) -> int:
        """Kill a worker with everything it started, as a machine that loses its power; return how many processes."""
        leader = self._workers[name].pid
        killed = 0
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(process.pid) == leader:
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
        self._workers[name].wait()
        return killed

    def check(self) -> None:
        """Fail when a component has ended by itself."""
        ended = self._components.ended()
        assert ended is None, f"{ended} ended:\n{self._components.tail(ended)}"


@contextmanager
def running_cluster(installation: Installation) -> Iterator[Cluster]:
    """Have Redis, all components and two Celery workers up inside the block."""
    with (
        redis() as broker,
        tempfile.TemporaryDirectory(prefix="squorflow-cluster-") as name,
        exclusive(Path(name), what="a test") as lock,
    ):
        environment = {**installation.airflow.environment(), **SETTINGS, "AIRFLOW__CELERY__BROKER_URL": broker}
        folder = Path(name)
        with (
            Processes(home=folder, environment=environment, lock=lock) as components,
            Processes(home=folder, environment=environment, lock=lock) as workers,
        ):
            for component, arguments in COMPONENTS.items():
                components.start(component, installation.airflow.command(*arguments))
            started = {
                worker: workers.start(
                    worker,
                    installation.airflow.command(
                        "celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{worker}@%h"
                    ),
                )
                for worker in WORKERS
            }
            try:
                yield Cluster(components, started)
            except BaseException:
                for process in (*COMPONENTS, *WORKERS):
                    log = folder / "logs" / f"{process}.log"
                    say(f"--- {process}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
                raise


def wait_for_share(installation: Installation, cluster: Cluster, *, count: int, patience_seconds: float) -> float:
    """Wait until that many products have ended; return the seconds it took."""
    started = time.monotonic()
    shown = 0.0
    while True:
        cluster.check()
        ((ended,),) = installation.query(
            "SELECT count(*) FROM processing_queue WHERE workflow_state IN ('completed', 'failed', 'suspended')"
        )
        seconds = time.monotonic() - started
        if ended >= count:
            return seconds
        assert seconds < patience_seconds, f"only {ended} of {count} after {seconds:.0f} s"
        if seconds - shown > 30:
            shown = seconds
            say(f"{seconds:6.0f} s: {ended} products have ended")
        time.sleep(1)
