"""`squorflow drain`, `worker`: works in this process, until the queue is empty or until it is stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, printable, progress, say, warn

if TYPE_CHECKING:
    from rich.progress import Progress

    from squorflow.orchestrator import DrainReport, ProductEvent
    from squorflow.postgres.database import Database

_TO_DO = frozenset({"queued", "processing", "retrying"})
_TOLD = frozenset({"failed", "suspended", "retrying"})
"""Outcomes that get a line of their own."""
_WORTH_TELLING_SECONDS = 1.0
"""Shorter waits are over before anybody has read of them."""


_num_workers = click.option(
    "--num-workers", type=click.IntRange(1, 64), help="Threads; default WORKFLOW_NUM_WORKERS (4)."
)
_verbose = click.option("-v", "--verbose", is_flag=True, help="Log to stderr, tracebacks included.")


@click.command()
@_num_workers
@_verbose
@json_option
@click.pass_context
def drain(context: click.Context, *, num_workers: int | None, verbose: bool, as_json: bool) -> None:
    """Work until the queue is empty, and wait for retries that are due later. Ctrl-C stops it cleanly.

    Exit code 0 when nothing is left to do, 1 when it was stopped, or products ended failed or refused to be
    claimed.
    """
    from squorflow import orchestrator
    from squorflow.enrichment import choose_analyzer
    from squorflow.stages import make_clients

    config = session.read_config()
    config = config.model_copy(update={"num_workers": num_workers or config.num_workers})
    with (
        _log_on_stderr(verbose=verbose),
        session.open_database(config) as database,
        progress(quiet=as_json) as display,
    ):
        # Who sits here can set a missing key now, instead of watching every product wait for it.
        choose_analyzer(config)
        shown = _Display(display, total=_count_to_do(database), quiet=as_json)
        report = orchestrator.drain(
            database,
            config=config,
            clients=make_clients(config),
            num_workers=config.num_workers,
            on_event=shown.tell,
            on_wait=shown.tell_wait,
        )
    _tell_report(report, as_json=as_json)
    context.exit(1 if report.stopped or report.failed or report.passed_over else 0)


@click.command()
@_num_workers
@_verbose
@json_option
def worker(*, num_workers: int | None, verbose: bool, as_json: bool) -> None:
    """Work on whatever comes and deliver events, until Ctrl-C or SIGTERM, which stop it cleanly.

    Any number may run at once, also beside Airflow. Exit code 0 when it was stopped.
    """
    from squorflow import orchestrator
    from squorflow.orchestrator.messenger import Messenger
    from squorflow.stages import make_clients

    config = session.read_config()
    config = config.model_copy(update={"num_workers": num_workers or config.num_workers})
    with _log_on_stderr(verbose=verbose), session.open_database(config) as database:
        shown = _Display(None, total=0, quiet=as_json)
        with Messenger(database, config=config, handlers=[]):
            report = orchestrator.drain(
                database,
                config=config,
                clients=make_clients(config),
                num_workers=config.num_workers,
                on_event=shown.tell,
                stays=True,
            )
    _tell_report(report, as_json=as_json)


def _count_to_do(database: Database) -> int:
    from squorflow.workflow import listing

    with database.begin() as connection:
        return sum(count for state, count in listing.count_states(connection).items() if state in _TO_DO)


class _Display:
    """A progress bar where there is a terminal, else lines about what did not go well."""

    def __init__(self, display: Progress | None, *, total: int, quiet: bool) -> None:
        self._display = display
        self._quiet = quiet
        self._task = display.add_task("working", total=total) if display else None

    def tell(self, event: ProductEvent) -> None:
        if event.outcome in _TOLD:
            self._line(f"{event.workflow_id} {event.outcome}: {event.message}")
        if self._display and self._task is not None:
            done = 0 if event.outcome == "retrying" else 1
            self._display.update(self._task, description="working", advance=done)

    def tell_wait(self, seconds: float) -> None:
        if seconds < _WORTH_TELLING_SECONDS:
            return
        text = f"waiting {seconds:.0f} s: what is left is due later, or held by another worker"
        if self._display and self._task is not None:
            self._display.update(self._task, description=text)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        if self._display:
            self._display.console.print(printable(text), markup=False, highlight=False)
        elif not self._quiet:
            warn(text)


def _tell_report(report: DrainReport, *, as_json: bool) -> None:
    if as_json:
        emit({**plain(report), "products_per_second": round(report.products_per_second, 2)})
        return
    say(
        f"{report.completed} completed, {report.failed} failed, {report.suspended} suspended, "
        f"{report.retries} retries in {report.seconds:.1f} s ({report.products_per_second:.1f} products/s)"
    )
    if report.not_queued:
        say(f"{report.not_queued} are created but not queued: whoever inserted them has to queue them")
    if report.held_elsewhere:
        say(f"{report.held_elsewhere} belong to DAG runs or other workers")
    if report.passed_over:
        warn(f"{report.passed_over} could not be claimed and were passed over; their rows refuse every change")
    if report.stopped:
        warn(f"stopped: {report.stopped}; what was begun has been given back")


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


@contextmanager
def _log_on_stderr(*, verbose: bool) -> Iterator[None]:
    """Show our log: all of it if asked for, else warnings without tracebacks; what stages log is told by events."""
    handler = logging.StreamHandler()
    if not verbose:
        handler.addFilter(_without_traceback)
    ours, stages = logging.getLogger("squorflow"), logging.getLogger("squorflow.stages")
    before = ours.level, ours.propagate, stages.level
    ours.addHandler(handler)
    ours.propagate = False
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    stages.setLevel(logging.NOTSET if verbose else logging.ERROR)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.level, ours.propagate, stages.level = before
