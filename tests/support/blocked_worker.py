"""A worker whose first stage tells its parent that it runs and then waits to be stopped; for tests that end it.

`python -m support.blocked_worker drain|worker|program`: a verb, or a program with an orchestrator. Its database is the
one of AIRFLOW_CONN_WORKFLOW_DB.
"""

from __future__ import annotations

import asyncio
import sys

from squorflow import WorkflowOrchestrator, stages
from squorflow.cli import main
from squorflow.stages.context import StageContext, StageResult


def _block(context: StageContext) -> StageResult:
    sys.stderr.write(f"begun {context.workflow_id}\n")
    sys.stderr.flush()
    context.cancellation.wait(600)
    return StageResult(summary="nobody stopped it")


async def _program() -> None:
    orchestrator = WorkflowOrchestrator(num_workers=1)
    await orchestrator.start()
    await orchestrator.drain()


if __name__ == "__main__":
    stages._stage_function = lambda _stage: _block  # type: ignore[assignment]
    if sys.argv[1] == "program":
        asyncio.run(_program())
    else:
        main([sys.argv[1], "--num-workers", "1"])
