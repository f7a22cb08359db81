"""What holds for every product: factors add up, a hidden fact never pays (second version), confidence falls.

"Hiding" removes whole groups of inputs, as a page that does not say so would. What exactly is promised:
a component never rises; with the same components assessed the overall never rises; where hiding leaves a component
unassessed, the overall is at most what the components that stay assessed had scored with nothing hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squorflow.products.facts import (
    Allergen,
    AllergenFinding,
    Analysis,
    Certification,
    CertificationFinding,
    ClaimFinding,
    ClaimKind,
    Evidence,
    Ingredient,
    Nutrition,
    ProductContent,
    ProductFacts,
    Source,
    Substance,
    SubstanceKind,
)
from squorflow.scoring import Component, SquorScore, combine, known_inputs, load_policies, score

FIRST, SECOND = load_policies()
POLICIES = pytest.mark.parametrize("policy", load_policies(), ids=lambda policy: policy.version)

words = st.sampled_from(["milk", "sugar", "India", "Frozen pizzas", "Made in Italy", "contains", "x" * 300])
evidence = st.builds(Evidence, text=words, source=st.sampled_from(Source))


def amounts(top: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(min_value=0, max_value=top, places=1)


def few(items: st.SearchStrategy, most: int = 4) -> st.SearchStrategy[tuple]:
    return st.lists(items, max_size=most).map(tuple)


@st.composite
def nutrition_tables(draw: st.DrawFn) -> Nutrition:
    """Draw a table whose parts do not exceed their whole, with values missing here and there."""
    fat, carbohydrate = draw(amounts(100)), draw(amounts(100))
    values = {
        "fat_g": fat,
        "saturated_fat_g": fat * draw(amounts(1)),
        "carbohydrate_g": carbohydrate,
        "sugar_g": carbohydrate * draw(amounts(1)),
        "sodium_mg": draw(amounts(2000)),
    }
    hidden = draw(st.sets(st.sampled_from(sorted(values))))
    return Nutrition(**{name: value for name, value in values.items() if name not in hidden})


contents = st.builds(
    ProductContent,
    name=st.sampled_from(["Oats", "Pure oats", "o" * 120]),
    category=st.none() | words,
    serving_size=st.none() | st.just("30 g"),
    labels=few(words),
    allergens_declared=few(words),
    may_contain=few(words),
    packaging=few(words),
    origins=few(words),
    manufacturing_places=few(words),
    countries=few(st.sampled_from(["India", "France", "en:india"])),
)
analyses = st.builds(
    Analysis,
    ingredients=few(st.builds(Ingredient, position=st.just(1), text=words)),
    substances=few(
        st.builds(
            Substance,
            substance=st.sampled_from([f"substance_{number}" for number in range(20)]),
            kinds=few(st.sampled_from(SubstanceKind), most=3),
            evidence=evidence,
        ),
        most=12,
    ),
    allergens=few(st.builds(AllergenFinding, allergen=st.sampled_from(Allergen), evidence=evidence)),
    allergens_declared=few(st.builds(AllergenFinding, allergen=st.sampled_from(Allergen), evidence=evidence)),
    may_contain=few(st.builds(AllergenFinding, allergen=st.sampled_from(Allergen), evidence=evidence)),
    certifications=few(
        st.builds(CertificationFinding, certification=st.sampled_from(Certification), evidence=evidence)
    ),
    claims=few(st.builds(ClaimFinding, claim=st.sampled_from(ClaimKind), evidence=evidence)),
)
products = st.builds(
    ProductFacts,
    content=contents,
    analysis=analyses,
    nutrition=nutrition_tables(),
    confidence=st.floats(min_value=0.1, max_value=1),
)


def without(
    given_facts: ProductFacts, *, content: dict | None = None, analysis: dict | None = None, **top: object
) -> ProductFacts:
    update = {
        "content": given_facts.content.model_copy(update=content or {}),
        "analysis": given_facts.analysis.model_copy(update=analysis or {}),
    }
    return given_facts.model_copy(update=update | top)


def hide_ingredients(facts: ProductFacts) -> ProductFacts:
    """Hide the list, all that was read out of it, and findings that stand in it."""

    def elsewhere(findings: tuple) -> tuple:
        return tuple(finding for finding in findings if finding.evidence.source is not Source.INGREDIENTS)

    found = facts.analysis
    return without(
        facts,
        content={"ingredients_text": None},
        analysis={
            "ingredients": (),
            "substances": (),
            "allergens": (),
            "allergens_declared": elsewhere(found.allergens_declared),
            "may_contain": elsewhere(found.may_contain),
            "certifications": elsewhere(found.certifications),
            "claims": elsewhere(found.claims),
        },
    )


def hide_nutrient(name: str) -> Callable[[ProductFacts], ProductFacts]:
    return lambda facts: without(facts, nutrition=facts.nutrition.model_copy(update={name: None}))


HIDING: dict[str, Callable[[ProductFacts], ProductFacts]] = {
    "ingredients": hide_ingredients,
    "nutrition": lambda facts: without(facts, nutrition=Nutrition()),
    "allergens": lambda facts: without(
        facts,
        content={"allergens_declared": (), "may_contain": ()},
        analysis={"allergens_declared": (), "may_contain": ()},
    ),
    "certificates": lambda facts: without(facts, content={"labels": ()}, analysis={"certifications": ()}),
    "claims": lambda facts: without(facts, analysis={"claims": ()}),
    "countries": lambda facts: without(facts, content={"countries": ()}),
    "category": lambda facts: without(facts, content={"category": None}),
    "origin": lambda facts: without(facts, content={"origins": (), "manufacturing_places": ()}),
    "packaging": lambda facts: without(facts, content={"packaging": ()}),
    "serving size": lambda facts: without(facts, content={"serving_size": None}),
    "sugar": hide_nutrient("sugar_g"),
    "carbohydrate": hide_nutrient("carbohydrate_g"),
    "fat": hide_nutrient("fat_g"),
    "saturated fat": hide_nutrient("saturated_fat_g"),
    "sodium": hide_nutrient("sodium_mg"),
}

hidings = st.sets(st.sampled_from(sorted(HIDING)), min_size=1, max_size=4)


def hide(facts: ProductFacts, groups: set[str]) -> ProductFacts:
    for group in sorted(groups):
        facts = HIDING[group](facts)
    return facts


def scores(result: SquorScore) -> dict[Component, Decimal]:
    return {part.component: part.score for part in result.components if part.score is not None}


@POLICIES
@given(facts=products)
@settings(deadline=None)
def test_start_and_factors_add_up_to_exactly_the_component_score(facts, policy):
    for part in score(facts, policy).components:
        total = part.start + sum(factor.points for factor in part.factors)
        assert total == (part.score if part.score is not None else 0)
        assert 0 <= total <= 100


@POLICIES
@given(facts=products)
@settings(deadline=None)
def test_every_factor_names_its_component_its_evidence_and_a_rule_of_its_own(facts, policy):
    for part in score(facts, policy).components:
        assert len({factor.rule for factor in part.factors}) == len(part.factors)
        for factor in part.factors:
            assert factor.rule.startswith(f"{part.component}.")
            assert factor.evidence
            assert factor.points != 0


@POLICIES
@given(facts=products)
@settings(deadline=None)
def test_a_score_survives_its_way_through_json(facts, policy):
    result = score(facts, policy)
    assert SquorScore.model_validate_json(result.model_dump_json()) == result


@POLICIES
@given(facts=products)
@settings(deadline=None)
def test_rating_and_grade_stand_exactly_where_an_overall_stands(facts, policy):
    result = score(facts, policy)
    assert (result.overall is None) == (result.rating is None) == (result.grade is None)
    assert result.overall is None or result.assessed_weight >= policy.minimum_assessed


@POLICIES
@given(facts=products, groups=hidings)
@settings(deadline=None)
def test_confidence_falls_with_every_missing_input(facts, groups, policy):
    poorer = hide(facts, groups)
    lost = [name for name in known_inputs(facts) if name not in known_inputs(poorer) and name in policy.confidence]
    before, after = score(facts, policy).confidence, score(poorer, policy).confidence
    assert after < before if lost else after == before


@given(facts=products, groups=hidings)
@settings(deadline=None, max_examples=400)
def test_hiding_facts_never_raises_a_component(facts, groups):
    before, after = scores(score(facts, SECOND)), scores(score(hide(facts, groups), SECOND))
    assert after.keys() <= before.keys()
    assert {name: after[name] for name in after if after[name] > before[name]} == {}


@given(facts=products, groups=hidings)
@settings(deadline=None, max_examples=400)
def test_hiding_facts_never_raises_the_overall_beyond_what_the_assessed_weights_explain(facts, groups):
    full, poorer = score(facts, SECOND), score(hide(facts, groups), SECOND)
    if poorer.overall is None:
        return
    before = scores(full)
    assert full.overall is not None
    explained = combine({name: before[name] for name in scores(poorer)}, SECOND)
    assert poorer.overall <= explained.overall
    if poorer.assessed_weight == full.assessed_weight:
        assert poorer.overall <= full.overall


@given(facts=products, groups=hidings)
@settings(deadline=None, max_examples=400)
def test_only_hiding_where_it_comes_from_can_leave_a_graded_product_with_less_assessed(facts, groups):
    full, poorer = score(facts, SECOND), score(hide(facts, groups), SECOND)
    if poorer.overall is not None:
        assert scores(full).keys() - scores(poorer).keys() <= {Component.ORIGIN}


@given(facts=products)
@settings(deadline=None)
def test_hiding_the_ingredients_leaves_no_grade(facts):
    assert score(hide_ingredients(facts), SECOND).grade is None


@given(facts=products)
@settings(deadline=None)
def test_an_overall_is_the_weighted_mean_of_what_was_assessed(facts):
    result = score(facts, FIRST)
    if result.overall is not None:
        assessed = scores(result)
        mean = sum(FIRST.weights[name] * value for name, value in assessed.items()) / result.assessed_weight
        assert result.overall == mean.quantize(Decimal("0.1"), rounding=ROUND_HALF_UP)
