"""Events to a receiver that fails, hangs and dies, from dispatchers that are killed: nothing is lost or out of order.

SQUORFLOW_TEST_TRANSITIONS sets how many transitions are made; `make events` makes 10,000.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from squorflow.workflow.transitions import transition
from support.ports import Port
from support.webhook_receiver import SECRET
from support.workflows import ACTOR, create, rows, value

TRANSITIONS = int(os.environ.get("SQUORFLOW_TEST_TRANSITIONS", "600"))
MOVES = (WorkflowState.QUEUED, WorkflowState.PROCESSING, WorkflowState.COMPLETED)
FAILING, HANGING = 0.30, 0.05
DEADLINE_SECONDS = 180 + TRANSITIONS * 0.06


class Programs:
    """The receiver and the dispatcher as processes of their own, to be killed and started again."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.file = folder / "taken.jsonl"
        self.file.touch()
        self._errors = (folder / "dispatchers.log").open("wb")
        self._address = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._folder = folder
        self._port = Port()
        self.receiver: subprocess.Popen[str] | None = None
        self.dispatcher: subprocess.Popen[bytes] | None = None

    def start_receiver(self) -> None:
        arguments = (str(self._port.number), str(self.file), SECRET, str(FAILING), str(HANGING))
        self.receiver = subprocess.Popen(
            [sys.executable, "-m", "support.webhook_receiver", *arguments],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.receiver.stdout is not None
        assert int(self.receiver.stdout.readline()) == self._port.number

    def start_dispatcher(self) -> None:
        hook = {"conn_type": "http", "password": SECRET, "extra": {"url": f"http://127.0.0.1:{self._port.number}/hook"}}
        self.dispatcher = subprocess.Popen(
            [sys.executable, "-c", "from squorflow.cli import main; main()", "events", "deliver", "--follow"],
            env={
                **os.environ,
                "AIRFLOW_HOME": str(self._folder),
                "AIRFLOW_CONN_WORKFLOW_DB": self._address,
                "AIRFLOW_CONN_HOOK": json.dumps(hook),
                "WORKFLOW_HOME": str(self._folder),
                "WORKFLOW_EVENT_HANDLERS": "webhook:hook",
                "WORKFLOW_WEBHOOK_ALLOW": "127.0.0.1",
                "WORKFLOW_EVENT_TIMEOUT": "1",
                "WORKFLOW_EVENT_BACKOFF": "0.05",
                "WORKFLOW_EVENT_ATTEMPTS": "1000",
                "WORKFLOW_BREAKER_THRESHOLD": "1000",
            },
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def kill_receiver(self) -> None:
        self._end(self.receiver)

    def kill_dispatcher(self) -> None:
        self._end(self.dispatcher)

    def close(self) -> None:
        self.kill_dispatcher()
        self.kill_receiver()
        self._errors.close()
        self._port.close()

    @staticmethod
    def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def programs_on(database: Database, folder: Path) -> Iterator[Programs]:
    programs = Programs(database, folder)
    try:
        programs.start_receiver()
        programs.start_dispatcher()
        yield programs
    finally:
        programs.close()


def wait_until(reached: Callable[[], bool], *, programs: Programs, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, f"{what} took too long"
        assert programs.dispatcher is not None
        assert programs.dispatcher.poll() is None, "the dispatcher ended by itself"
        time.sleep(0.05)


@pytest.mark.timeout(60 + 2 * int(DEADLINE_SECONDS))
def test_every_event_arrives_in_order_whoever_fails_hangs_or_is_killed(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    workflows = TRANSITIONS // (len(MOVES) + 1)
    count_delivered = "SELECT count(*) FROM event_delivery WHERE status = 'delivered'"

    def make_transitions() -> None:
        for number in range(workflows):
            with database.begin() as connection:
                workflow_id = create(connection, name=f"Product {number}")
            for state in MOVES:
                with database.begin() as connection:
                    transition(connection, workflow_id, state, actor=ACTOR, reason="chaos")

    with programs_on(database, tmp_path) as programs:
        making = threading.Thread(target=make_transitions)
        making.start()
        for share, harm, mend in (
            (0.15, programs.kill_dispatcher, programs.start_dispatcher),
            (0.40, programs.kill_receiver, programs.start_receiver),
            (0.65, programs.kill_dispatcher, programs.start_dispatcher),
        ):
            enough = int(share * TRANSITIONS)
            wait_until(
                lambda e=enough: value(database, count_delivered) >= e, programs=programs, what=f"{enough} events"
            )
            harm()
            mend()
        making.join()
        made_seconds = time.monotonic() - begun
        total = value(database, "SELECT count(*) FROM workflow_events WHERE event_type = 'state_changed'")
        wait_until(lambda: value(database, count_delivered) == total, programs=programs, what="the rest")
    seconds = time.monotonic() - begun

    taken = [json.loads(line) for line in programs.file.read_text(encoding="utf-8").splitlines()]
    times = Counter(one["id"] for one in taken)
    expected = rows(database, "SELECT event_id, workflow_id, position FROM workflow_events ORDER BY position")
    assert total == len(expected) == workflows * (len(MOVES) + 1)
    assert set(times) == {str(row.event_id) for row in expected}
    bodies: dict[str, str] = {}
    first: dict[str, list[str]] = {}
    for one in taken:
        # A duplicate carries the same id and says the same.
        assert bodies.setdefault(one["id"], one["body"]) == one["body"]
        seen = first.setdefault(one["workflow_id"], [])
        if one["id"] not in seen:
            seen.append(one["id"])
    in_order: dict[str, list[str]] = {}
    for row in expected:
        in_order.setdefault(str(row.workflow_id), []).append(str(row.event_id))
    assert first == in_order
    (row,) = rows(database, "SELECT sum(attempts) AS tries, max(attempts) AS most FROM event_delivery")
    assert value(database, "SELECT count(*) FROM event_delivery WHERE status <> 'delivered'") == 0
    with capsys.disabled():
        sys.stdout.write(
            f"\n{total} transitions in {made_seconds:.1f} s, all delivered after {seconds:.1f} s: {row.tries} tries "
            f"({row.most} at most for one event), {len(taken) - total} duplicates, 0 missing, 0 out of order; "
            "dispatcher killed twice, receiver once\n"
        )
