"""Starts Airflow's components as children and ends them with everything they started, however this process ends.

Each component leads a session of its own, which its children cannot leave unnoticed; ending one means ending all
processes of its session. A caretaker process does the same when this one is killed. Owns no knowledge of Airflow.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

PATIENCE_SECONDS = 10.0
"""How long a session may take to end after SIGTERM before it is killed."""


class Processes:
    """The children of one `make demo` or `make serve`; a context manager that leaves none of them behind."""

    def __init__(self, *, home: Path, environment: Mapping[str, str], lock: IO[bytes]) -> None:
        self.home = home
        self.environment = dict(environment)
        self._lock = lock
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._caretaker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Processes:
        self._caretaker = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "squorflow.airflow.caretaker", str(self.home)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[self._lock.fileno()],
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self._caretaker is not None and self._caretaker.stdin is not None:
            with suppress(BrokenPipeError):
                self._caretaker.stdin.close()
            self._caretaker.wait()

    def log_of(self, name: str) -> Path:
        """Return where the child `name` writes what it prints."""
        return self.home / "logs" / f"{name}.log"

    def start(self, name: str, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """Start a child in a session of its own, its output in its log."""
        log = self.log_of(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            child = subprocess.Popen(  # noqa: S603 - Airflow's components
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[self._lock.fileno()],
            )
        self._children[name] = child
        if self._caretaker is not None and self._caretaker.stdin is not None:
            self._caretaker.stdin.write(f"{child.pid}\n".encode())
            self._caretaker.stdin.flush()
        return child

    def ended(self) -> str | None:
        """Return the name of a child that is no longer running, `None` while all run."""
        return next((name for name, child in self._children.items() if child.poll() is not None), None)

    def exit_code(self, name: str) -> int | None:
        """Return how the child `name` ended, negative for a signal; `None` while it runs."""
        return self._children[name].poll()

    def tail(self, name: str, *, lines: int = 20) -> str:
        """Return the last lines of a child's log."""
        return "\n".join(self.log_of(name).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End all children, the first one started last: the others report to it."""
        names = list(self._children)
        for group in (names[1:], names[:1]):
            end_sessions([self._children[name].pid for name in group])
            for name in group:
                self._children.pop(name).wait()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        # Once is enough: the second one must not cut the clean-up short.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        sys.stderr.write("\nStopping…\n")
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    yield


def end_sessions(sessions: Iterable[int]) -> None:
    """End every process of these sessions: their leaders are asked first, then all, then killed.

    Leaders get a share of the patience alone, since they end their children in order.
    """
    ids = set(sessions)
    for pid in ids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if _wait_until_gone(ids, seconds=PATIENCE_SECONDS / 2):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in _members(ids):
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        if _wait_until_gone(ids, seconds=PATIENCE_SECONDS):
            return


def _wait_until_gone(sessions: set[int], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while _members(sessions):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _members(sessions: set[int]) -> list[Any]:
    """Return the living processes of these sessions."""
    import psutil

    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError, PermissionError):
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getsid(process.pid) in sessions:
                found.append(process)
    return found
