from __future__ import annotations

from decimal import Decimal

import pytest

from squorflow.products.facts import (
    Analysis,
    Certification,
    CertificationFinding,
    Evidence,
    Nutrition,
    ProductContent,
    Source,
)
from squorflow.products.merging import merge_facts, tolerance

FULL = ProductContent(
    name="Cookies",
    brand="Bonbon",
    category="Biscuits",
    gtin="4006381333931",
    ingredients_text="Wheat flour, sugar",
    labels=("Organic",),
    allergens_declared=("wheat",),
    packaging=("Box",),
    origins=("France",),
    nutrition=Nutrition(
        energy_kcal=480, fat_g=22, saturated_fat_g=10, carbohydrate_g=60, sugar_g=31, fiber_g=3, protein_g=6,
        sodium_mg=360,
    ),
)  # fmt: skip
ANALYSIS = Analysis(confidence=0.8)


def test_the_labels_nutrition_wins():
    content = ProductContent(name="x", nutrition=Nutrition(fat_g=Decimal(22)))

    facts = merge_facts(content, Analysis(nutrition=Nutrition(fat_g=Decimal(3))), images_used=0)

    assert facts.nutrition.fat_g == Decimal(22)


def test_the_analysis_fills_the_labels_gaps():
    content = ProductContent(name="x", nutrition=Nutrition(fat_g=Decimal(22)))

    facts = merge_facts(content, Analysis(nutrition=Nutrition(sugar_g=Decimal(5))), images_used=0)

    assert facts.nutrition == Nutrition(fat_g=Decimal(22), sugar_g=Decimal(5))


def test_values_that_disagree_become_a_conflict_that_names_both():
    content = ProductContent(name="x", nutrition=Nutrition(fat_g=Decimal(22)))

    (conflict,) = merge_facts(content, Analysis(nutrition=Nutrition(fat_g=Decimal(3))), images_used=0).conflicts

    assert (conflict.field, conflict.label, conflict.analysis) == ("nutrition.fat_g", "22", "3")


def test_values_that_differ_by_rounding_are_no_conflict():
    content = ProductContent(name="x", nutrition=Nutrition(fat_g=Decimal("22.4"), sodium_mg=Decimal(400)))
    analysis = Analysis(nutrition=Nutrition(fat_g=Decimal(22), sodium_mg=Decimal("393.7")))

    assert merge_facts(content, analysis, images_used=0).conflicts == ()


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("fat_g", "5", "1.5"),
        ("sugar_g", "5", "2"),
        ("sugar_g", "20", "4"),
        ("carbohydrate_g", "60", "8"),
        ("saturated_fat_g", "2", "0.8"),
        ("saturated_fat_g", "10", "2"),
        ("sodium_mg", "300", "150"),
        ("sodium_mg", "1000", "200"),
        ("energy_kcal", "20", "10"),
        ("energy_kcal", "400", "80"),
    ],
)
def test_the_tolerance_is_the_guidances(field, value, allowed):
    assert tolerance(field, Decimal(value)) == Decimal(allowed)


@pytest.mark.parametrize(
    "missing",
    ["brand", "category", "gtin", "ingredients_text", "labels", "allergens_declared", "packaging", "origins",
     "nutrition"],
)  # fmt: skip
def test_confidence_falls_with_every_missing_input(missing):
    default = ProductContent.model_fields[missing].get_default()
    poorer = FULL.model_copy(update={missing: default})

    assert (
        merge_facts(poorer, ANALYSIS, images_used=1).confidence < merge_facts(FULL, ANALYSIS, images_used=1).confidence
    )


def test_confidence_falls_without_an_image():
    assert merge_facts(FULL, ANALYSIS, images_used=0).confidence < merge_facts(FULL, ANALYSIS, images_used=1).confidence


def test_confidence_falls_with_a_conflict():
    doubted = ANALYSIS.model_copy(update={"nutrition": Nutrition(fat_g=Decimal(1))})

    assert merge_facts(FULL, doubted, images_used=1).confidence < merge_facts(FULL, ANALYSIS, images_used=1).confidence


def test_nothing_known_is_no_confidence():
    assert merge_facts(ProductContent(name="x"), Analysis(), images_used=0).confidence == 0


def test_everything_known_is_full_confidence():
    assert merge_facts(FULL, Analysis(confidence=1.0), images_used=1).confidence == 1


def test_the_facts_are_the_same_again_from_stored_content_and_analysis():
    analysis = Analysis(
        certifications=(
            CertificationFinding(
                certification=Certification.KOSHER, evidence=Evidence(text="Kosher", source=Source.LABEL)
            ),
        ),
        nutrition=Nutrition(fat_g=Decimal("3.5")),
        confidence=0.5,
    )

    stored = FULL.model_dump(mode="json"), analysis.model_dump(mode="json")
    again = merge_facts(ProductContent.model_validate(stored[0]), Analysis.model_validate(stored[1]), images_used=2)

    assert again == merge_facts(FULL, analysis, images_used=2)
