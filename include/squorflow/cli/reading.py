"""`squorflow status`, `list`, `history`, `search`: what there is, changing nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, table, warn
from squorflow.states import Stage, WorkflowState

if TYPE_CHECKING:
    from squorflow.postgres.database import Database
    from squorflow.workflow.listing import WorkflowFilter, WorkflowStatus

_PAGE = 200


@click.command()
@click.argument("workflow_id", type=click.UUID)
@json_option
def status(*, workflow_id: UUID, as_json: bool) -> None:
    """Show where one workflow stands and where it may go."""
    from squorflow.workflow import listing

    with session.open_database(session.read_config()) as database, database.begin() as connection:
        found = listing.get_status(connection, workflow_id)
    fields: dict[str, Any] = {**plain(found), "allowed_transitions": found.allowed_transitions}
    if as_json:
        emit(fields)
        return
    fields["allowed_transitions"] = ", ".join(found.allowed_transitions) or "none: this is its end"
    table(("", ""), [(name.replace("_", " "), value) for name, value in fields.items() if value is not None])


@click.command(name="list")
@click.option(
    "--state", "states", type=click.Choice([state.value for state in WorkflowState]), multiple=True, help="Repeatable."
)
@click.option("--stage", type=click.Choice([stage.value for stage in Stage]))
@click.option("--search", help="Beginnings of words in the product's name or page address.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
def list_(*, states: tuple[str, ...], stage: str | None, search: str | None, limit: int, as_json: bool) -> None:
    """List workflows, newest first; with --json one object a line."""
    from squorflow.workflow.listing import WorkflowFilter

    wanted = WorkflowFilter(
        states=[WorkflowState(state) for state in states], stage=Stage(stage) if stage else None, search=search
    )
    with session.open_database(session.read_config()) as database:
        found = _list(database, wanted, limit=limit)
        if as_json:
            for one in found:
                emit({**plain(one), "allowed_transitions": one.allowed_transitions})
            return
        table(
            ("workflow", "state", "stage", "retries", "product", "last error"),
            [
                (
                    one.workflow_id,
                    one.current_state,
                    one.current_stage,
                    one.retry_count,
                    one.product_name,
                    one.last_error,
                )
                for one in found
            ],
        )


def _list(database: Database, wanted: WorkflowFilter, *, limit: int) -> Iterator[WorkflowStatus]:
    """Yield workflows page by page, so that any limit takes the memory of a page."""
    from squorflow.workflow import listing

    before: UUID | None = None
    while limit > 0:
        with database.begin() as connection:
            page = listing.list_workflows(connection, wanted, before=before, page_size=min(limit, _PAGE))
        yield from page
        if len(page) < min(limit, _PAGE):
            return
        before, limit = page[-1].workflow_id, limit - len(page)


@click.command()
@click.argument("workflow_id", type=click.UUID)
@json_option
def history(*, workflow_id: UUID, as_json: bool) -> None:
    """Show one workflow's audit trail, oldest first; with --json one object a line."""
    from squorflow.workflow import audit, listing

    with session.open_database(session.read_config()) as database, database.begin() as connection:
        listing.get_status(connection, workflow_id)
        trail = audit.list_history(connection, workflow_id)
    if as_json:
        for row in trail:
            emit(plain(row))
        return
    table(
        ("", "when", "from", "to", "stage", "who", "why"),
        [
            (row.sequence, row.created_at, row.from_state, row.to_state, row.stage, row.actor, row.reason)
            for row in trail
        ],
    )


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@json_option
def search(*, words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find scored products that have all WORDS, each as the beginning of a word; with --json one object a line."""
    from squorflow import search as index

    with session.open_database(session.read_config()) as database, database.begin() as connection:
        hits = index.search(connection, " ".join(words), limit=limit)
    if as_json:
        for hit in hits:
            emit({**plain(hit), "snippet": [plain(piece) for piece in hit.snippet]})
        return
    if not hits:
        warn("nothing found")
        return
    table(
        ("score", "grade", "product", "brand", "category", "where"),
        [
            (hit.overall, hit.grade, hit.name, hit.brand, hit.category, "".join(piece.text for piece in hit.snippet))
            for hit in hits
        ],
    )
