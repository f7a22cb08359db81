"""`make demo` for real: interrupted, run again, and run once more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from squorflow.postgres.embedded import EmbeddedPostgres

COMMAND = [sys.executable, "-m", "squorflow.airflow.demo"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    environment = {**os.environ, "WORKFLOW_HOME": str(home), "WORKFLOW_RETRY_BACKOFF": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


@pytest.fixture(scope="module")
def interrupted(environment: dict[str, str], home: Path) -> subprocess.CompletedProcess[str]:
    """A demo that Ctrl-C ended in the middle of its run."""
    with subprocess.Popen(
        COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        while demo.poll() is None and not _count_checkpoints(home):
            time.sleep(0.2)
        demo.send_signal(signal.SIGINT)
        output, errors = demo.communicate()
    return subprocess.CompletedProcess(COMMAND, demo.returncode, output, errors)


@pytest.fixture(scope="module")
def finished(
    environment: dict[str, str], interrupted: subprocess.CompletedProcess[str]
) -> subprocess.CompletedProcess[str]:
    """The demo after it."""
    return subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)


def _count_checkpoints(home: Path) -> int:
    with suppress(sa.exc.OperationalError, sa.exc.ProgrammingError):
        return int(_ask(home, "SELECT count(*) FROM workflow_checkpoint"))
    return 0


def _ask(home: Path, question: str) -> str:
    engine = sa.create_engine(EmbeddedPostgres(home).url("squorflow"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return str(connection.execute(sa.text(question)).scalar())


def _using(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any(str(home) in word for word in process.cmdline()):
                yield process


def test_interrupted_it_says_how_to_go_on_and_leaves_nothing_running(
    interrupted: subprocess.CompletedProcess[str], home: Path
) -> None:
    assert interrupted.returncode == 130, interrupted.stderr
    assert "run `make demo` again" in interrupted.stdout
    assert list(_using(home)) == []


def test_run_again_it_finishes_all_products(finished: subprocess.CompletedProcess[str], home: Path) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "25 products completed and scored" in finished.stdout
    assert list(_using(home)) == []


def test_its_table_has_state_stage_times_score_grade_and_reason(finished: subprocess.CompletedProcess[str]) -> None:
    rows = [line for line in finished.stdout.splitlines() if " completed " in line and "│" in line]
    assert len(rows) == 25
    cells = [cell.strip() for cell in next(row for row in rows if "Coke Zero" in row).split("│")[1:-1]]
    assert cells[1] == "completed"
    assert len(cells[2].split()) == 7
    assert 0 < float(cells[3]) <= 100
    assert cells[4] in set("ABCDF")
    assert cells[5]


def test_once_more_it_changes_nothing_and_says_so(
    environment: dict[str, str], finished: subprocess.CompletedProcess[str], home: Path
) -> None:
    question = "SELECT (SELECT count(*) FROM workflow_transitions) || ' ' || (SELECT count(*) FROM squor_score)"
    with EmbeddedPostgres(home).running():
        before = _ask(home, question)
    again = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing to do" in again.stdout
    assert again.stdout.count(" completed ") >= 25
    with EmbeddedPostgres(home).running():
        assert _ask(home, question) == before
