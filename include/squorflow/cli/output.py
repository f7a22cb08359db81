"""What a verb prints: tables for people, JSON for programs; progress and complaints on stderr.

Texts come from crawled pages, so nothing in them reaches a terminal that could steer it. Owns the forms, no words.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime, timedelta
from decimal import Decimal
from functools import wraps
from typing import TYPE_CHECKING, Any, TextIO
from uuid import UUID

import click

if TYPE_CHECKING:
    from rich.progress import Progress


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--json` to a verb, as `as_json`, and keep everything but the verb's own output off stdout.

    Libraries that print (Airflow's logging does) would get between the lines of JSON.
    """

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        click.get_current_context().find_root().obj = sys.stdout
        with redirect_stdout(sys.stderr):
            function(*arguments, **options)

    return click.option(
        "--json", "as_json", is_flag=True, help="JSON on stdout and nothing else; errors as JSON on stderr."
    )(run)


def printable(text: str) -> str:
    """Replace what could steer a terminal (escapes, control and bidirectional characters); keeps newlines."""
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text)


def emit(value: Any) -> None:
    """Print one JSON document, or one line of JSON Lines."""
    stream = _stdout()
    ascii_only = not (stream.encoding or "").lower().startswith("utf")
    stream.write(json.dumps(value, default=_as_json, ensure_ascii=ascii_only) + "\n")


def say(text: str) -> None:
    """Print a line for a person."""
    _write(printable(text) + "\n")


def warn(text: str) -> None:
    """Print a line for a person to stderr."""
    click.echo(printable(text), err=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; `None` is an empty cell."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(_cell(value))) for value in row))
    stream = _stdout()
    terminal = stream.isatty()
    buffer = StringIO()
    # Into a file or pipe nothing is cut to anybody's window.
    Console(file=buffer, force_terminal=terminal, width=None if terminal else 1000).print(grid)
    _write("\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n")


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress | None]:
    """Show a progress display on stderr inside the block; `None` where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        yield display


def plain(row: Any) -> dict[str, Any]:
    """Return a row's fields by name."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{value:.1f}"
    return str(value)


def _as_json(value: object) -> object:
    match value:
        case UUID():
            return str(value)
        case datetime():
            return value.isoformat()
        case Decimal():
            return float(value)
        case timedelta():
            return value.total_seconds()
    if dataclasses.is_dataclass(value):
        return plain(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _stdout() -> TextIO:
    """Return where results go; `sys.stdout` itself is stderr while a verb runs (see `json_option`)."""
    stream: TextIO = click.get_current_context().find_root().obj
    return stream


def _write(text: str) -> None:
    stream = _stdout()
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
