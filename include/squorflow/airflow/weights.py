"""In which order Airflow gives its places away.

Owns the weights of the DAG's tasks. Airflow weighs a task once, when the run's products are known, and orders equal
weights by the run's date and by map index.
"""

from __future__ import annotations

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


class ExpressFirst:
    """The priority weight strategy of stages: a run's first products before all others, else what the task says."""

    def get_weight(self, ti: TaskInstance) -> int:
        """Weigh a task of this map index; -1 is what Airflow later makes the first of its indexes."""
        from squorflow.config import get_config

        weight: int = ti.task.priority_weight  # type: ignore[union-attr]
        express = max(1, min(MOST_EXPRESS, get_config().batch_size // EXPRESS_SHARE))
        return weight + EXPRESS_WEIGHT if ti.map_index < express else weight


EXPRESS_FIRST = f"{__name__}.{ExpressFirst.__qualname__}"
"""How a DAG names it: Airflow finds the class through the plugin."""
