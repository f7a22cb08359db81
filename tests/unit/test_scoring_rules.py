"""Every line of the rules, on facts made by hand: first version unless a test says otherwise."""

from __future__ import annotations

from decimal import Decimal

import pytest

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
from squorflow.scoring import MISSING, POLICY, Component, Factor, Policy, SquorScore, load_policies, score

FIRST, SECOND = load_policies()

PLAIN = Nutrition(
    sugar_g=Decimal(1), fat_g=Decimal(7), saturated_fat_g=Decimal("1.2"), sodium_mg=Decimal(5), fiber_g=Decimal(10)
)


def substance(name: str, *kinds: SubstanceKind) -> Substance:
    evidence = Evidence(text=name.replace("_", " "), source=Source.INGREDIENTS)
    return Substance(substance=name, kinds=kinds, evidence=evidence)


def allergens(*names: Allergen, source: Source = Source.INGREDIENTS) -> tuple[AllergenFinding, ...]:
    return tuple(AllergenFinding(allergen=name, evidence=Evidence(text=name.value, source=source)) for name in names)


def certificates(*names: Certification) -> tuple[CertificationFinding, ...]:
    return tuple(
        CertificationFinding(certification=name, evidence=Evidence(text=name.value, source=Source.LABEL))
        for name in names
    )


def claims(*kinds: ClaimKind) -> tuple[ClaimFinding, ...]:
    return tuple(ClaimFinding(claim=kind, evidence=Evidence(text=kind.value, source=Source.LABEL)) for kind in kinds)


def made_of(*texts: str) -> tuple[Ingredient, ...]:
    return tuple(Ingredient(position=position, text=text) for position, text in enumerate(texts, 1))


def facts(
    *, content: dict | None = None, nutrition: Nutrition = PLAIN, confidence: float = 1.0, **analysis: object
) -> ProductFacts:
    return ProductFacts(
        content=ProductContent(**{"name": "Rolled oats"} | (content or {})),
        analysis=Analysis(**{"ingredients": made_of("whole grain oats")} | analysis),
        nutrition=nutrition,
        confidence=confidence,
    )


def factors(result: SquorScore) -> dict[str, Factor]:
    return {factor.rule: factor for part in result.components for factor in part.factors}


def points(rule: str, given: ProductFacts, *, policy: Policy = FIRST) -> Decimal:
    """Give a rule's points, 0 where it did not apply."""
    factor = factors(score(given, policy)).get(rule)
    return factor.points if factor else Decimal(0)


BANNED, HIGH_CONCERN, ARTIFICIAL, PRESERVATIVE, PROCESSED, PALM = (
    SubstanceKind.BANNED,
    SubstanceKind.HIGH_CONCERN,
    SubstanceKind.ARTIFICIAL,
    SubstanceKind.PRESERVATIVE,
    SubstanceKind.ULTRA_PROCESSING,
    SubstanceKind.PALM_OIL,
)


def several(count: int, kind: SubstanceKind) -> tuple[Substance, ...]:
    return tuple(substance(f"substance_{number}", kind) for number in range(count))


@pytest.mark.parametrize(
    ("rule", "kind", "count", "expected"),
    [
        ("safety.banned", BANNED, 1, -25),
        ("safety.banned", BANNED, 3, -25),
        ("safety.high_concern", HIGH_CONCERN, 1, -3),
        ("safety.high_concern", HIGH_CONCERN, 5, -15),
        ("safety.high_concern", HIGH_CONCERN, 9, -15),
        ("quality.artificial", ARTIFICIAL, 2, -6),
        ("quality.artificial", ARTIFICIAL, 6, -15),
        ("quality.preservatives", PRESERVATIVE, 3, -6),
        ("quality.preservatives", PRESERVATIVE, 6, -10),
        ("quality.ultra_processing", PROCESSED, 8, -24),
        ("quality.ultra_processing", PROCESSED, 9, -25),
    ],
)
def test_substances_cost_points_each_up_to_a_cap(rule, kind, count, expected):
    assert points(rule, facts(substances=several(count, kind))) == expected


def test_a_substance_listed_twice_counts_once():
    twice = (substance("e102", HIGH_CONCERN), substance("e102", HIGH_CONCERN))
    assert points("safety.high_concern", facts(substances=twice)) == -3


def test_an_additive_of_no_concern_costs_nothing_in_the_first_version():
    given = facts(substances=(substance("e330", SubstanceKind.ADDITIVE),))
    assert points("safety.high_concern", given) == points("quality.artificial", given) == 0


def test_an_allergen_that_the_label_does_not_declare_costs_15_once():
    given = facts(
        allergens=allergens(Allergen.MILK, Allergen.EGG, Allergen.SOY), allergens_declared=allergens(Allergen.SOY)
    )
    factor = factors(score(given, FIRST))["safety.undeclared_allergen"]
    assert factor.points == -15
    assert "egg" in factor.evidence
    assert "soy" not in factor.evidence


def test_a_declared_allergen_costs_nothing():
    milk = allergens(Allergen.MILK)
    given = facts(allergens=milk, allergens_declared=milk)
    assert points("safety.undeclared_allergen", given) == points("safety.no_allergen_information", given) == 0


def test_no_allergen_information_at_all_costs_10():
    assert points("safety.no_allergen_information", facts()) == -10


def test_a_may_contain_list_is_allergen_information():
    assert points("safety.no_allergen_information", facts(may_contain=allergens(Allergen.PEANUT))) == 0


def test_an_undeclared_allergen_and_no_information_are_one_line_of_the_rules_not_two():
    given = facts(allergens=allergens(Allergen.MILK))
    assert points("safety.undeclared_allergen", given) == -15
    assert points("safety.no_allergen_information", given) == 0


@pytest.mark.parametrize(
    ("countries", "marks", "expected"),
    [
        (("India",), (Certification.ISO,), -15),
        (("en:india",), (Certification.ISO,), -15),
        (("INDIA", "Nepal"), (Certification.ISO,), -15),
        (("India",), (Certification.ISO, Certification.FSSAI), 0),
        (("Indiana",), (Certification.ISO,), 0),
        (("France",), (Certification.ISO,), 0),
        ((), (Certification.ISO,), 0),
        (("India",), (), 0),
    ],
)
def test_fssai_is_asked_for_only_where_it_is_law(countries, marks, expected):
    given = facts(content={"countries": countries}, certifications=certificates(*marks))
    assert points("safety.no_fssai", given) == expected


def test_no_certification_information_costs_20():
    assert points("safety.no_certification_information", facts()) == -20


def test_a_label_without_a_known_certificate_is_still_certification_information():
    assert points("safety.no_certification_information", facts(content={"labels": ("No added sugar",)})) == 0


@pytest.mark.parametrize(
    ("category", "expected"), [("Frozen pizzas", -5), ("Salted snacks", 0), ("Eggplants", 0), (None, 0)]
)
def test_a_category_that_needs_a_storage_note_costs_5_without_one(category, expected):
    assert points("safety.no_warning", facts(content={"category": category})) == expected


def test_a_storage_note_settles_the_warning():
    given = facts(content={"category": "Frozen pizzas"}, claims=claims(ClaimKind.STORAGE))
    assert points("safety.no_warning", given) == 0


@pytest.mark.parametrize(
    ("rule", "field", "limit", "expected"),
    [
        ("quality.sugar", "sugar_g", "22.5", -8),
        ("quality.fat", "fat_g", "17.5", -8),
        ("quality.sodium", "sodium_mg", "600", -9),
    ],
)
def test_nutrients_cost_points_strictly_above_their_limit(rule, field, limit, expected):
    at_limit = PLAIN.model_copy(update={field: Decimal(limit)})
    above = PLAIN.model_copy(update={field: Decimal(limit) + Decimal("0.01")})
    assert points(rule, facts(nutrition=at_limit)) == 0
    assert points(rule, facts(nutrition=above)) == expected


def test_quality_marks_add_5_each_at_most_10():
    marks = certificates(Certification.ISO, Certification.HACCP, Certification.GMP)
    assert points("quality.certified", facts(certifications=marks, substances=several(9, PROCESSED))) == 10


def test_quality_is_never_above_100_and_the_clamp_is_a_factor():
    result = score(facts(certifications=certificates(Certification.ISO)), FIRST)
    assert result.component(Component.QUALITY).score == 100
    clamp = factors(result)["quality.clamp"]
    assert (clamp.points, clamp.source) == (-5, POLICY)


def test_a_full_label_earns_full_usability():
    given = facts(
        content={"serving_size": "40 g"},
        allergens_declared=allergens(Allergen.GLUTEN, source=Source.ALLERGEN_LIST),
        may_contain=allergens(Allergen.PEANUT, source=Source.MAY_CONTAIN),
    )
    found = factors(score(given, FIRST))
    assert {rule: found[rule].points for rule in found if rule.startswith("usability.")} == {
        "usability.allergens_declared": 15,
        "usability.may_contain": 10,
        "usability.both_panels": 10,
        "usability.serving_size": 5,
        "usability.plain_name": 5,
        "usability.clamp": -15,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Rolled oats", 5),
        ("Pure oats", 0),
        ("NATURAL oats", 0),
        ("Oats purée", 5),
        ("o" * 99, 5),
        ("o" * 100, 0),
    ],
)
def test_a_plain_name_is_short_and_uses_no_advertising_word(name, expected):
    assert points("usability.plain_name", facts(content={"name": name})) == expected


@pytest.mark.parametrize(
    ("content", "made"),
    [
        ({"origins": ("Kerala",)}, {}),
        ({"manufacturing_places": ("Lyon",)}, {}),
        ({}, {"claims": claims(ClaimKind.ORIGIN)}),
    ],
)
def test_a_named_origin_earns_15_on_the_start_of_50(content, made):
    result = score(facts(content=content, **made), FIRST)
    assert result.component(Component.ORIGIN).score == 65


def test_free_from_is_no_origin():
    assert score(facts(claims=claims(ClaimKind.FREE_FROM)), FIRST).component(Component.ORIGIN).score is None


def test_organic_and_fair_trade_earn_20_once_each():
    marks = certificates(
        Certification.EU_ORGANIC, Certification.USDA_ORGANIC, Certification.FAIRTRADE, Certification.UTZ
    )
    assert score(facts(certifications=marks), FIRST).component(Component.ORIGIN).score == 90


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({}, "55"),
        ({"substances": several(1, PALM)}, "30"),
        ({"substances": several(1, PALM), "claims": claims(ClaimKind.SUSTAINABLE_PALM)}, "50"),
        ({"substances": several(1, PALM), "certifications": certificates(Certification.RSPO)}, "54"),
        ({"substances": several(1, PALM), "claims": claims(ClaimKind.FREE_FROM)}, "30"),
        ({"claims": claims(ClaimKind.RECYCLABLE, ClaimKind.COMPOSTABLE)}, "65"),
        ({"certifications": certificates(Certification.GREEN_DOT)}, "69"),
        ({"certifications": certificates(*list(Certification)[:9])}, "75"),
    ],
)
def test_responsibility_follows_palm_oil_packaging_and_marks(made, expected):
    assert score(facts(**made), FIRST).component(Component.RESPONSIBILITY).score == Decimal(expected)


def test_no_palm_oil_earns_nothing_where_the_ingredients_are_unknown():
    given = facts(ingredients=(), content={"packaging": ("Glass",)})
    assert score(given, FIRST).component(Component.RESPONSIBILITY).score == 40


def test_a_component_about_which_nothing_is_known_is_null_and_says_what_is_missing():
    origin = score(facts(), FIRST).component(Component.ORIGIN)
    assert (origin.score, origin.start, origin.factors) == (None, 0, ())
    assert origin.missing == ("the place of origin", "certificates and marks")


def test_a_name_alone_earns_no_usability():
    empty = facts(ingredients=(), nutrition=Nutrition())
    result = score(empty, FIRST)
    assert [part.score for part in result.components] == [None] * 5
    assert (result.overall, result.grade, result.confidence) == (None, None, 0)
    assert "the list of ingredients" in result.missing


def test_flags_name_the_components_below_their_limits():
    assert score(facts(substances=several(9, BANNED)), FIRST).flags == (Component.SAFETY,)


def test_a_null_component_is_not_flagged():
    assert Component.ORIGIN not in score(facts(), FIRST).flags


def test_a_missing_fact_says_that_it_is_missing():
    factor = factors(score(facts(), FIRST))["safety.no_certification_information"]
    assert (factor.source, factor.evidence) == (MISSING, "not known: certificates and marks")


def test_a_factor_quotes_the_words_and_says_where_they_stand():
    factor = factors(score(facts(substances=(substance("sodium_benzoate", HIGH_CONCERN),)), FIRST))[
        "safety.high_concern"
    ]
    assert (factor.evidence, factor.source) == ("“sodium benzoate”", Source.INGREDIENTS)
    assert factor.sub_metric == "toxicology"


def test_a_capped_factor_says_so():
    factor = factors(score(facts(substances=several(9, HIGH_CONCERN)), FIRST))["safety.high_concern"]
    assert factor.evidence.endswith("(limited to -15 of -27)")


def test_evidence_is_cut_to_what_a_factor_may_hold():
    long = tuple(
        Substance(
            substance=f"substance_{number}",
            kinds=(HIGH_CONCERN,),
            evidence=Evidence(text="x" * 400, source=Source.INGREDIENTS),
        )
        for number in range(9)
    )
    factor = factors(score(facts(substances=long), FIRST))["safety.high_concern"]
    assert len(factor.evidence) == 500
    assert factor.evidence.endswith("(limited to -15 of -27)")


def test_a_component_is_found_by_its_name():
    result = score(facts(), FIRST)
    assert result.component("safety") == result.component(Component.SAFETY)


def test_the_heaviest_factor_weighs_by_component():
    given = facts(
        content={"labels": ("Kosher",)},
        allergens_declared=allergens(Allergen.GLUTEN),
        substances=(*several(1, BANNED), *several(9, PALM)),
    )
    assert score(given, FIRST).heaviest_factor().rule == "safety.banned"


def test_a_limit_is_never_the_heaviest_factor():
    sweet = PLAIN.model_copy(update={"sugar_g": Decimal(90), "sodium_mg": Decimal(9000), "fat_g": Decimal(50)})
    heaviest = score(facts(nutrition=sweet), SECOND).heaviest_factor()
    assert heaviest.rule == "quality.sugar"


def test_where_nothing_is_assessed_nothing_weighed_most():
    assert score(facts(ingredients=(), nutrition=Nutrition()), FIRST).heaviest_factor() is None


def test_confidence_follows_that_of_the_facts():
    certain, doubtful = score(facts(confidence=1.0), FIRST), score(facts(confidence=0.5), FIRST)
    assert doubtful.confidence == certain.confidence / 2


def test_the_second_version_gives_no_overall_without_ingredients():
    given = facts(ingredients=(), content={"labels": ("Kosher",), "origins": ("France",), "serving_size": "10 g"})
    assert score(given, SECOND).assessed_weight >= SECOND.minimum_assessed
    assert score(given, SECOND).overall is None


def test_the_second_version_takes_the_containing_nutrient_for_an_unknown_one():
    low_fat = Nutrition(sugar_g=Decimal(1), fat_g=Decimal("0.2"), sodium_mg=Decimal(5))
    assert points("quality.saturated_fat", facts(nutrition=low_fat), policy=SECOND) == 0


def test_the_second_version_charges_an_unknown_nutrient_as_the_worst():
    unknown = Nutrition(fat_g=Decimal(7), sodium_mg=Decimal(5))
    assert points("quality.sugar", facts(nutrition=unknown), policy=SECOND) == -50


def test_the_second_version_asks_where_a_certified_product_is_sold():
    given = facts(certifications=certificates(Certification.ISO))
    assert points("safety.sold_where_unknown", given, policy=SECOND) == -10


def test_the_second_version_takes_at_most_half_of_quality_for_nutrition():
    worst = Nutrition(sugar_g=Decimal(90), fat_g=Decimal(50), saturated_fat_g=Decimal(30), sodium_mg=Decimal(9000))
    result = score(facts(nutrition=worst), SECOND)
    assert result.component(Component.QUALITY).score == 50
    assert factors(result)["quality.nutrition_limit"].source == POLICY


@pytest.mark.parametrize(("count", "expected"), [(5, 0), (6, -5), (13, -12), (26, -20)])
def test_the_second_version_counts_a_long_list_against_readability(count, expected):
    given = facts(ingredients=made_of(*["flour"] * count))
    assert points("usability.long_list", given, policy=SECOND) == expected


def test_the_second_version_warns_of_excess_within_a_limit():
    worst = Nutrition(sugar_g=Decimal(90), fat_g=Decimal(50), saturated_fat_g=Decimal(30), sodium_mg=Decimal(9000))
    safety = score(facts(nutrition=worst), SECOND).component(Component.SAFETY)
    plain = score(facts(), SECOND).component(Component.SAFETY)
    assert plain.score - safety.score == 20


def test_the_second_version_grades_plain_oats_best_and_azo_candy_worst():
    oats = facts(
        content={"category": "Rolled oats", "serving_size": "40 g"},
        allergens=allergens(Allergen.GLUTEN),
        allergens_declared=allergens(Allergen.GLUTEN),
    )
    azo = [substance(name, HIGH_CONCERN, ARTIFICIAL, SubstanceKind.ADDITIVE) for name in ("e102", "e110", "e129")]
    candy = facts(
        content={"name": "Rainbow candy"},
        nutrition=Nutrition(sugar_g=Decimal(80), fat_g=Decimal(5), saturated_fat_g=Decimal(4), sodium_mg=Decimal(50)),
        ingredients=made_of("sugar", "glucose syrup", "palm fat", "flavourings", "colours"),
        substances=(*azo, substance("palm_oil", PALM), substance("flavouring", PROCESSED)),
    )
    assert score(oats, SECOND).grade == "A"
    assert score(candy, SECOND).overall < 30
