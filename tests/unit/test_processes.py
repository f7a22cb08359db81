"""Children and their children are gone however their parent ends, and only one parent works at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.processes import Processes
from squorflow.errors import ConfigurationError
from support.processes import runs, wait_until

# A child that starts another in a process group of its own, as Airflow's supervisors do, and will not hear of SIGTERM.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setpgid(0, 0)
print(os.getpid(), flush=True)
time.sleep(600)
"""

PARENT = """
import os, sys, time
from pathlib import Path
from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.processes import Processes

home = Path(sys.argv[1])
with exclusive(home, what="make serve") as lock, Processes(home=home, environment=os.environ, lock=lock) as processes:
    processes.start("sleeper", [sys.executable, "-c", "import time; print('there', flush=True); time.sleep(600)"])
    print(processes._children["sleeper"].pid, flush=True)
    time.sleep(600)
"""


def test_leaving_ends_stubborn_children_and_grandchildren(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squorflow.airflow.processes.PATIENCE_SECONDS", 0.5)
    with (
        exclusive(tmp_path, what="a test") as lock,
        Processes(home=tmp_path, environment=os.environ, lock=lock) as processes,
    ):
        processes.start("stubborn", [sys.executable, "-c", STUBBORN])
        while len(pids := processes.log_of("stubborn").read_text().split()) < 2:
            pass
        family = [psutil.Process(int(pid)) for pid in pids]
    # Killed they are; when they are gone is up to the machine.
    wait_until(lambda: not any(runs(process) for process in family))


def test_a_child_that_ends_is_named_with_its_exit_code_and_its_last_words(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path, what="a test") as lock,
        Processes(home=tmp_path, environment=os.environ, lock=lock) as processes,
    ):
        child = processes.start("short", [sys.executable, "-c", "print('goodbye'); raise SystemExit(3)"])
        assert processes.ended() is None or child.wait() == 3
        child.wait()
        assert processes.ended() == "short"
        assert processes.exit_code("short") == 3
        assert processes.tail("short") == "goodbye"


def test_killing_the_parent_ends_its_children_and_then_frees_the_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        with exclusive(tmp_path, what="make demo"):
            assert not runs(child)


def test_the_lock_names_who_holds_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        with (
            pytest.raises(ConfigurationError, match=rf"`make serve` \(pid {parent.pid}\) is using"),
            exclusive(tmp_path, what="make demo"),
        ):
            pass
        parent.send_signal(signal.SIGINT)
        parent.wait()


def test_the_lock_can_be_taken_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path, what="a test"):
            pass
