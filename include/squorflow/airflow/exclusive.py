"""One at a time: `make demo` and `make serve` share databases and refuse to run beside each other.

Owns the lock file. Whoever works for the holder inherits the lock's descriptor, so it is free only when all are gone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from squorflow.errors import ConfigurationError
from squorflow.postgres.embedded import explain_unusable

_CLEAN_UP_SECONDS = 40
"""How long the rest of a killed holder may take to end; `caretaker` needs less."""


@contextmanager
def exclusive(home: Path, *, what: str) -> Iterator[IO[bytes]]:
    """Hold the data folder `home` for `what` ("make serve"); yield the lock, for children to inherit.

    Waits for what a killed holder left to be cleaned up. Raises `ConfigurationError` naming the holder where there is
    one.
    """
    path = home / "run" / "airflow.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+b")
    except OSError as error:
        raise ConfigurationError(explain_unusable(home, error)) from error
    with lock:
        _take(lock, path)
        lock.truncate(0)
        lock.write(f"{os.getpid()} {what}".encode())
        lock.flush()
        try:
            yield lock
        finally:
            lock.truncate(0)


def _take(lock: IO[bytes], path: Path) -> None:
    end = time.monotonic() + _CLEAN_UP_SECONDS
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        pid, _, what = path.read_text(encoding="utf-8").partition(" ")
        if pid and _is_alive(int(pid)):
            raise ConfigurationError(
                f"`{what}` (pid {pid}) is using {path.parents[1]}. Stop it first: both work on the same databases."
            )
        if time.monotonic() > end:
            pids = ", ".join(map(str, _holders(path)))
            raise ConfigurationError(
                f"`{what or 'make serve'}` was killed and left processes that do not end (pids {pids}): end them."
            )
        time.sleep(0.1)


def _is_alive(pid: int) -> bool:
    """Say whether this process still runs; one that has ended may stay in the table until its parent looks."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _holders(path: Path) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and any(Path(file.path) == path for file in process.open_files()):
                found.append(process.pid)
    return found
