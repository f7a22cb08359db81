"""A webhook that hangs, as a process of its own: nobody else notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from squorflow.config import WorkflowConfig
from squorflow.events.dispatcher import deliver_until
from squorflow.events.registry import get_handlers
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from support.event_handlers import Recorder, finished, registered
from support.webhook_receiver import receiving
from support.workflows import reach, value


@pytest.fixture
def config(config: WorkflowConfig) -> WorkflowConfig:
    """Settings under which a breaker opens soon and is probed soon."""
    return config.model_copy(
        update={
            "event_handlers": ("webhook:hook",),
            "webhook_allow": ("127.0.0.1",),
            "event_backoff": timedelta(milliseconds=10),
            "event_attempts": 1000,
            "breaker_threshold": 3,
            "breaker_pause": timedelta(milliseconds=200),
        }
    )


@contextmanager
def dispatching(database: Database, config: WorkflowConfig, recorder: Recorder) -> Iterator[None]:
    """Deliver to the webhook and to a recorder beside it until the block ends."""
    handlers, stop = [*get_handlers(config), *registered(recorder)], threading.Event()
    thread = threading.Thread(
        target=deliver_until, args=(stop,), kwargs={"database": database, "config": config, "handlers": handlers}
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(120)
    assert not thread.is_alive()


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def delivered(database: Database) -> int:
    return int(
        value(
            database,
            "SELECT count(*) FROM event_delivery WHERE handler = 'webhook:hook' AND status = 'delivered'",
        )
    )


def test_transitions_commit_and_others_are_told_while_a_subscriber_hangs(
    database: Database, config: WorkflowConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = config.model_copy(update={"event_timeout": timedelta(seconds=10)})
    with receiving(tmp_path, hanging=1.0) as hook, monkeypatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_HOOK", hook.connection)
        recorder = Recorder()
        finished(database)
        with dispatching(database, patient, recorder):
            wait_for(
                lambda: (
                    value(
                        database, "SELECT count(*) FROM event_delivery WHERE attempts > 0 AND handler = 'webhook:hook'"
                    )
                    > 0
                )
            )
            # The webhook has the first event and does not answer; nothing below waits for it.
            with database.begin() as connection:
                for _ in range(20):
                    reach(connection, WorkflowState.COMPLETED)
            wait_for(lambda: len(recorder.taken) == 84)
            assert delivered(database) == 0
    assert value(database, "SELECT count(*) FROM workflow_transitions") == 84
