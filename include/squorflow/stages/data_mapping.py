"""Stage 4: merges page and analysis into facts, and keeps them in the versioned fact tables.

A fact table gets a new row only when that fact changed. A workflow that is overtaken by a newer crawl of its product
keeps its analysis and leaves the facts alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from squorflow.postgres.queries import load
from squorflow.products.facts import AllergenFinding, Analysis, ProductContent, ProductFacts
from squorflow.products.merging import merge_facts
from squorflow.stages.context import JsonObject, StageContext, StageResult
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection


def run(context: StageContext) -> StageResult:
    """Merge content and analysis; write the analysis and whatever facts changed."""
    found, enriched = context.outputs[Stage.DISCOVERY], context.outputs[Stage.ENRICHMENT]
    facts = merge_facts(
        ProductContent.model_validate(found["content"]),
        Analysis.model_validate(enriched["analysis"]),
        images_used=enriched["images_used"],
    )

    def write(connection: Connection) -> JsonObject:
        return _write(connection, facts, found=found, enriched=enriched)

    return StageResult(
        summary=(
            f"{len(facts.analysis.ingredients)} ingredients, {len(facts.analysis.substances)} known substances, "
            f"{len(facts.conflicts)} conflicts, confidence {facts.confidence:.2f}"
        ),
        output={"facts": facts.model_dump(mode="json")},
        write=write,
    )


def _write(connection: Connection, facts: ProductFacts, *, found: JsonObject, enriched: JsonObject) -> JsonObject:
    queries = load("data_mapping")
    product = {"product_id": found["product_id"]}
    version = {"product_version_id": found["product_version_id"]}
    is_current = connection.execute(queries["lock_product"], product | version).scalar_one()
    analysis = _canonical(enriched["analysis"])
    analysis_id = connection.execute(
        queries["record_analysis"],
        version
        | {
            "model_used": enriched["model_used"],
            "prompt_version": enriched["prompt_version"],
            "images_used": facts.images_used,
            "answer_hash": _hash(analysis),
            "analysis": analysis,
        },
    ).scalar_one()
    if is_current:
        common = product | {"analysis_id": analysis_id, "confidence": facts.confidence}
        for query, fact in _facts_by_table(facts).items():
            connection.execute(queries[query], common | fact | {"fact_hash": _hash(_canonical(fact))})
    return {"analysis_id": str(analysis_id), "is_current": is_current}


def _facts_by_table(facts: ProductFacts) -> dict[str, dict[str, Any]]:
    """Return the columns of each fact table, by the query that records them."""
    analysis = facts.analysis
    return {
        "record_ingredients": {
            "ingredients": _dump(analysis.ingredients),
            "substances": _dump(analysis.substances),
            "additives": sorted({one.e_number for one in analysis.substances if one.e_number}),
            "language": analysis.language,
        },
        "record_nutrition": {
            "nutrition": _canonical(facts.nutrition.model_dump(mode="json")),
            "serving_size": facts.content.serving_size,
            "conflicts": _dump(facts.conflicts),
        },
        "record_allergens": {
            "contains": _allergens(analysis.allergens),
            "declared": _allergens(analysis.allergens_declared),
            "may_contain": _allergens(analysis.may_contain),
            "evidence": _dump((*analysis.allergens, *analysis.allergens_declared, *analysis.may_contain)),
        },
        "record_claims": {"claims": _dump(analysis.claims)},
        "record_certifications": {
            "certifications": sorted({one.certification.value for one in analysis.certifications}),
            "evidence": _dump(analysis.certifications),
        },
    }


def _allergens(findings: Sequence[AllergenFinding]) -> list[str]:
    return sorted({finding.allergen.value for finding in findings})


def _dump(models: Sequence[Any]) -> str:
    return _canonical([model.model_dump(mode="json") for model in models])


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
