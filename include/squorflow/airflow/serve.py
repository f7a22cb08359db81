"""`make serve`: a whole Airflow in one terminal, on the embedded Postgres, until Ctrl-C.

Owns the four components' order, the wait for their health, and what the terminal shows.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from pathlib import Path
from typing import Any

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.local import USER, LocalAirflow
from squorflow.airflow.processes import Processes, interruptible
from squorflow.errors import SquorflowError
from squorflow.postgres.database import explain
from squorflow.postgres.environment import read_config

DEFAULT_PORT = 8080
HEALTH_PATH = "/api/v2/monitor/health"
HEALTHY_WITHIN_SECONDS = 180

COMPONENTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
"""Airflow's components and their commands; the first one is stopped last. Task logs are files the api-server reads."""


class ComponentEnded(SquorflowError):
    """A component ended by itself; the message has the end of its log."""


def serve(airflow: LocalAirflow, processes: Processes) -> None:
    """Start the components, say when they are healthy and where, and watch them; returns only by an exception."""
    say(f"Starting Airflow in {airflow.home}; logs are in {airflow.home / 'logs'}.")
    for name, arguments in COMPONENTS.items():
        processes.start(name, airflow.command(*arguments))
    wait_until_healthy(airflow, processes)
    say(f"\n  Airflow      {airflow.address}")
    say(f"  user         {USER}")
    say(f"  password     {airflow.password}\n")
    say("Ctrl-C stops everything.")
    while True:
        _check(processes)
        time.sleep(0.5)


def wait_until_healthy(airflow: LocalAirflow, processes: Processes) -> None:
    """Wait until every component reports itself healthy, naming each as it does.

    Raises `ComponentEnded` when one ends meanwhile or they take longer than `HEALTHY_WITHIN_SECONDS`.
    """
    end = time.monotonic() + HEALTHY_WITHIN_SECONDS
    healthy: set[str] = set()
    while len(healthy) < len(COMPONENTS):
        _check(processes)
        if time.monotonic() > end:
            missing = ", ".join(sorted(COMPONENTS.keys() - healthy))
            raise ComponentEnded(
                f"Not healthy after {HEALTHY_WITHIN_SECONDS} s: {missing}. See {airflow.home / 'logs'}."
            )
        for name in sorted(_ask(airflow) - healthy):
            say(f"  {name} is up")
            healthy.add(name)
        time.sleep(0.3)


def _ask(airflow: LocalAirflow) -> set[str]:
    """Return the components that are healthy; none while the api-server does not answer."""
    import httpx

    try:
        report: dict[str, Any] = httpx.get(f"{airflow.address}{HEALTH_PATH}", timeout=5, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return set()
    names = {name for name in COMPONENTS if (report.get(name.replace("-", "_")) or {}).get("status") == "healthy"}
    return names | {"api-server"}


def _check(processes: Processes) -> None:
    if name := processes.ended():
        raise ComponentEnded(
            f"The {name} ended by itself (exit code {processes.exit_code(name)}). The end of its log "
            f"({processes.log_of(name)}):\n{processes.tail(name)}"
        )


def choose_port(wanted: int | None) -> int:
    """Return the wanted port, or the usual one if it is free, or else any free one on loopback.

    Raises `ComponentEnded` when the wanted port is taken.
    """
    for port in (wanted or DEFAULT_PORT, 0):
        with socket.socket() as probe:
            # As the server will: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if wanted:
                    raise ComponentEnded(f"Port {wanted} is taken; choose another, or none for a free one.") from error
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise ComponentEnded("There is no free port on 127.0.0.1.")


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Serve until Ctrl-C (exit 0) or until a component ends (exit 1)."""
    parser = argparse.ArgumentParser(prog="make serve", description="Run Airflow with squorflow's DAGs.")
    parser.add_argument("--port", type=int, help=f"the api-server's port (default: {DEFAULT_PORT}, or a free one)")
    parser.add_argument("--dags", type=Path, help="the folder of DAG files (default: this checkout's)")
    options = parser.parse_args()
    try:
        config = read_config()
        with (
            interruptible(),
            exclusive(config.home.expanduser().resolve(), what="make serve") as lock,
        ):
            airflow = LocalAirflow(config, port=choose_port(options.port), dags=options.dags and options.dags.resolve())
            say("Preparing the databases…")
            with (
                airflow.running(),
                Processes(home=airflow.home, environment=airflow.environment(), lock=lock) as processes,
            ):
                serve(airflow, processes)
    except KeyboardInterrupt:
        say("Stopped.")
        return 0
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
