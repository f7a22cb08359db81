"""In which order Airflow gives its places away.

Owns the weights of the DAG's tasks. Airflow weighs a task when its run or the run's products are known, and when a
person clears it, never at its own next try. It orders equal weights by the run's logical date (which a run that starts
by itself has not) and by map index. So a weight has to say from the start who has waited longest.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

FIRST = 1_000
"""Of what brings products back or a run to its end: it must not queue behind products."""

MOST_EXPRESS = 8
"""So many products of a run go before all others: its first, which are those that were tried before."""

EXPRESS_SHARE = 4
"""No more than a fourth of a batch, or they would be nothing special."""

EXPRESS_WEIGHT = 100

UNBEGUN_WEIGHT = -1_000_000_000
"""Beneath all that is past its first stage, whatever its age; Airflow keeps weights down to about twice that."""

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class OldestFirst:
    """The priority weight strategy of stages: an older run's products before a newer's, later stages before the first.

    What is past its first stage is overtaken only by a run's first products, so that a lost task's next try does not
    wait behind all that came after it. Below zero, so that the tasks of other DAGs go before products.
    """

    def get_weight(self, ti: TaskInstance) -> int:
        """Weigh a task, whose own weight is its stage's place; -1 is what Airflow later makes the first map index."""
        from squorflow.config import get_config

        place: int = ti.task.priority_weight  # type: ignore[union-attr]
        express = max(1, min(MOST_EXPRESS, get_config().batch_size // EXPRESS_SHARE))
        if ti.map_index < express:
            return EXPRESS_WEIGHT + place
        since = seconds_since_epoch(ti.run_id or "")
        return UNBEGUN_WEIGHT - since if place == 1 else -since


def seconds_since_epoch(run_id: str) -> int:
    """Return how late a run came, in seconds since the beginning of 2026, by the time in its id.

    The id is all of a run that Airflow shows to a strategy. A run that a person has given a name counts as of now, and
    so does a backfill, whose id has the time that it is for.
    """
    found = None if run_id.startswith("backfill__") else _TIME.search(run_id)
    at = datetime.now(UTC)
    if found:
        # The scheduler asks, which must not stumble over a name that only looks like a time.
        with suppress(ValueError):
            at = datetime.fromisoformat(found[0])
    return min(max(0, int((at - _EPOCH).total_seconds())), -UNBEGUN_WEIGHT - 1)


OLDEST_FIRST = f"{__name__}.{OldestFirst.__qualname__}"
"""How a DAG names it: Airflow finds the class through the plugin."""
