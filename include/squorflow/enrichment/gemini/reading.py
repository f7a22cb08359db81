"""What Gemini may say about a product, as a model of ours and as the response schema made from it.

Owns form: types, ranges, words, lengths. What of it is believed is `grounding`.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from squorflow.products.facts import Allergen, Certification, ClaimKind


class PageField(StrEnum):
    """Where a quote stands: the fields of `ProductContent` that hold words, and the photos."""

    NAME = "name"
    DESCRIPTION = "description"
    INGREDIENTS_TEXT = "ingredients_text"
    LABELS = "labels"
    ALLERGENS_DECLARED = "allergens_declared"
    MAY_CONTAIN = "may_contain"
    PACKAGING = "packaging"
    ORIGINS = "origins"
    IMAGE = "image"


class Said(BaseModel):
    """The base of what Gemini says: wrong types are an error, and what was not asked for is not read."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


Quote = Annotated[str, Field(min_length=1, max_length=500)]
FieldName = Annotated[PageField, Field(strict=False)]
"""Words of a fixed list come as text, which strict models would not take for a member."""


class SaidSubstance(Said):
    """A substance, by number where it has one."""

    name: Annotated[str, Field(max_length=100)]
    e_number: Annotated[str, Field(max_length=10)] | None = None
    quote: Quote
    field: FieldName


class SaidAllergen(Said):
    """An allergen."""

    allergen: Annotated[Allergen, Field(strict=False)]
    quote: Quote
    field: FieldName


class SaidCertification(Said):
    """A certificate or mark."""

    certification: Annotated[Certification, Field(strict=False)]
    quote: Quote
    field: FieldName


class SaidClaim(Said):
    """A claim."""

    claim: Annotated[ClaimKind, Field(strict=False)]
    quote: Quote
    field: FieldName


Grams = Annotated[float, Field(ge=0, le=100)]


class SaidNutrition(Said):
    """Values per 100 g or 100 ml that photos show; units as in `Nutrition`."""

    energy_kcal: Annotated[float, Field(ge=0, le=900)] | None = None
    fat_g: Grams | None = None
    saturated_fat_g: Grams | None = None
    carbohydrate_g: Grams | None = None
    sugar_g: Grams | None = None
    fiber_g: Grams | None = None
    protein_g: Grams | None = None
    sodium_mg: Annotated[float, Field(ge=0, le=40_000)] | None = None


class GeminiReading(Said):
    """One answer."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] | None = None
    substances: Annotated[list[SaidSubstance], Field(max_length=200)]
    allergens: Annotated[list[SaidAllergen], Field(max_length=100)]
    allergens_declared: Annotated[list[SaidAllergen], Field(max_length=100)]
    may_contain: Annotated[list[SaidAllergen], Field(max_length=100)]
    certifications: Annotated[list[SaidCertification], Field(max_length=100)]
    claims: Annotated[list[SaidClaim], Field(max_length=100)]
    image_ingredients: Annotated[str, Field(max_length=20_000)] | None = None
    image_nutrition: SaidNutrition | None = None
    confidence: Annotated[float, Field(ge=0, le=1)]


@cache
def response_schema() -> dict[str, Any]:
    """Return the schema in Gemini's dialect: a subset of OpenAPI without references, unions or bounds.

    Bounds are checked when the answer is read. Do not change what is returned; it is made once a process.
    """
    schema = GeminiReading.model_json_schema()
    translated: dict[str, Any] = _translate(schema, schema.get("$defs", {}))
    return translated


def _translate(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return _translate(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in node:
        (some,) = [one for one in node["anyOf"] if one.get("type") != "null"]
        return _translate(some, definitions) | {"nullable": True}
    kind = node["type"]
    out: dict[str, Any] = {"type": kind.upper()}
    if "enum" in node:
        out |= {"format": "enum", "enum": list(node["enum"])}
    if kind == "array":
        out["items"] = _translate(node["items"], definitions)
    if kind == "object":
        out["properties"] = {name: _translate(one, definitions) for name, one in node["properties"].items()}
        # Everything is asked for, so that leaving something out is a decision and not an oversight.
        out["required"] = list(node["properties"])
    return out
