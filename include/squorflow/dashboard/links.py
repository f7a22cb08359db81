"""Addresses of Airflow's own pages, from the names our trail and queue use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from squorflow.airflow.ownership import RunOwner

_ACTOR = re.compile(
    r"airflow:(?P<dag_id>[^/]+)/(?P<run_id>.+)/(?P<task_id>[^/\[\]#]+)(?:\[(?P<map_index>\d+)\])?#(?P<try_number>\d+)"
)


@dataclass(frozen=True, slots=True)
class Airflow:
    """Airflow's web server; `root` is the path it is at."""

    root: str

    def task_log(self, actor: str) -> str | None:
        """Return where the log of the task is that acted; `None` where it was no task."""
        found = _ACTOR.fullmatch(actor)
        if found is None:
            return None
        mapped = f"/mapped/{found['map_index']}" if found["map_index"] else ""
        place = f"{_run(found['dag_id'], found['run_id'])}/tasks/{quote(found['task_id'], safe='')}{mapped}"
        return f"{self.root}{place}?try_number={found['try_number']}"

    def task_name(self, actor: str) -> str:
        """Return the task that acted, for people: "product.scoring[3], try 2"; who is no task keeps its name."""
        found = _ACTOR.fullmatch(actor)
        if found is None:
            return actor
        mapped = f"[{found['map_index']}]" if found["map_index"] else ""
        return f"{found['task_id']}{mapped}, try {found['try_number']}"

    def run(self, owner: str | None) -> str | None:
        """Return where the run is that owns a row; `None` where no run does."""
        found = RunOwner.parse(owner) if owner else None
        return f"{self.root}{_run(found.dag_id, found.run_id)}" if found else None


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
