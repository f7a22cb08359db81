"""The process that runs the embedded Postgres and ends it when nobody uses it any more.

Started by `squorflow.postgres.embedded` as `python -m squorflow.postgres.keeper HOME`; it returns once the server takes
connections and lives on in the background. The server is its child and gets a shutdown signal should the keeper be
killed, so neither outlives the other. Owns the data folder's creation and the server's settings; whose server it is
says `server_user.py`.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from squorflow.errors import ConfigurationError
from squorflow.postgres.embedded import PORT, SUPERUSER, EmbeddedPostgres, binaries
from squorflow.postgres.server_user import find_user, identity_of, open_way

SETTINGS = {
    "listen_addresses": "",  # the socket only, in a folder that only the server's user (and root) can enter
    "unix_socket_permissions": "0700",
    "max_connections": "200",  # every Airflow process and task holds a few
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # no query here runs long enough to earn its compilation back
    "log_checkpoints": "off",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_READY_TIMEOUT_SECONDS = 120.0
_LARGEST_LOG_BYTES = 10_000_000
_PR_SET_PDEATHSIG = 1


class _ServerGone(Exception):
    """The server ended without being told to by us."""


class Keeper:
    """Runs one server for `postgres`; used once per process."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.postgres = postgres
        self.run = postgres.home / "run"
        self.user = find_user(postgres.data)
        self.server: subprocess.Popen[bytes] | None = None

    def start(self, *, keep: bool) -> IO[bytes]:
        """Start the server and return the keeper's lock, to be held for life."""
        lock = (self.run / "postgres.keeper").open("ab")
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        kept = self.run / "postgres.kept"
        kept.touch() if keep else kept.unlink(missing_ok=True)
        self._end_predecessor()
        self._make_data_folder()
        self._make_socket_folder()
        self._start_server()
        lock.write(str(os.getpid()).encode())
        lock.flush()
        return lock

    def keep(self, lock: IO[bytes]) -> None:
        """Wait until nobody uses or keeps the server, or it or this process is told to end; then stop it."""
        ends = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        with (self.run / "postgres.users").open("ab") as users:
            try:
                signal.signal(signal.SIGCHLD, _raise_server_gone)
                while self.server is not None and self.server.poll() is None:
                    fcntl.flock(users, fcntl.LOCK_EX)
                    if not (self.run / "postgres.kept").exists():
                        break
                    fcntl.flock(users, fcntl.LOCK_UN)
                    # sigwait knows no handlers, so what is handled otherwise is blocked and looked at here.
                    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
                    if signal.sigwait(ends | {signal.SIGHUP}) != signal.SIGHUP:
                        break
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
            except (_ServerGone, SystemExit):
                # Ended from outside: users are cut off, which is what was asked for.
                pass
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.stop()
            # The keeper's lock goes first: who then gets the users' lock finds no keeper and starts one.
            lock.close()

    def stop(self) -> None:
        """Shut the server down: in order, then at once, then by force."""
        if self.server is not None:
            for number, patience_seconds in ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
                if self.server.poll() is None:
                    self.server.send_signal(number)
                    with suppress(subprocess.TimeoutExpired):
                        self.server.wait(patience_seconds)
        if self.postgres.socket_folder != self.postgres.data:
            shutil.rmtree(self.postgres.socket_folder, ignore_errors=True)

    def _end_predecessor(self) -> None:
        """Wait for a server whose keeper was killed, and clear a pid file that names some other process.

        Postgres itself takes any living process of its user for its predecessor; in containers pids return quickly.
        """
        import psutil

        pid_file = self.postgres.data / "postmaster.pid"
        try:
            process = psutil.Process(int(pid_file.read_text().splitlines()[0]))
            if Path(process.cwd()) == self.postgres.data:
                process.send_signal(signal.SIGINT)
                process.wait(30)
            else:
                pid_file.unlink()
        except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return
        except psutil.TimeoutExpired as error:
            raise ConfigurationError(
                f"An older embedded Postgres (pid {error.pid}) does not end; stop it and try again."
            ) from error

    def _make_data_folder(self) -> None:
        """Create the data folder in full or not at all."""
        data = self.postgres.data
        if self.user is not None:
            open_way(binaries(data), self.user)
            open_way(data, self.user)
        if (data / "PG_VERSION").exists():
            return
        if data.exists() and any(data.iterdir()):
            raise ConfigurationError(
                f"The folder {data} holds something other than a Postgres server's data; move it away."
            )
        fresh = data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(fresh, self.user.pw_uid, self.user.pw_gid)
        command = [str(binaries(data) / "initdb"), "-D", ".", "-U", SUPERUSER]
        command += ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        command += [] if self.postgres.durable else ["--no-sync"]
        made = subprocess.run(  # noqa: S603 - our own binary
            command, cwd=fresh, capture_output=True, text=True, check=False, **identity_of(self.user)
        )
        if made.returncode != 0:
            raise ConfigurationError(
                f"The embedded Postgres could not make its data folder {data}: {made.stderr.strip()}"
            )
        fresh.replace(data)

    def _make_socket_folder(self) -> None:
        """Make sure that nobody else can have put anything where the socket will be."""
        folder = self.postgres.socket_folder
        if folder == self.postgres.data:
            return
        owner = os.getuid() if self.user is None else self.user.pw_uid
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.getuid(), owner} or found.st_mode & 0o077:
            raise ConfigurationError(
                f"The folder {folder}, meant for the embedded Postgres's socket, is open to others; remove it."
            )
        os.chown(folder, owner, -1)

    def _start_server(self) -> None:
        settings = {**SETTINGS, "unix_socket_directories": str(self.postgres.socket_folder), "port": str(PORT)}
        if not self.postgres.durable:
            settings |= NOT_DURABLE
        data = self.postgres.data
        command = [str(binaries(data) / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log = self.postgres.log
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LARGEST_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            before = output.tell()
            self.server = subprocess.Popen(  # noqa: S603 - our own binary
                command,
                cwd=data,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - the keeper has one thread
                **identity_of(self.user),
            )
        end = time.monotonic() + _READY_TIMEOUT_SECONDS
        while time.monotonic() < end and self.server.poll() is None:
            if self._is_ready(self.server.pid):
                return
            time.sleep(0.02)
        self.stop()
        tail = log.read_bytes()[before:].decode(errors="replace").strip().splitlines()[-10:]
        raise ConfigurationError(
            "\n".join((f"The embedded Postgres did not start. The end of its log ({log}):", *tail))
        )

    def _is_ready(self, pid: int) -> bool:
        """Read what the server says of itself; after a crash the file may still be its predecessor's."""
        with suppress(OSError, IndexError):
            lines = (self.postgres.data / "postmaster.pid").read_text().splitlines()
            return lines[0].strip() == str(pid) and lines[7].strip() == "ready"
        return False


def _end_with_parent() -> None:
    """Have the kernel ask this process to shut down (SIGINT: fast, in order) when the keeper dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    os.setsid()


def _raise_server_gone(*_: object) -> None:
    raise _ServerGone


def _exit(*_: object) -> None:
    raise SystemExit(0)


def main() -> None:
    """Start the server in the background; exit 0 when it takes connections, else 1 with a sentence on stderr."""
    parser = argparse.ArgumentParser(prog="squorflow.postgres.keeper", description="Run the embedded Postgres.")
    parser.add_argument("home", type=Path)
    parser.add_argument("--keep", action="store_true", help="stay up without users")
    parser.add_argument("--not-durable", action="store_true", help="fsync off")
    options = parser.parse_args()
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader, "rb") as report:
            outcome = report.read()
        if outcome != b"ready":
            os.waitpid(child, 0)
        # The interpreter's own clean-up is the child's business.
        os._exit(0 if outcome == b"ready" else 1)
    os.close(reader)
    os.setsid()
    os.chdir(options.home)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        keeper = Keeper(EmbeddedPostgres(options.home, durable=not options.not_durable))
        lock = keeper.start(keep=options.keep)
    except (ConfigurationError, OSError, KeyError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from error
    # Nothing of the terminal that started us may be held from here on.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.write(writer, b"ready")
    os.close(writer)
    keeper.keep(lock)


if __name__ == "__main__":
    main()
