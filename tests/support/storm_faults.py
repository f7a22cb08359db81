"""What goes wrong in a storm, and when: a seeded plan over the share of work that is done, not over time.

So a slow machine gets as many faults as a fast one. Owns the plan, its carrying out, and the log of injuries. Looks for
its victims among the stages that run at that moment; a fault that finds none waits for one.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

import psutil

from support.storm_ground import Ground, RunningTask


class Fault(StrEnum):
    """The kinds of fault."""

    KILL_TASK = "kill -9 of a task"
    """Its supervisor lives and tells Airflow at once."""
    KILL_SUPERVISOR = "kill -9 of a supervisor"
    """The task goes on until it wants something of it; Airflow hears nothing and waits for a heartbeat."""
    KILL_BOTH = "kill -9 of task and supervisor"
    """As if the machine were gone."""
    STOP_TASK = "SIGSTOP past the lease"
    """It wakes up again and believes that it still holds its product."""
    RESTART_POSTGRES = "Postgres restarted (immediate)"
    KILL_SCHEDULER = "kill -9 of the scheduler"
    """With its workers and their tasks, as its container or unit ends."""


IN_THE_MIDDLE = 0.9
"""The share of looks at which only a worker in the middle of a stage will do; most are just starting or ending."""

DEADLY = frozenset({Fault.KILL_TASK, Fault.KILL_SUPERVISOR, Fault.KILL_BOTH, Fault.KILL_SCHEDULER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Injury:
    """A fault that was injected; the last four are of its victim, where it had one. Times are this machine's clock."""

    fault: Fault
    at: datetime
    until: datetime
    workflow_id: UUID | None = None
    stage: str | None = None
    try_number: int | None = None
    begun: datetime | None = None


@dataclass(slots=True)
class Storm:
    """One plan being carried out; `step` is called again and again with the share of work done."""

    ground: Ground
    seed: int
    faults: dict[Fault, int]
    stop_seconds: float
    injuries: list[Injury] = field(default_factory=list)
    _plan: list[tuple[float, Fault]] = field(default_factory=list)
    _stopped: list[tuple[float, psutil.Process]] = field(default_factory=list)
    _draw: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        """Spread the faults over the work: processes all along, servers in the middle."""
        self._draw.seed(self.seed)
        for fault, times in self.faults.items():
            wide = fault in DEADLY or fault is Fault.STOP_TASK
            for number in range(times):
                low, high = (0.02, 0.85) if wide else (0.15, 0.75)
                slot = (high - low) / times
                self._plan.append((low + slot * (number + self._draw.random()), fault))
        self._plan.sort()

    @property
    def is_over(self) -> bool:
        """Whether every fault has been injected and every stopped process has been woken."""
        return not self._plan and not self._stopped

    def step(self, share: float) -> None:
        """Inject what is due at this share of the work, one fault at a time; wake who has been stopped long enough."""
        self._wake(everybody=False)
        if self._plan and self._plan[0][0] <= share:
            _, fault = self._plan[0]
            injuries = self._inject(fault)
            if injuries:
                self.injuries += injuries
                self._plan.pop(0)

    def calm(self) -> None:
        """Wake everybody who is still stopped; for the end, whatever it is."""
        self._wake(everybody=True)

    def _inject(self, fault: Fault) -> list[Injury]:
        """Do it; an injury per victim, none where there was no victim to be had."""
        stopped = {process for _, process in self._stopped}
        victims = [
            (task, begun)
            for task in self.ground.running_tasks()
            if task.process not in stopped and (begun := _begun(task.process)) is not None
        ]
        at = datetime.now(UTC)
        if fault is Fault.RESTART_POSTGRES:
            self.ground.stop_postgres()
            self.ground.start_postgres()
            return [Injury(fault=fault, at=at, until=datetime.now(UTC))]
        if not victims:
            return []
        if fault is Fault.KILL_SCHEDULER:
            self.ground.kill_scheduler()
            self.ground.start("scheduler")
            return [_injury(fault, task, at=at, begun=begun) for task, begun in victims]
        if self._draw.random() < IN_THE_MIDDLE:
            working = self.ground.leased()
            victims = [(task, begun) for task, begun in victims if task.workflow_id in working]
            if not victims:
                return []
        task, begun = self._draw.choice(victims)
        if not self._hurt(fault, task):
            return []
        lasts = timedelta(seconds=self.stop_seconds if fault is Fault.STOP_TASK else 0)
        return [_injury(fault, task, at=at, begun=begun, lasts=lasts)]

    def _hurt(self, fault: Fault, victim: RunningTask) -> bool:
        """Send the signals; `False` means that the victim had ended before the first."""
        if fault is Fault.STOP_TASK:
            self._stopped.append((time.monotonic() + self.stop_seconds, victim.process))
            return self.ground.send(victim.process, signal.SIGSTOP)
        if fault is Fault.KILL_TASK:
            return self.ground.send(victim.process, signal.SIGKILL)
        # The supervisor first: it would report the task's death.
        killed = victim.supervisor is not None and self.ground.send(victim.supervisor, signal.SIGKILL)
        if killed and fault is Fault.KILL_BOTH:
            self.ground.send(victim.process, signal.SIGKILL)
        return killed

    def _wake(self, *, everybody: bool) -> None:
        now = time.monotonic()
        for entry in list(self._stopped):
            if everybody or entry[0] <= now:
                self._stopped.remove(entry)
                self.ground.send(entry[1], signal.SIGCONT)


def _begun(process: psutil.Process) -> datetime | None:
    try:
        return datetime.fromtimestamp(process.create_time(), UTC)
    except psutil.NoSuchProcess:
        return None


def _injury(
    fault: Fault, task: RunningTask, *, at: datetime, begun: datetime, lasts: timedelta = timedelta(0)
) -> Injury:
    return Injury(
        fault=fault,
        at=at,
        until=at + lasts,
        workflow_id=task.workflow_id,
        stage=task.stage,
        try_number=task.try_number,
        begun=begun,
    )
