"""A webhook that hangs, is away and comes back, as a process of its own: nobody else notices but its breaker."""

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
from support.ports import Port
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


@pytest.fixture
def port() -> Iterator[int]:
    """Return a port that stays the receiver's while it is away."""
    with Port() as port:
        yield port


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


def breaker(database: Database) -> str | None:
    found = value(database, "SELECT max(breaker_state) FROM circuit_breaker WHERE dependency = 'webhook:hook'")
    return None if found is None else str(found)


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


def test_the_breaker_of_a_webhook_that_is_away_opens_and_closes_when_it_is_back(
    database: Database, config: WorkflowConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    recorder = Recorder()
    with receiving(tmp_path, port=port) as hook:
        monkeypatch.setenv("AIRFLOW_CONN_HOOK", hook.connection)
    for _ in range(5):
        finished(database)
    with dispatching(database, config, recorder):
        wait_for(lambda: breaker(database) == "open")
        wait_for(lambda: len(recorder.moves()) == 20)
        assert delivered(database) == 0
        finished(database)
        wait_for(lambda: len(recorder.moves()) == 24)
        with receiving(tmp_path, port=port) as back:
            wait_for(lambda: len({one["id"] for one in back.taken() if "to_state" in one}) == 24)
            wait_for(lambda: breaker(database) == "closed")
            wait_for(lambda: recorder.taken[-1].event_type == "alert_resolved")
    alerts = [event.event_type for event in recorder.taken if event.data.get("alert") == "breaker_open"]
    assert alerts == ["alert_opened", "alert_resolved"]


def test_a_webhook_that_goes_away_again_has_its_breaker_opened_again(
    database: Database, config: WorkflowConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    recorder = Recorder()
    with receiving(tmp_path, port=port) as hook:
        monkeypatch.setenv("AIRFLOW_CONN_HOOK", hook.connection)
    with dispatching(database, config, recorder):
        for _ in range(2):
            finished(database)
            wait_for(lambda: breaker(database) in {"open", "half_open"})
            with receiving(tmp_path, port=port):
                wait_for(lambda: breaker(database) == "closed")
    # Events left over may open it once more after the receiver has gone for good.
    closed_again = "SELECT count(*) FROM alert_incident WHERE alert = 'breaker_open' AND resolved_at IS NOT NULL"
    assert value(database, closed_again) == 2
