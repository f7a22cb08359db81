"""What a failure's scenario has at hand: a whole Airflow, one product in it, and ways to wait for the right moment.

Owns looking and waiting; what fails is `support.recovery_scenarios`, what is written down `support.recovery_rows`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import create_engine, text

from squorflow.states import Stage
from support.airflow_runs import crawled
from support.image_server import ImageServer
from support.storm_gemini import StormyGemini
from support.storm_ground import Ground, RunningTask


@dataclass(slots=True, kw_only=True)
class Scene:
    """What a scenario has at hand: the installation, the services it asks, and the moment of the failure."""

    ground: Ground
    gemini: StormyGemini
    images: ImageServer
    workflow_id: UUID = field(default_factory=uuid4)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    watched: str = "enrichment"
    """The task whose states the row shows."""
    seen: list[tuple[str, str, int, str]] = field(default_factory=list)
    """What Airflow showed: run, task, try and state, each when it changed."""
    returns: str | None = None
    """Said in place of a time where nothing comes back by itself, or only at a certain hour."""

    def queue(self, *, max_retries: int = 10, **changes: Any) -> None:
        """Queue this scenario's product."""
        name = f"product {uuid4().hex[:8]}"
        (self.workflow_id,) = self.ground.enqueue([crawled(name, **changes)], max_retries=max_retries)

    def hit(self) -> None:
        """Note the moment of the failure."""
        self.at = datetime.now(UTC)

    def wait_for_task(self, stage: Stage = Stage.ENRICHMENT) -> RunningTask:
        """Wait until the product's stage runs; return it."""
        found: list[RunningTask] = []

        def look() -> bool:
            found[:] = [
                task
                for task in self.ground.running_tasks()
                if task.workflow_id == self.workflow_id and task.stage == stage and self._has_lease(stage)
            ]
            return bool(found)

        self.ground.wait_for(look, what=f"{stage} to run")
        return found[0]

    def wait_until_asked(self) -> RunningTask:
        """Wait until the product's worker waits for Gemini's answer."""
        calls = len(self.gemini.calls)
        task = self.wait_for_task()
        self.ground.wait_for(lambda: len(self.gemini.calls) > calls or self._was_asked(), what="the call")
        return task

    def _was_asked(self) -> bool:
        ((name,),) = self.ground.query(
            "SELECT product_name FROM processing_queue WHERE queue_id = :id", id=self.workflow_id
        )
        return any(call.product == name for call in self.gemini.calls)

    def _has_lease(self, stage: Stage) -> bool:
        return bool(
            self.ground.query(
                """
                SELECT 1 FROM processing_queue
                WHERE queue_id = :id AND stage = :stage AND lease_expires_at IS NOT NULL
                """,
                id=self.workflow_id,
                stage=stage.value,
            )
        )

    def wait_until_written(self, stage: Stage = Stage.ENRICHMENT) -> None:
        """Wait until the product's stage is done, as far as Postgres knows."""
        query = "SELECT 1 FROM workflow_checkpoint WHERE workflow_id = :id AND stage = :stage"
        self.ground.wait_for(
            lambda: self.ground.query(query, id=self.workflow_id, stage=stage.value), what=f"{stage} to be written"
        )

    def state(self) -> str:
        """Return the product's state."""
        ((state,),) = self.ground.query(
            "SELECT workflow_state FROM processing_queue WHERE queue_id = :id", id=self.workflow_id
        )
        return str(state)

    def wait_for_state(self, *states: str) -> None:
        """Wait until the product is in one of these states."""
        self.ground.wait_for(lambda: self.state() in states, what=f"{states}", patience_seconds=600)

    def wait_for_move(self, *, to: str, reason: str) -> None:
        """Wait until the trail has a move like this after the failure."""
        self.ground.wait_for(
            lambda: self.ground.query(
                """
                SELECT 1 FROM workflow_transitions
                WHERE workflow_id = :id AND to_state = :to AND reason LIKE :reason AND created_at > :at
                """,
                id=self.workflow_id,
                to=to,
                reason=f"%{reason}%",
                at=self.at,
            ),
            what=f"the trail to say {to}: {reason}",
        )

    def seconds_until(self, state: str) -> float:
        """Return the seconds from the failure to the product's next move to this state."""
        ((at,),) = self.ground.query(
            "SELECT min(created_at) FROM workflow_transitions WHERE workflow_id = :id AND to_state = :state "
            "AND created_at > :at",
            id=self.workflow_id,
            state=state,
            at=self.at,
        )
        return float((at - self.at).total_seconds())

    def hit_at_first_failure(self) -> None:
        """Take the moment of the first failure, or wait, that the trail has as the moment of the failure."""
        query = """
            SELECT created_at FROM workflow_transitions
            WHERE workflow_id = :id AND to_state IN ('failed', 'waiting') ORDER BY sequence LIMIT 1
        """
        self.ground.wait_for(lambda: self.ground.query(query, id=self.workflow_id), what="the failure")
        ((self.at,),) = self.ground.query(query, id=self.workflow_id)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep Gemini from answering inside the block."""
        self.gemini.hold.clear()
        try:
            yield
        finally:
            self.gemini.hold.set()

    def restart_postgres_while(self, table: str, *, mode: str, begin: Callable[[], None]) -> None:
        """Restart Postgres while a statement waits for a table that `mode` keeps from it; `begin` leads to it."""
        engine = create_engine(self.ground.database.url)
        try:
            keeper = engine.connect()
            keeper.execute(text(f"LOCK TABLE {table} IN {mode} MODE"))
            begin()
            self.ground.wait_for(lambda: self._somebody_waits(table), what=f"somebody who waits for {table}")
            self.hit()
            self.ground.stop_postgres()
            self.ground.start_postgres()
            keeper.invalidate()
            keeper.close()
        finally:
            engine.dispose()

    def _somebody_waits(self, table: str) -> bool:
        return bool(
            self.ground.query(
                "SELECT 1 FROM pg_locks WHERE relation = CAST(:name AS regclass) AND NOT granted", name=table
            )
        )


def settle(scene: Scene) -> None:
    """Wait until no product and no run is under way, so that the next scenario finds quiet."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and scene.ground.active_runs():
        scene.ground.check_components()
        time.sleep(0.5)
