"""Stage 7: puts the completion notice into the outbox.

The notice commits together with the transition to completed, so none goes out about a product that is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from squorflow.stages.context import JsonObject, StageContext, StageResult
from squorflow.states import Stage
from squorflow.workflow.outbox import append_event

if TYPE_CHECKING:
    from sqlalchemy import Connection

EVENT_TYPE = "product_completed"


def run(context: StageContext) -> StageResult:
    """Write one notice with what a subscriber wants to know; none where notifications are switched off."""
    if not context.config.enable_notifications:
        return StageResult(summary="notifications are switched off")
    found, scored = context.outputs[Stage.DISCOVERY], context.outputs[Stage.SCORING]
    notice = {
        "product_id": found["product_id"],
        "product_name": found["content"]["name"],
        "brand": found["content"].get("brand"),
        "overall": scored["overall"],
        "grade": scored["grade"],
        "flags": scored["flags"],
        "heaviest": scored["heaviest"],
    }

    def write(connection: Connection) -> JsonObject:
        append_event(connection, context.workflow_id, event_type=EVENT_TYPE, data=notice, once=True)
        return {}

    return StageResult(summary="completion notice written to the outbox", write=write)
