"""Stage 5: scores the facts by the active policy and stores the score with every factor that made it.

Owns how scores are stored and how they are made anew under another policy. The arithmetic is `squorflow.scoring`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.products.facts import Analysis, ProductContent, ProductFacts
from squorflow.products.merging import merge_facts
from squorflow.scoring import SquorScore, score
from squorflow.scoring.catalog import get_active_policy
from squorflow.stages.context import JsonObject, StageContext, StageResult
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

_RESCORE_BATCH = 200


def run(context: StageContext) -> StageResult:
    """Score the facts; the same analysis under the same policy version is stored once."""
    found, mapped = context.outputs[Stage.DISCOVERY], context.outputs[Stage.DATA_MAPPING]
    with context.database.begin() as connection:
        policy = get_active_policy(connection)
    squor = score(ProductFacts.model_validate(mapped["facts"]), policy)
    heaviest = squor.heaviest_factor()

    def write(connection: Connection) -> JsonObject:
        _store(
            connection,
            squor,
            product_id=found["product_id"],
            analysis_id=mapped["analysis_id"],
            is_current=mapped["is_current"],
        )
        return {}

    return StageResult(
        summary=f"SQUOR {squor.overall} {squor.grade or 'without a grade'}, policy {squor.policy} {squor.version}",
        output={
            "overall": float(squor.overall) if squor.overall is not None else None,
            "rating": squor.rating,
            "grade": squor.grade,
            "flags": list(squor.flags),
            "missing": list(squor.missing),
            "heaviest": _in_words(squor),
            "heaviest_rule": heaviest.rule if heaviest else None,
            "policy": squor.policy,
            "policy_version": squor.version,
        },
        write=write,
    )


def _in_words(squor: SquorScore) -> str | None:
    factor = squor.heaviest_factor()
    return f"{factor.component} {factor.points:+g}: {factor.reason} ({factor.evidence})"[:300] if factor else None


def _store(
    connection: Connection, squor: SquorScore, *, product_id: UUID | str, analysis_id: UUID | str, is_current: bool
) -> None:
    queries = load("scoring")
    key: dict[str, Any] = {
        "product_id": product_id,
        "analysis_id": analysis_id,
        "policy": squor.policy,
        "policy_version": squor.version,
    }
    if is_current:
        connection.execute(queries["retire_scores"], key)
    squor_score_id = connection.execute(
        queries["record_score"],
        key
        | {
            "overall": squor.overall,
            "rating": squor.rating,
            "grade": squor.grade,
            "assessed_weight": squor.assessed_weight,
            "confidence": squor.confidence,
            "flags": [flag.value for flag in squor.flags],
            "missing": list(squor.missing),
            "heaviest": _in_words(squor),
            "is_current": is_current,
        },
    ).scalar_one()
    components = [part.model_dump(mode="json") for part in squor.components]
    connection.execute(
        queries["record_components"], {"squor_score_id": squor_score_id, "components": json.dumps(components)}
    )


def rescore_all(database: Database, *, on_progress: Callable[[int], None] | None = None) -> int:
    """Score every product anew whose present score is by another policy than the active one; return how many.

    Facts are rebuilt from stored content and analysis, so nothing is fetched or paid for. Safe to stop and run again.
    """
    queries = load("scoring")
    after, rescored = UUID(int=0), 0
    while True:
        with database.begin() as connection:
            policy = get_active_policy(connection)
            rows = connection.execute(
                queries["list_for_rescoring"],
                {
                    "after": after,
                    "policy": policy.name,
                    "policy_version": policy.version,
                    "batch_size": _RESCORE_BATCH,
                },
            ).all()
            for row in rows:
                facts = merge_facts(
                    ProductContent.model_validate(row.content),
                    Analysis.model_validate(row.analysis),
                    images_used=row.images_used,
                )
                squor = score(facts, policy)
                _store(connection, squor, product_id=row.product_id, analysis_id=row.analysis_id, is_current=True)
                connection.execute(
                    queries["update_search_grade"],
                    {"product_id": row.product_id, "grade": squor.grade, "overall": squor.overall},
                )
        if not rows:
            return rescored
        after, rescored = rows[-1].product_id, rescored + len(rows)
        if on_progress:
            on_progress(rescored)
