"""Stages that do what a test says; acquiring, fencing, finishing and failing stay the real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from uuid import UUID

from squorflow.stages.context import StageContext, StageResult
from squorflow.states import Stage

StageFunction = Callable[[StageContext], StageResult]


class Work:
    """What the stages do in a test; a stage that is not named does nothing. `runs` counts who ran what."""

    def __init__(self) -> None:
        self.functions: dict[Stage, StageFunction] = {}
        self.runs: Counter[tuple[UUID, Stage]] = Counter()
        self.order: dict[UUID, list[Stage]] = {}

    def of(self, stage: Stage) -> StageFunction:
        """Return what stands in for a stage, as `squorflow.stages._stage_function` does."""

        def run(context: StageContext) -> StageResult:
            self.runs[context.workflow_id, stage] += 1
            self.order.setdefault(context.workflow_id, []).append(stage)
            function = self.functions.get(stage)
            return function(context) if function else StageResult(summary="nothing to do")

        return run
