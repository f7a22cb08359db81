"""A worker for tests to stop and kill: `python -m support.worker_process ADDRESS WORKFLOW_ID OWNER SECONDS PAUSE`.

It runs the first stage with a lease of SECONDS, pauses in the stage or in the write (PAUSE), and says on its standard
output where it is. A line on its standard input lets it go on. At the PAUSE "check" it does nothing but look whether it
shall stop.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import cast
from uuid import UUID

from sqlalchemy import Connection, make_url

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.recovery import reaper
from squorflow.stages import STAGE_MODULES, StageFailed, StageSkipped, run_stage
from squorflow.stages.context import Clients, JsonObject, StageContext, StageResult
from squorflow.states import Stage


def _say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def _pause(where: str) -> None:
    _say(f"in the {where}")
    sys.stdin.readline()


def run(context: StageContext) -> StageResult:
    """Stand in for a stage; found by name through STAGE_MODULES."""
    pause = sys.argv[5]

    def write(_connection: Connection) -> JsonObject:
        if pause == "write":
            _pause("write")
        return {}

    if pause == "stage":
        _pause("stage")
    if pause == "check":
        _say("in the check")
        context.cancellation.wait(600)
    return StageResult(summary="done", output={"by": "the process", "token": context.token}, write=write)


def work() -> None:
    """Run the first stage and say how it ended."""
    address, workflow_id, owner, seconds, _ = sys.argv[1:]
    config = WorkflowConfig(lock_timeout=seconds)
    STAGE_MODULES[Stage.DISCOVERY] = "support.worker_process"
    try:
        outcome = run_stage(
            Database(make_url(address), config=config),
            workflow_id=UUID(workflow_id),
            stage=Stage.DISCOVERY,
            owner=owner,
            actor="the process",
            config=config,
            clients=cast(Clients, SimpleNamespace()),
        )
        _say(f"ended: {outcome.status}")
    except (StageSkipped, StageFailed) as ended:
        _say(f"ended: {type(ended).__name__}: {ended}")


def reap() -> None:
    """Reap in the smallest of batches."""
    reaper._BATCH = 1
    _say("reaping")
    config = WorkflowConfig()
    reaper.reap(Database(make_url(sys.argv[1]), config=config), liveness=reaper.nothing_known, config=config)


if __name__ == "__main__":
    reap() if len(sys.argv) == 2 else work()
