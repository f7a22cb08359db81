"""How figures, times and names are written on a page. Owns no facts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

NOTHING = "\N{EN DASH}"
"""What is not known."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_PRECISE_BELOW = 10
_SHORT = 0.095


def duration(seconds: float | Decimal | timedelta | None) -> str:
    """Write a length of time in its two largest units: "3 ms", "0.25 s", "48.7 s", "3 min 20 s", "3 d 4 h"."""
    if seconds is None:
        return NOTHING
    value = float(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)
    if round(value, 1) < _MINUTE:
        return _seconds(value)
    whole = round(value)
    if whole < _HOUR:
        return _two(whole, _MINUTE, units=("min", "s"))
    if whole < _DAY:
        return _two(whole // _MINUTE, 60, units=("h", "min"))
    return _two(whole // _HOUR, 24, units=("d", "h"))


def _seconds(value: float) -> str:
    if value < _SHORT:
        return f"{max(round(1000 * value), 0)} ms"
    return f"{value:.2f} s" if round(value, 2) < _PRECISE_BELOW else f"{value:.1f} s"


def _two(value: int, size: int, *, units: tuple[str, str]) -> str:
    large, small = divmod(value, size)
    return f"{large} {units[0]} {small} {units[1]}" if small else f"{large} {units[0]}"


def ago(moment: datetime | None, now: datetime) -> str:
    """Write how long ago, or in how long, a moment is, in its largest unit."""
    if moment is None:
        return NOTHING
    seconds = (now - moment).total_seconds()
    size, unit = next(
        ((size, unit) for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")) if abs(seconds) >= size),
        (1, "s"),
    )
    count = int(abs(seconds) // size)
    return f"{count} {unit} ago" if seconds >= 0 else f"in {count} {unit}"


def moment(value: datetime | None) -> str:
    """Write a moment in full, in UTC."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if value is not None else NOTHING


def clock(value: datetime) -> str:
    """Write the time of day of a moment, in UTC."""
    return f"{value.astimezone(UTC):%H:%M:%S}"


def number(value: float | Decimal | None) -> str:
    """Write a number with thousands apart, and without zeros behind the point."""
    if value is None:
        return NOTHING
    if isinstance(value, Decimal) and value != value.to_integral_value():
        return f"{value.normalize():,f}"
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.1f}"


def words(name: Any) -> str:
    """Write a name of the code for people: "image_fetch" is "image fetch"."""
    return str(name).replace("_", " ")


def short(identifier: Any) -> str:
    """Write the part of a UUID that differs between those made in the same minute."""
    return str(identifier)[-8:]


FILTERS = {
    "ago": ago,
    "clock": clock,
    "duration": duration,
    "moment": moment,
    "number": number,
    "short": short,
    "words": words,
}
"""What templates call them."""
