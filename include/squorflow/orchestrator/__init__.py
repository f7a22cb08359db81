"""Runs workflows without Airflow, in the threads of one process, and fills the queue.

    drain.py      the pool of workers that works until nothing is left, or stays
    lookout.py    what is left to do, and when
    emptiness.py  who wants to know when nothing is left
    worker.py     one worker: claims, runs the stages of each product in order, lets go of what it cannot finish
    outcomes.py   what becomes of one product, and of a whole queue
    signals.py    SIGINT and SIGTERM as a clean stop
    intake.py     from lines of a file to workflows in the queue, in bounded memory
    messenger.py  tells event handlers meanwhile
    service.py    workers and messenger together, begun and ended from outside
    facade.py     WorkflowOrchestrator: that service, for programs that await
    engine.py     transition_state, create_workflow_item, get_suspended_workflows, for programs that await
    lock.py       WorkflowLock

One synchronous core: a stage runs exactly as it does in an Airflow task (`squorflow.stages.run_stage`), and each
coroutine calls in a thread what the command line and the API call.
"""

from __future__ import annotations

from squorflow.orchestrator.drain import WorkerPool, drain
from squorflow.orchestrator.facade import WorkflowOrchestrator
from squorflow.orchestrator.intake import IntakeReport, enqueue_lines
from squorflow.orchestrator.lock import WorkflowLock
from squorflow.orchestrator.outcomes import DrainReport, ProductEvent, ProductOutcome

__all__ = [
    "DrainReport",
    "IntakeReport",
    "ProductEvent",
    "ProductOutcome",
    "WorkerPool",
    "WorkflowLock",
    "WorkflowOrchestrator",
    "drain",
    "enqueue_lines",
]
