"""`squorflow enqueue`: products from JSON Lines into the queue."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, progress, say, warn

if TYPE_CHECKING:
    from squorflow.products.jsonl import BadLine

MOST_BAD_LINES = 1000
"""Bad lines that the JSON report lists one by one; the rest is counted."""


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--priority", type=click.IntRange(1, 10), default=5, show_default=True, help="10 is taken first.")
@click.option("--force", is_flag=True, help="Make workflows also for products that have one already.")
@json_option
@click.pass_context
def enqueue(context: click.Context, *, file: BinaryIO, priority: int, force: bool, as_json: bool) -> None:
    """Put the products of FILE, one JSON object a line, into the queue; - reads standard input.

    A line that cannot be used is reported with its number and reason, and all others are enqueued. A product is a
    duplicate when a workflow that is not cancelled has the same page and content.

    Exit code 0 when every line could be used, 1 when some could not.
    """
    from squorflow.orchestrator.intake import IntakeReport, enqueue_lines
    from squorflow.products.jsonl import read_jsonl

    config = session.read_config()
    bad: list[BadLine] = []

    def note_bad(line: BadLine) -> None:
        if len(bad) < MOST_BAD_LINES:
            bad.append(line)
        if not as_json:
            warn(f"line {line.line_number}: {line.reason} ({line.excerpt})")

    with session.open_database(config) as database, progress(quiet=as_json) as display:
        size = _size(file)
        bar = display.add_task("enqueueing", total=size) if display else None

        def show(report: IntakeReport) -> None:
            if display and bar is not None:
                done = {"completed": file.tell()} if size is not None else {"completed": report.lines}
                display.update(bar, **done)  # type: ignore[arg-type]

        report = enqueue_lines(
            database,
            read_jsonl(file),
            actor=session.actor(),
            max_retries=config.max_retries,
            priority=priority,
            force=force,
            on_bad=note_bad,
            on_progress=show,
        )
    if as_json:
        emit({**plain(report), "bad_lines": [plain(line) for line in bad], "bad_lines_left_out": report.bad - len(bad)})
    else:
        say(
            f"{report.created} enqueued, {report.duplicates} had a workflow already, "
            f"{report.bad} lines could not be used" + (f", {report.cleaned} were cleaned" if report.cleaned else "")
        )
    context.exit(1 if report.bad else 0)


def _size(file: BinaryIO) -> int | None:
    """Return the size of a regular file in bytes; `None` for pipes."""
    try:
        return os.fstat(file.fileno()).st_size if file.seekable() else None
    except OSError:
        return None
