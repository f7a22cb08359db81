"""`squorflow retry`, `cancel`, `suspend`, `deadletter`: what a person does to workflows, and to which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, say, table, warn
from squorflow.states import WorkflowState

if TYPE_CHECKING:
    from squorflow.postgres.database import Database
    from squorflow.workflow.actions import ActionResult
    from squorflow.workflow.deadletter import ParkedWorkflow

_PAGE = 100


def _reason_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--reason", default=default, show_default=True, help="Goes into the audit trail.")


@click.command()
@click.argument("workflow_ids", type=click.UUID, nargs=-1, required=True)
@_reason_option("retried by hand")
@json_option
@click.pass_context
def retry(context: click.Context, *, workflow_ids: tuple[UUID, ...], reason: str, as_json: bool) -> None:
    """Queue failed, suspended or retrying workflows now, with all their tries; done stages are not run again."""
    _act(context, "retry", workflow_ids, reason=reason, as_json=as_json)


@click.command()
@click.argument("workflow_ids", type=click.UUID, nargs=-1, required=True)
@_reason_option("cancelled by hand")
@json_option
@click.pass_context
def cancel(context: click.Context, *, workflow_ids: tuple[UUID, ...], reason: str, as_json: bool) -> None:
    """End workflows for good; a running stage stops and writes nothing."""
    _act(context, "cancel", workflow_ids, reason=reason, as_json=as_json)


@click.command()
@click.argument("workflow_ids", type=click.UUID, nargs=-1, required=True)
@_reason_option("suspended by hand")
@json_option
@click.pass_context
def suspend(context: click.Context, *, workflow_ids: tuple[UUID, ...], reason: str, as_json: bool) -> None:
    """Hold workflows until they are retried or cancelled; a running stage stops and writes nothing."""
    _act(context, "suspend", workflow_ids, reason=reason, as_json=as_json)


@click.group()
def deadletter() -> None:
    """Workflows that are parked because their tries are used up."""


@deadletter.command(name="list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
def list_(*, limit: int, as_json: bool) -> None:
    """List parked workflows, newest first; with --json one object a line, payload and last steps included."""
    with session.open_database(session.read_config()) as database:
        found = _parked(database, limit=limit)
        if as_json:
            for one in found:
                emit(plain(one))
            return
        table(
            ("workflow", "failed", "stage", "tries", "product", "last error"),
            [(one.workflow_id, one.failed_at, one.stage, one.tries, one.product_name, one.last_error) for one in found],
        )


@deadletter.command()
@click.argument("workflow_ids", type=click.UUID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are parked now.")
@_reason_option("replayed by hand")
@json_option
@click.pass_context
def replay(
    context: click.Context, *, workflow_ids: tuple[UUID, ...], everything: bool, reason: str, as_json: bool
) -> None:
    """Queue parked workflows again, with all their tries; done stages are not run again."""
    if bool(workflow_ids) == everything:
        raise click.UsageError("give workflow ids, or --all")
    _act(context, "retry", workflow_ids or None, reason=reason, as_json=as_json, expect=[WorkflowState.FAILED])


def _act(
    context: click.Context,
    action: str,
    workflow_ids: Sequence[UUID] | None,
    *,
    reason: str,
    as_json: bool,
    expect: Sequence[WorkflowState] | None = None,
) -> None:
    """Act on the workflows (`None`: all that are parked) in batches; say what became of each, exit 1 if not all did."""
    from squorflow.workflow.actions import LARGEST_BATCH, ActionOutcome, PersonAction, act_on_many

    counts: Counter[ActionOutcome] = Counter()
    with session.open_database(session.read_config()) as database:
        ids = workflow_ids if workflow_ids is not None else [one.workflow_id for one in _parked(database, limit=None)]
        for batch in _batches(ids, LARGEST_BATCH):
            with database.begin() as connection:
                results = act_on_many(
                    connection,
                    PersonAction(action),
                    workflow_ids=batch,
                    actor=session.actor(),
                    reason=reason,
                    expect=expect,
                )
            for one in results:
                counts[one.outcome] += 1
                _tell(one, as_json=as_json)
    if not as_json:
        refused = counts.total() - counts[ActionOutcome.DONE]
        say(f"{action}: {counts[ActionOutcome.DONE]} done" + (f", {refused} refused" if refused else ""))
    context.exit(0 if counts.total() == counts[ActionOutcome.DONE] else 1)


def _tell(result: ActionResult, *, as_json: bool) -> None:
    if as_json:
        emit(plain(result))
    elif result.message:
        warn(result.message)


def _batches(ids: Sequence[UUID], size: int) -> Iterator[Sequence[UUID]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _parked(database: Database, *, limit: int | None) -> Iterator[ParkedWorkflow]:
    """Yield parked workflows page by page; `None` is all of them."""
    from squorflow.workflow import deadletter as parked

    before: UUID | None = None
    left: Any = limit if limit is not None else float("inf")
    while left > 0:
        size = int(min(left, _PAGE))
        with database.begin() as connection:
            page = parked.list_parked(connection, before=before, page_size=size)
        yield from page
        if len(page) < size:
            return
        before, left = page[-1].workflow_id, left - len(page)
