"""A drain whose first stage tells its parent that it runs and then waits to be stopped; for tests that end it.

Its database is the one of AIRFLOW_CONN_WORKFLOW_DB.
"""

from __future__ import annotations

import sys

from squorflow import stages
from squorflow.cli import main
from squorflow.stages.context import StageContext, StageResult


def _block(context: StageContext) -> StageResult:
    sys.stderr.write(f"begun {context.workflow_id}\n")
    sys.stderr.flush()
    context.cancellation.wait(600)
    return StageResult(summary="nobody stopped it")


if __name__ == "__main__":
    stages._stage_function = lambda _stage: _block  # type: ignore[assignment]
    main(["drain", "--num-workers", "1"])
