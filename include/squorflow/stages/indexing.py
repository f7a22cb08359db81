"""Stage 6: keeps the product's search document in step with its facts and score, in the stage's own transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squorflow.postgres.queries import load
from squorflow.products.facts import ProductFacts
from squorflow.search import fold
from squorflow.stages.context import JsonObject, StageContext, StageResult
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection


def run(context: StageContext) -> StageResult:
    """Build the document from facts and score; write it when anything in it changed."""
    found, scored = context.outputs[Stage.DISCOVERY], context.outputs[Stage.SCORING]
    facts = ProductFacts.model_validate(context.outputs[Stage.DATA_MAPPING]["facts"])
    content = facts.content
    body = "\n".join(
        text for text in (content.ingredients_text, content.description, ", ".join(content.labels)) if text
    )
    document = {
        "product_id": found["product_id"],
        "product_version_id": found["product_version_id"],
        "name": content.name,
        "brand": content.brand,
        "category": content.category,
        "grade": scored["grade"],
        "overall": scored["overall"],
        "allergens": sorted(
            {one.allergen.value for one in (*facts.analysis.allergens, *facts.analysis.allergens_declared)}
        ),
        "body": body,
        "name_words": fold(content.name),
        "brand_words": fold(content.brand or ""),
        "category_words": fold(content.category or ""),
        "body_words": fold(body),
    }

    def write(connection: Connection) -> JsonObject:
        connection.execute(load("indexing")["index_product"], document)
        return {}

    return StageResult(summary=f"search document of {len(body)} characters", write=write)
