"""The embedded Postgres: real servers in folders of their own, real processes, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from squorflow.errors import ConfigurationError
from squorflow.postgres.embedded import EmbeddedPostgres
from support.processes import PATIENCE_SECONDS, runs, wait_until

USER = """
import sys
from pathlib import Path
from squorflow.postgres.embedded import EmbeddedPostgres

with EmbeddedPostgres(Path(sys.argv[1]), durable=False).running():
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "home", durable=False)
    yield server
    server.stop()


def use(postgres: EmbeddedPostgres, stack: ExitStack) -> subprocess.Popen[str]:
    """Start another process that uses the server until its input closes or it is killed."""
    user = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", USER, str(postgres.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    stack.callback(user.kill)
    assert user.stdout is not None
    assert user.stdout.readline() == "up\n"
    return user


def answer(postgres: EmbeddedPostgres, question: str) -> object:
    engine = sa.create_engine(postgres.url("postgres"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.execute(sa.text(question)).scalar()


def server_process(postgres: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((postgres.data / "postmaster.pid").read_text().splitlines()[0]))


def keeper_process(postgres: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((postgres.home / "run" / "postgres.keeper").read_text()))


def test_the_server_is_up_inside_the_block_and_gone_after_it(postgres: EmbeddedPostgres) -> None:
    with postgres.running():
        assert postgres.is_running()
        server, keeper = server_process(postgres), keeper_process(postgres)
        assert answer(postgres, "SELECT 1") == 1
    assert not postgres.is_running()
    assert psutil.wait_procs([server, keeper], timeout=PATIENCE_SECONDS)[1] == []


def test_it_ends_with_its_last_user_only(postgres: EmbeddedPostgres) -> None:
    with ExitStack() as stack:
        other = use(postgres, stack)
        with postgres.running():
            pass
        assert answer(postgres, "SELECT 1") == 1
        other.communicate()
        assert not postgres.is_running()


def test_it_ends_with_an_exception_too(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(KeyboardInterrupt), postgres.running():
        raise KeyboardInterrupt
    assert not postgres.is_running()


def test_what_was_written_is_there_the_next_time(postgres: EmbeddedPostgres) -> None:
    with postgres.running():
        assert postgres.ensure_database("kept")
    with postgres.running():
        assert not postgres.ensure_database("kept")


def test_a_user_killed_at_once_leaves_no_server_behind(postgres: EmbeddedPostgres) -> None:
    with ExitStack() as stack:
        user = use(postgres, stack)
        server = server_process(postgres)
        user.kill()
        wait_until(lambda: not runs(server))
    with postgres.running():
        assert answer(postgres, "SELECT 1") == 1


def test_a_killed_keeper_takes_the_server_along_and_the_next_start_copes(postgres: EmbeddedPostgres) -> None:
    with ExitStack() as stack:
        use(postgres, stack)
        server = server_process(postgres)
        keeper = keeper_process(postgres)
        keeper.kill()
        wait_until(lambda: not runs(keeper))
        with postgres.running():
            assert answer(postgres, "SELECT 1") == 1
            assert not runs(server)


def test_a_killed_server_takes_the_keeper_along_and_the_next_start_copes(postgres: EmbeddedPostgres) -> None:
    with ExitStack() as stack:
        use(postgres, stack)
        keeper = keeper_process(postgres)
        server_process(postgres).kill()
        wait_until(lambda: not runs(keeper))
        with postgres.running():
            assert answer(postgres, "SELECT 1") == 1


def test_a_pid_file_that_names_another_living_process_is_no_hindrance(postgres: EmbeddedPostgres) -> None:
    with postgres.running():
        pid_file = (postgres.data / "postmaster.pid").read_text()
    # A sleeper of the server's own user: Postgres would take it for its predecessor.
    owner = (postgres.data / "PG_VERSION").stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner, cwd="/") as stranger:
        lines = pid_file.splitlines()
        (postgres.data / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        with postgres.running():
            assert answer(postgres, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_started_it_stays_up_without_users_until_stopped(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    with postgres.running():
        pass
    assert answer(postgres, "SELECT 1") == 1
    assert postgres.stop()
    assert not postgres.is_running()


def test_a_kept_server_that_is_terminated_ends_in_order(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    server, keeper = server_process(postgres), keeper_process(postgres)
    keeper.terminate()
    assert psutil.wait_procs([server, keeper], timeout=PATIENCE_SECONDS)[1] == []
    assert "database system is shut down" in postgres.log.read_text()


def test_stopped_while_in_use_it_ends_with_the_last_user(postgres: EmbeddedPostgres) -> None:
    with ExitStack() as stack:
        postgres.start()
        user = use(postgres, stack)
        assert not postgres.stop()
        assert answer(postgres, "SELECT 1") == 1
        user.communicate()
        assert not postgres.is_running()


def test_being_kept_up_is_forgotten_when_the_server_dies(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    server, keeper = server_process(postgres), keeper_process(postgres)
    keeper.kill()
    psutil.wait_procs([server, keeper], timeout=PATIENCE_SECONDS)
    with postgres.running():
        pass
    assert not postgres.is_running()


def test_many_processes_starting_at_once_share_one_server(postgres: EmbeddedPostgres) -> None:
    with ExitStack() as stack:
        users = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", USER, str(postgres.home)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(6)
        ]
        for user in users:
            assert user.stdout is not None
            assert user.stdout.readline() == "up\n"
        assert postgres.log.read_text().count("database system is ready to accept connections") == 1
        for user in users:
            user.communicate()
    assert not postgres.is_running()


def test_several_creators_of_one_database_agree(postgres: EmbeddedPostgres) -> None:
    create = USER.replace('print("up", flush=True)', "").replace(
        "sys.stdin.read()", "print(postgres.ensure_database('d'))"
    )
    create = create.replace(".running():", ".running() as postgres:")
    with postgres.running(), ExitStack() as stack:
        creators = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", create, str(postgres.home)], stdout=subprocess.PIPE, text=True)
            )
            for _ in range(4)
        ]
        assert sorted(creator.communicate()[0] for creator in creators) == ["False\n"] * 3 + ["True\n"]


@pytest.mark.parametrize("name", ["a" * 120, "commas, and 'quotes'", "späße in a folder"])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    postgres = EmbeddedPostgres(tmp_path / name, durable=False)
    with postgres.running():
        assert answer(postgres, "SELECT 1") == 1
    assert postgres.socket_folder == postgres.data or not postgres.socket_folder.exists()


def test_a_socket_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / ("a" * 120), durable=False)
    postgres.socket_folder.mkdir(mode=0o777)
    postgres.socket_folder.chmod(0o777)
    try:
        with pytest.raises(ConfigurationError, match="open to others"), postgres.running():
            pass
    finally:
        postgres.socket_folder.rmdir()


def test_a_data_folder_with_other_content_is_left_alone(postgres: EmbeddedPostgres) -> None:
    postgres.data.mkdir(parents=True)
    (postgres.data / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="something other than"), postgres.running():
        pass
    assert (postgres.data / "thesis.txt").read_text() == "mine"


def test_a_data_folder_of_a_version_the_wheel_lacks_is_named(postgres: EmbeddedPostgres) -> None:
    postgres.data.mkdir(parents=True)
    (postgres.data / "PG_VERSION").write_text("11\n")
    with pytest.raises(ConfigurationError, match="made by Postgres 11"), postgres.running():
        pass


def test_an_interrupted_creation_is_begun_anew(postgres: EmbeddedPostgres) -> None:
    half = postgres.home / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with postgres.running():
        assert answer(postgres, "SELECT 1") == 1
    assert not half.exists()


def test_a_server_that_cannot_start_says_why(postgres: EmbeddedPostgres) -> None:
    with postgres.running():
        pass
    (postgres.data / "postgresql.auto.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(ConfigurationError, match="no_such_setting"), postgres.running():
        pass
    assert not postgres.is_running()


def test_nobody_else_can_reach_it(postgres: EmbeddedPostgres) -> None:
    with postgres.running():
        assert postgres.data.stat().st_mode & 0o077 == 0
        assert answer(postgres, "SHOW listen_addresses") == ""
        assert server_process(postgres).uids().effective != 0


def test_it_is_durable_unless_told_otherwise(tmp_path: Path) -> None:
    careful = EmbeddedPostgres(tmp_path / "careful")
    with careful.running():
        assert answer(careful, "SHOW fsync") == "on"
    careless = EmbeddedPostgres(tmp_path / "careful", durable=False)
    with careless.running():
        assert answer(careless, "SHOW fsync") == "off"


def test_the_interrupt_of_a_terminal_does_not_reach_it(postgres: EmbeddedPostgres) -> None:
    with postgres.running():
        for process in (server_process(postgres), keeper_process(postgres)):
            assert os.getpgid(process.pid) != os.getpgid(0)
            assert os.getsid(process.pid) != os.getsid(0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
