"""`squorflow rescore`, `reprocess`: results made anew from what is stored."""

from __future__ import annotations

from uuid import UUID

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, progress, say


@click.command()
@json_option
def rescore(*, as_json: bool) -> None:
    """Score all products anew by the active policy, from stored facts; nothing is fetched or paid for."""
    from squorflow.stages.scoring import rescore_all

    with session.open_database(session.read_config()) as database, progress(quiet=as_json) as display:
        bar = display.add_task("scoring", total=None) if display else None

        def show(done: int) -> None:
            if display and bar is not None:
                display.update(bar, completed=done)

        rescored = rescore_all(database, on_progress=show)
    if as_json:
        emit({"rescored": rescored})
    else:
        say(f"{rescored} products scored anew")


@click.command()
@click.argument("workflow_id", type=click.UUID)
@json_option
def reprocess(*, workflow_id: UUID, as_json: bool) -> None:
    """Make a new workflow from what the crawler sent for WORKFLOW_ID; the old one stays as it is.

    Refused while a workflow is under way for the same page.
    """
    from squorflow.workflow import listing, queue

    config = session.read_config()
    with session.open_database(config) as database, database.begin() as connection:
        queue.refuse_second(connection, workflow_id)
        payload = listing.get_payload(connection, workflow_id)
        item = queue.NewItem(
            url=payload.url,
            name=payload.name,
            brand=payload.brand,
            crawler_data=payload.crawler_data,
            dedupe_key=None,
            priority=payload.priority,
        )
        report = queue.enqueue(connection, [item], actor=session.actor(), max_retries=config.max_retries)
    created = report.workflow_ids[0]
    if as_json:
        emit({"workflow_id": created, "made_from": workflow_id})
    else:
        say(f"workflow {created} was made from {workflow_id}")
