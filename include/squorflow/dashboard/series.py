"""A window cut into slices of time: how much was completed and how much failed in each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from squorflow.monitoring.metrics import TimeRange
from squorflow.postgres.queries import load

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SLICES = {
    TimeRange.QUARTER_HOUR: timedelta(seconds=15),
    TimeRange.HOUR: timedelta(minutes=1),
    TimeRange.DAY: timedelta(minutes=30),
    TimeRange.WEEK: timedelta(hours=3),
    TimeRange.MONTH: timedelta(hours=12),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Equal slices, the oldest first. `times` are Unix seconds; `errors` are failed tries, `ended` those for good."""

    slice_length: timedelta
    times: tuple[int, ...]
    completed: tuple[int, ...]
    errors: tuple[int, ...]
    ended: tuple[int, ...]


def read_series(connection: Connection, *, time_range: TimeRange) -> Series:
    """Return a window up to now in 56 to 60 slices, those without anything included."""
    queries = load("series")
    length = _SLICES[time_range]
    seconds = int(length.total_seconds())
    window = {"time_range": time_range.length, "slice_seconds": seconds}
    completed = {row.slice: row.happened for row in connection.execute(queries["count_completions"], window)}
    failed = {row.slice: (row.happened, row.ended) for row in connection.execute(queries["count_errors"], window)}
    last = int(connection.execute(queries["get_present"]).scalar_one()) // seconds
    slices = range(last - time_range.length // length + 1, last + 1)
    return Series(
        slice_length=length,
        times=tuple(one * seconds for one in slices),
        completed=tuple(completed.get(one, 0) for one in slices),
        errors=tuple(failed.get(one, (0, 0))[0] for one in slices),
        ended=tuple(failed.get(one, (0, 0))[1] for one in slices),
    )
