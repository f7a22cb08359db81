"""What a row of the table of failures says: what Airflow showed, what the trail says, how long it took.

Airflow keeps no record of a task's states, so they are watched while the scenario runs; the rest is read afterwards.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Event, Thread
from typing import Any, Self

from sqlalchemy.exc import DBAPIError

from support.recovery_scene import Scene
from support.storm_ground import DAG

LOOK_EVERY_SECONDS = 0.2


def row_of(scene: Scene) -> dict[str, str]:
    """Return what Airflow showed, what the trail says and how long it took."""
    moves = scene.ground.query(
        """
        SELECT to_state, reason, metadata, created_at FROM workflow_transitions
        WHERE workflow_id = :id AND created_at >= :at ORDER BY sequence
        """,
        id=scene.workflow_id,
        at=scene.at,
    )
    reasons = [row.reason for row in moves if row.to_state in {"failed", "waiting", "suspended"}]
    trail = " → ".join(row.to_state for row in moves)
    return {
        "airflow": _airflow_states(scene),
        "trail": f"{trail}: {_shorten(reasons[0].replace(str(scene.ground.airflow.home), '…'))}" if reasons else trail,
        "recovered": scene.returns or _time(scene, moves),
    }


def _time(scene: Scene, moves: list[Any]) -> str:
    again = next((row.created_at for row in moves if row.to_state == "processing"), None)
    if again is None:
        events = scene.ground.query(
            """
            SELECT min(created_at) AS at FROM workflow_events
            WHERE workflow_id = :id AND event_type = 'stage_completed' AND created_at > :at
            """,
            id=scene.workflow_id,
            at=scene.at,
        )
        again = events[0].at
    delay = next((float(row.metadata["retry_after"]) for row in moves if "retry_after" in row.metadata), 0.0)
    seconds = (again - scene.at).total_seconds()
    return f"{seconds:.1f} s" + (f", {delay:.1f} s of them its own delay" if delay else "")


def _airflow_states(scene: Scene) -> str:
    """Return the states of the watched task, try by try, run by run."""
    runs: dict[str, dict[int, list[str]]] = {}
    for run_id, task, number, state in scene.seen:
        if task == scene.watched and state not in {"scheduled", "queued"}:
            runs.setdefault(run_id, {}).setdefault(number, []).append(state)
    tries = [
        ", ".join(f"try {number} {' → '.join(states)}" for number, states in tries.items()) for tries in runs.values()
    ]
    return f"{scene.watched}: {'; in another run: '.join(tries)}"


class Watch(Thread):
    """Looks at the product's tasks all the while, since Airflow keeps no record of their states."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(name="watch", daemon=True)
        self._scene = scene
        self._ended = Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look until told to end; Postgres is away at times, on purpose."""
        last: dict[tuple[str, str], tuple[int, str]] = {}
        items: list[Any] = []
        while not self._ended.wait(LOOK_EVERY_SECONDS):
            with suppress(DBAPIError):
                items = self._scene.ground.query(
                    "SELECT owner, map_index FROM run_claim_item WHERE workflow_id = :id", id=self._scene.workflow_id
                )
            for row in self._look(items):
                key, now = (row.run_id, row.task), (row.try_number, row.state)
                if last.get(key) != now:
                    last[key] = now
                    self._scene.seen.append((*key, *now))

    def _look(self, items: list[Any]) -> list[Any]:
        # The run that is claiming has no items yet, but its pull is what some rows are about.
        return self._scene.ground.ask_airflow(
            """
            SELECT t.run_id, replace(t.task_id, 'product.', '') AS task, t.try_number, t.state
            FROM task_instance AS t INNER JOIN dag_run AS r ON r.dag_id = t.dag_id AND r.run_id = t.run_id
            WHERE t.dag_id = :dag AND t.state IS NOT NULL AND (
                t.task_id = 'pull' AND r.start_date >= :since OR EXISTS (
                    SELECT 1 FROM unnest(CAST(:runs AS text[]), CAST(:indexes AS int[])) AS i (run_id, map_index)
                    WHERE i.run_id = t.run_id AND i.map_index = t.map_index))
            ORDER BY r.start_date
            """,
            dag=DAG,
            since=self._scene.began,
            runs=[item.owner.partition(f"/{DAG}/")[2] for item in items],
            indexes=[item.map_index for item in items],
        )


def _shorten(reason: str) -> str:
    start = reason.partition("airflow:airflow/")
    said = f"{start[0]}its run {start[2].partition(' ')[2]}" if start[1] else reason
    return said if len(said) <= 140 else f"{said[:139]}…"
