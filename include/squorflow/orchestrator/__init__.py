"""Runs workflows without Airflow, in the threads of one process, and fills the queue.

    drain.py     the pool of workers that works until nothing is left, and what became of it
    worker.py    one worker: claims, runs the stages of each product in order, lets go of what it cannot finish
    signals.py   SIGINT and SIGTERM as a clean stop
    intake.py    from lines of a file to workflows in the queue, in bounded memory

One synchronous core: a stage runs exactly as it does in an Airflow task (`squorflow.stages.run_stage`).
"""

from __future__ import annotations

from squorflow.orchestrator.drain import DrainReport, WorkerPool, drain
from squorflow.orchestrator.intake import IntakeReport, enqueue_lines
from squorflow.orchestrator.worker import ProductEvent, ProductOutcome

__all__ = [
    "DrainReport",
    "IntakeReport",
    "ProductEvent",
    "ProductOutcome",
    "WorkerPool",
    "drain",
    "enqueue_lines",
]
