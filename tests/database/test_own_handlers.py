"""Handlers of somebody's own: classes given to `add_event_handler`, and kinds that a distribution brings along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from squorflow.config import WorkflowConfig
from squorflow.events import WorkflowEvent, WorkflowEventHandler, add_event_handler
from squorflow.events.dispatcher import deliver_pending
from squorflow.events.event import EventData
from squorflow.events.registry import remove_event_handler
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from support import workflows
from support.event_handlers import statuses
from support.workflows import reach, value


def test_a_handler_as_in_the_charter_may_ask_every_event_for_its_state(
    database: Database, config: WorkflowConfig
) -> None:
    alerts: list[str] = []

    async def send_slack_alert(text: str) -> None:
        alerts.append(text)

    class SlackNotificationHandler(WorkflowEventHandler):
        async def handle(self, event: WorkflowEvent) -> None:
            if event.data["to_state"] == "failed":
                await send_slack_alert(f"Workflow {event.workflow_id} failed!")

    held = workflows.hold_one(database)
    workflows.finish(database, held)
    with database.begin() as connection:
        failed = reach(connection, WorkflowState.FAILED)
    handler = SlackNotificationHandler()
    add_event_handler(handler)
    name = f"python:{__name__}.{type(handler).__qualname__}"
    try:
        report = deliver_pending(database, config=config)
    finally:
        remove_event_handler(name)
    assert alerts == [f"Workflow {failed} failed!"]
    assert (report.failed, report.dead) == (0, 0)
    assert set(statuses(database, name)) == {"delivered"}
    assert value(database, "SELECT count(*) FROM workflow_events WHERE event_type = 'stage_completed'") == 1


def test_a_word_an_event_does_not_have_is_still_missed() -> None:
    with pytest.raises(KeyError):
        EventData({"stage": "scoring"})["reason"]


CODE = '''
class Pager:
    """Writes events to a file, as somebody's own handler would send them somewhere."""

    topics = {"state_changed:completed", "state_changed:failed"}

    def __init__(self, path):
        self.path = path

    async def handle(self, event):
        with open(self.path, "a") as file:
            file.write(f"{event.event_id} {event.data['to_state']}\\n")


def make(argument, config):
    """Return the handler for a path, of this configuration."""
    if argument is None:
        raise ValueError("where to?")
    return Pager(config.home / argument)
'''


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """A folder with a distribution that brings a kind of handler, as pip would have installed it."""
    site = tmp_path / "site"
    information = site / "acme_pager-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "acme_pager.py").write_text(CODE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-pager\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[squorflow.event_handlers]\npager = acme_pager:make\nbroken = acme_pager:no_such_thing\n"
    )
    return site


def _deliver(database: Database, site: Path, home: Path, handlers: str) -> subprocess.CompletedProcess[str]:
    """Run `squorflow events deliver` where the distribution is installed."""
    address = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.run(
        [sys.executable, "-c", "from squorflow.cli import main; main()", "events", "deliver", "--json"],
        env=os.environ
        | {
            "PYTHONPATH": str(site),
            "AIRFLOW_CONN_WORKFLOW_DB": address,
            "WORKFLOW_HOME": str(home),
            "WORKFLOW_EVENT_HANDLERS": handlers,
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_handler_of_another_distribution_is_found_by_its_entry_point(
    database: Database, distribution: Path, tmp_path: Path
) -> None:
    with database.begin() as connection:
        reach(connection, WorkflowState.COMPLETED)
        reach(connection, WorkflowState.QUEUED)
    done = _deliver(database, distribution, tmp_path, "pager:pages.txt")
    assert (done.returncode, json.loads(done.stdout)["delivered"]) == (0, 1), done.stderr
    ((page, state),) = [line.split() for line in (tmp_path / "pages.txt").read_text().splitlines()]
    told = value(database, "SELECT event_id FROM workflow_events WHERE event_data ->> 'to_state' = 'completed'")
    assert (page, state) == (str(told), "completed")
    assert statuses(database, "pager:pages.txt") == ["delivered"]


@pytest.mark.parametrize(
    ("handlers", "words"),
    [
        ("broken", "the event handler 'broken' of acme_pager:no_such_thing cannot be loaded"),
        ("pager", "the event handler 'pager' cannot be made: ValueError: where to?"),
        ("pigeon", "there are: log, slack, webhook, notifier, broken, pager"),
    ],
)
def test_a_handler_of_another_distribution_that_cannot_be_had_is_said_in_a_sentence(
    database: Database, distribution: Path, tmp_path: Path, handlers: str, words: str
) -> None:
    done = _deliver(database, distribution, tmp_path, handlers)
    assert done.returncode == 1
    assert words in json.loads(done.stderr)["error"]
