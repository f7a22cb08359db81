"""The Python snippets of the project's founding document, as they are written there, against a real database.

A snippet sees the public names of `squorflow` and what it says its reader has: a workflow, crawled data, handlers.
"""

from __future__ import annotations

import ast
import asyncio
import re
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import CodeType
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL

import squorflow
from squorflow import WorkflowEvent, WorkflowEventHandler, WorkflowLock, WorkflowOrchestrator, WorkflowState
from squorflow.config import get_config
from squorflow.errors import InvalidTransition, NetworkError, RateLimitError, ValidationError
from squorflow.monitoring.metrics import Dashboard, Metrics
from squorflow.postgres.database import Database
from squorflow.scoring.catalog import install_policies
from squorflow.states import TRANSITIONS
from support.airflow_runs import crawled, hopeless
from support.workflows import get_events, get_state, get_trail, reach, value

DOCUMENT = Path(__file__).parents[1] / "data" / "workflow-state-management.md"
SNIPPETS = [
    textwrap.dedent(block)
    for block in re.findall(
        r"^ *```python\n(.*?)^ *```$", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
]
ONLY_A_COMMENT = re.compile(r"(:\n( +)#[^\n]*\n)(?!\2)")
"""A block whose whole body is a comment, which is how a document says "and so on" and no Python."""


def find(words: str) -> str:
    """Return the one snippet with these words."""
    (found,) = [one for one in SNIPPETS if words in one]
    return found


def compile_snippet(snippet: str) -> CodeType:
    whole = ONLY_A_COMMENT.sub(r"\1\2pass\n", snippet)
    return compile(whole, DOCUMENT.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


class Program:
    """A program that consists of snippets, one after the other in one namespace."""

    def __init__(self, **names: Any) -> None:
        self.names: dict[str, Any] = {name: getattr(squorflow, name) for name in squorflow.__all__} | names

    async def run(self, words: str) -> None:
        """Run the snippet with these words."""
        coroutine = eval(compile_snippet(find(words)), self.names)  # noqa: S307 - our own document
        if isinstance(coroutine, Awaitable):
            await coroutine


@pytest.fixture(autouse=True)
def _installation(
    database: Database, database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Make the test's database and folder those of this process."""
    address = database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", address)
    monkeypatch.setenv("WORKFLOW_HOME", str(tmp_path))
    monkeypatch.setattr("squorflow.postgres.database.get_database", lambda: database)
    get_config.cache_clear()
    with database.begin() as connection:
        install_policies(connection)
    yield
    get_config.cache_clear()


def make(database: Database, state: WorkflowState) -> UUID:
    with database.begin() as connection:
        return reach(connection, state)


class Told(WorkflowEventHandler):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[WorkflowEvent] = []

    async def handle(self, event: WorkflowEvent) -> None:
        self.events.append(event)


class CustomMetricsHandler(Told):
    """The document's own name for a reader's handler."""


class WebhookNotificationHandler(Told):
    """Another one."""


def test_every_snippet_of_the_document_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    named = re.findall(r'(?:run|find)\("([^"]+)"\)', here)
    assert {find(words) for words in named} == set(SNIPPETS)


def test_an_invalid_transition_is_rejected(database: Database) -> None:
    workflow_id = make(database, WorkflowState.FAILED)
    program = Program(workflow_id=workflow_id)
    with pytest.raises(InvalidTransition, match="failed → completed is not allowed"):
        asyncio.run(program.run("Valid transitions only"))
    assert get_state(database, workflow_id) == "failed"
    for state, targets in program.names["TRANSITIONS"].items():
        assert targets <= TRANSITIONS[state]


def test_only_one_worker_can_process_a_locked_workflow(database: Database) -> None:
    workflow_id = make(database, WorkflowState.QUEUED)
    processed = []

    async def process_workflow(which: UUID) -> None:
        with pytest.raises(TimeoutError, match="could not be locked"):
            async with WorkflowLock(which, patience=get_config().lock_timeout * 0):
                raise AssertionError("two have it")
        processed.append(which)

    asyncio.run(Program(workflow_id=workflow_id, process_workflow=process_workflow).run("async with WorkflowLock"))
    assert processed == [workflow_id]
    assert value(database, "SELECT locked_by FROM processing_queue") is None


@pytest.mark.parametrize("kind", [RateLimitError, NetworkError, ValidationError, ValueError])
def test_errors_are_told_apart_by_their_classes(kind: type[Exception]) -> None:
    program = Program(error=kind("it broke"), base_delay=60, multiplier=2, retry_count=2, random_jitter=1.5)
    asyncio.run(program.run("Exponential backoff with jitter"))
    assert program.names["retry_delay"] == 241.5


def test_an_emitted_event_and_a_failure_reach_a_handler_under_both_spellings(database: Database) -> None:
    alerts: list[str] = []

    async def send_slack_alert(text: str) -> None:
        alerts.append(text)

    emitted, failing = make(database, WorkflowState.QUEUED), make(database, WorkflowState.PROCESSING)
    program = Program(workflow_id=emitted, send_slack_alert=send_slack_alert)

    async def run() -> None:
        await program.run("await emit_event(")
        orchestrator = WorkflowOrchestrator()
        orchestrator.add_event_handler(program.names["SlackNotificationHandler"]())
        async with orchestrator:
            await squorflow.transition_state(failing, WorkflowState.FAILED)

    asyncio.run(run())
    (data,) = [one for one in get_events(database, emitted, event_type="state_changed") if "reason" not in one]
    assert data == {"from": "queued", "to": "processing", "from_state": "queued", "to_state": "processing"}
    assert f"Workflow {failing} failed!" in alerts
    assert value(database, "SELECT count(*) FROM event_delivery WHERE status <> 'delivered'") == 0


def test_the_figures_have_the_names_of_the_document() -> None:
    metrics, dashboard = Program(), find("Real-time workflow status")
    asyncio.run(metrics.run("Track performance metrics"))
    assert metrics.names["metrics"].keys() <= {field.name for field in fields(Metrics)}
    assert ast.literal_eval(dashboard.strip()).keys() <= {field.name for field in fields(Dashboard)}


def test_an_orchestrator_is_started_and_a_product_goes_through_it(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Program(crawler_data=crawled("Oat drink"))

    async def run() -> dict[str, Any]:
        await program.run("Initialize orchestrator with configuration")
        await program.run("Create workflow item")
        orchestrator: WorkflowOrchestrator = program.names["orchestrator"]
        await orchestrator.drain()
        status = await orchestrator.get_workflow_status(program.names["workflow_id"])
        await orchestrator.stop()
        return status

    status = asyncio.run(run())
    assert capsys.readouterr().out.startswith("Current stage: ")
    assert (status["current_state"], status["current_stage"]) == ("completed", "notification")
    assert program.names["config"].retry_backoff_base.total_seconds() == 60
    assert [to for _, to in get_trail(database, program.names["workflow_id"])] == [
        "created", "queued", "processing", "completed",
    ]  # fmt: skip


def test_suspended_workflows_are_reviewed_and_retried(database: Database) -> None:
    async def run() -> list[UUID]:
        workflow_id = await squorflow.create_workflow_item(hopeless("Nothing known"))
        async with WorkflowOrchestrator(num_workers=1) as orchestrator:
            await orchestrator.drain()
            program = Program(orchestrator=orchestrator)
            await program.run("Manual intervention for suspended workflows")
            await orchestrator.drain()
        assert [one.id for one in program.names["suspended"]] == [workflow_id]
        return [one.workflow_id for one in program.names["suspended"]]

    (workflow_id,) = asyncio.run(run())
    assert ("suspended", "queued") in get_trail(database, workflow_id)
    assert get_state(database, workflow_id) == "suspended", "nobody mended its data"


def test_handlers_of_ones_own_are_told_while_the_orchestrator_runs(database: Database) -> None:
    made: list[Told] = []

    def maker(kind: type[Told]) -> Callable[[], Told]:
        def make_one() -> Told:
            made.append(kind())
            return made[-1]

        return make_one

    async def run() -> UUID:
        orchestrator = WorkflowOrchestrator(num_workers=2)
        await orchestrator.start()
        program = Program(
            orchestrator=orchestrator,
            CustomMetricsHandler=maker(CustomMetricsHandler),
            WebhookNotificationHandler=maker(WebhookNotificationHandler),
        )
        await program.run("Create custom workflow configuration")
        assert program.names["config"].retry_backoff_multiplier == 1.5
        workflow_id = await squorflow.create_workflow_item(crawled("Oat drink"))
        await orchestrator.drain()
        await orchestrator.stop()
        return workflow_id

    workflow_id = asyncio.run(run())
    assert len(made) == 2
    for handler in made:
        moves = [one.data["to"] for one in handler.events if one.event_type == "state_changed"]
        assert moves == ["created", "queued", "processing", "completed"]
        assert {str(one.workflow_id) for one in handler.events} == {str(workflow_id)}


def test_new_workers_replace_an_old_processor(database: Database) -> None:
    program = Program()

    async def run() -> None:
        await program.run("Replace old processor with new orchestrator")
        await squorflow.create_workflow_item(crawled("Oat drink"))
        await program.names["orchestrator"].drain()

    asyncio.run(run())
    assert value(database, "SELECT workflow_state FROM processing_queue") == "completed"


def test_a_transition_carries_its_reason_and_metadata(database: Database) -> None:
    workflow_id = make(database, WorkflowState.PROCESSING)
    asyncio.run(Program(workflow_id=workflow_id).run("Gemini API quota exceeded"))
    assert get_state(database, workflow_id) == "failed"
    last = "SELECT {} FROM workflow_transitions ORDER BY transition_id DESC LIMIT 1"
    assert value(database, last.format("reason")) == "Gemini API quota exceeded"
    assert value(database, last.format("metadata ->> 'error_code'")) == "QUOTA_EXCEEDED"
    assert value(database, last.format("actor")).startswith("python:")
