"""`squorflow upkeep`: what `workflow_maintenance` does to the database's tables, by hand."""

from __future__ import annotations

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, say


@click.command()
@json_option
@click.pass_context
def upkeep(context: click.Context, *, as_json: bool) -> None:
    """Make partitions, archive old months, let finished workflows go; safe at any time, also twice.

    Exit code 1 when a person has to look at something; the report says at what.
    """
    from squorflow.monitoring.upkeep import run_upkeep

    config = session.read_config()
    with session.open_database(config) as database:
        report = run_upkeep(database, config=config)
    if as_json:
        emit(plain(report))
    else:
        say(report.summary())
    context.exit(1 if report.problems else 0)
