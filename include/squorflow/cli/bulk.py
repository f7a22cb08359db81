"""`squorflow bulk …`: one thing done to all workflows a filter matches, in this process instead of Airflow's DAG."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import reduce
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, progress, say, table
from squorflow.errors import ErrorCategory
from squorflow.states import Stage, WorkflowState

if TYPE_CHECKING:
    from squorflow.postgres.database import Database
    from squorflow.workflow.bulk import BulkOperation, RefusedItem
    from squorflow.workflow.listing import WorkflowFilter

_PAGE = 200

_FILTER = (
    click.option(
        "--state",
        "states",
        type=click.Choice([state.value for state in WorkflowState]),
        multiple=True,
        help="Repeatable.",
    ),
    click.option("--stage", type=click.Choice([stage.value for stage in Stage])),
    click.option("--brand", help="The whole name, in any case."),
    click.option("--error-category", type=click.Choice([category.value for category in ErrorCategory])),
    click.option("--search", help="Beginnings of words in the product's name or page address."),
)


@click.group()
def bulk() -> None:
    """Retry, cancel or suspend all workflows that a filter matches.

    What matches is fixed at the start. Ctrl-C stops between two batches, `bulk resume` goes on.
    """


def _action(name: str, what: str) -> None:
    """Add the verb of an action."""

    def run(context: click.Context, *, reason: str, dry_run: bool, as_json: bool, **wanted: Any) -> None:
        _begin(context, name, wanted=_filter(**wanted), reason=reason, dry_run=dry_run, as_json=as_json)

    run.__doc__ = f"""{what} all workflows that match, and say of how many it could not be done.

    Exit code 0 when it was done to all of them.
    """
    options: list[Callable[..., Any]] = [
        click.pass_context,
        json_option,
        click.option("--dry-run", is_flag=True, help="Only count what would be covered."),
        click.option(
            "--reason", default=f"{name} of many by hand", show_default=True, help="Goes into the audit trail."
        ),
        *reversed(_FILTER),
    ]
    bulk.command(name=name)(reduce(lambda function, option: option(function), options, run))


_action("retry", "Queue again")
_action("cancel", "End for good")
_action("suspend", "Hold")


def _filter(
    *, states: tuple[str, ...], stage: str | None, brand: str | None, error_category: str | None, search: str | None
) -> WorkflowFilter:
    from squorflow.workflow.listing import WorkflowFilter

    return WorkflowFilter(
        states=[WorkflowState(state) for state in states],
        stage=Stage(stage) if stage else None,
        brand=brand,
        error_category=ErrorCategory(error_category) if error_category else None,
        search=search,
    )


def _begin(
    context: click.Context, name: str, *, wanted: WorkflowFilter, reason: str, dry_run: bool, as_json: bool
) -> None:
    from squorflow.workflow import bulk as operations
    from squorflow.workflow.actions import PersonAction

    action = PersonAction(name)
    with session.open_database(session.read_config()) as database:
        if dry_run:
            with database.begin() as connection:
                total = operations.count_matching(connection, action, wanted=wanted)
            if as_json:
                emit({"action": name, "total": total})
            else:
                say(f"{name} would cover {total} workflows")
            return
        with database.begin() as connection:
            made = operations.create(connection, action, wanted=wanted, actor=session.actor(), reason=reason)
        operation = _carry_out(database, made, quiet=as_json)
    _tell(context, operation, as_json=as_json)


@bulk.command()
@click.argument("operation_id", type=click.UUID)
@json_option
@click.pass_context
def resume(context: click.Context, *, operation_id: UUID, as_json: bool) -> None:
    """Go on with an operation that was interrupted, whoever began it."""
    from squorflow.workflow import bulk as operations

    with session.open_database(session.read_config()) as database:
        with database.begin() as connection:
            found = operations.get(connection, operation_id)
        operation = _carry_out(database, found, quiet=as_json)
    _tell(context, operation, as_json=as_json)


@bulk.command()
@click.argument("operation_id", type=click.UUID)
@json_option
def stop(*, operation_id: UUID, as_json: bool) -> None:
    """Do no more of an operation, for good; what was done stays done."""
    from squorflow.workflow import bulk as operations

    with session.open_database(session.read_config()) as database, database.begin() as connection:
        operation = operations.stop(connection, operation_id)
    if as_json:
        emit(_fields(operation))
    else:
        say(_summary(operation))


@bulk.command(name="list")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@json_option
def list_(*, limit: int, as_json: bool) -> None:
    """List operations, newest first; with --json one object a line."""
    from squorflow.workflow import bulk as operations

    with session.open_database(session.read_config()) as database, database.begin() as connection:
        found = operations.list_operations(connection, page_size=limit)
    if as_json:
        for one in found:
            emit(_fields(one))
        return
    table(
        ("operation", "action", "status", "all", "done", "refused", "who", "why"),
        [
            (one.operation_id, one.action, one.status, one.total, one.succeeded, one.refused, one.actor, one.reason)
            for one in found
        ],
    )


@bulk.command()
@click.argument("operation_id", type=click.UUID)
@json_option
def failures(*, operation_id: UUID, as_json: bool) -> None:
    """List the workflows that an operation could not be done to, and why; with --json one object a line."""
    from squorflow.workflow import bulk as operations

    with session.open_database(session.read_config()) as database:
        with database.begin() as connection:
            operations.get(connection, operation_id)
        found = _refused(database, operation_id)
        if as_json:
            for one in found:
                emit(plain(one))
        else:
            table(("workflow", "why not"), [(one.workflow_id, one.message) for one in found])


def _refused(database: Database, operation_id: UUID) -> Iterator[RefusedItem]:
    """Yield them page by page."""
    from squorflow.workflow import bulk as operations

    after: UUID | None = None
    while True:
        with database.begin() as connection:
            page = operations.list_refused(connection, operation_id, after=after, page_size=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].workflow_id


def _carry_out(database: Database, operation: BulkOperation, *, quiet: bool) -> BulkOperation:
    from squorflow.orchestrator.signals import stopped_by_signals
    from squorflow.workflow import bulk as operations

    stopping = threading.Event()
    with progress(quiet=quiet) as display, stopped_by_signals(lambda _reason: stopping.set()):
        bar = display.add_task(operation.action.value, total=operation.total) if display else None

        def show(now: BulkOperation) -> None:
            if display and bar is not None:
                display.update(bar, completed=now.total - now.pending)

        return operations.carry_out(database, operation.operation_id, on_progress=show, should_stop=stopping.is_set)


def _tell(context: click.Context, operation: BulkOperation, *, as_json: bool) -> None:
    if as_json:
        emit(_fields(operation))
    else:
        say(_summary(operation))
        if not operation.ended:
            say(f"interrupted: `squorflow bulk resume {operation.operation_id}` goes on")
        if operation.refused:
            say(f"`squorflow bulk failures {operation.operation_id}` says why not")
    context.exit(0 if operation.succeeded == operation.total else 1)


def _summary(operation: BulkOperation) -> str:
    told = f"{operation.action}: {operation.succeeded} done"
    return told + "".join(
        f", {count} {word}" for count, word in ((operation.refused, "refused"), (operation.pending, "left")) if count
    )


def _fields(operation: BulkOperation) -> dict[str, Any]:
    fields = plain(operation)
    return {**fields, "wanted": operation.wanted.as_dict(), "pending": operation.pending}
