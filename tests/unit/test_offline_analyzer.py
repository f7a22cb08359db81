from __future__ import annotations

import sys
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squorflow.config import WorkflowConfig
from squorflow.enrichment import AnalysisRequest, choose_analyzer
from squorflow.enrichment.offline import OfflineAnalyzer, analyze_content
from squorflow.errors import Cancelled
from squorflow.products.facts import Analysis, Nutrition, ProductContent
from squorflow.stages.context import Cancellation

FRAGMENTS = st.sampled_from(
    ["may contain ", "free from ", "no ", "or ", "E322", "(", ")", "[", ", ", ". ", "_", "milk", "wheat ", "471",
     "contains: ", "sans ", "ingredients: ", "per 100 g fat 3 g ", "<b>", "&amp;", "\n", "٣٢٢", "ﬁ", "İ", "\u0345"]
)  # fmt: skip
HOSTILE = st.lists(FRAGMENTS | st.text(max_size=5), max_size=80).map("".join)


def analyse(**fields: object) -> Analysis:
    return analyze_content(ProductContent(**{"name": "Thing"} | fields))


def claims(analysis: Analysis) -> set[tuple[str, str]]:
    return {(found.claim.value, found.evidence.text) for found in analysis.claims}


def test_without_a_key_the_offline_analyser_is_chosen():
    assert choose_analyzer(WorkflowConfig()).name == "offline-rules/1"


def test_the_offline_analyser_uses_no_images():
    assert not OfflineAnalyzer().uses_images


def test_an_offline_answer_costs_nothing_and_says_what_made_it():
    request = AnalysisRequest(content=ProductContent(name="x", ingredients_text="sugar"))

    answer = OfflineAnalyzer().analyze(request, cancellation=Cancellation())

    assert answer.model_used == "offline-rules/1"
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cost_usd) == (0, 0, Decimal(0))
    assert answer.requests == 0


def test_a_cancelled_analysis_is_not_begun():
    cancellation = Cancellation()
    cancellation.cancel("stopped by a person")

    with pytest.raises(Cancelled, match="stopped by a person"):
        OfflineAnalyzer().analyze(AnalysisRequest(content=ProductContent(name="x")), cancellation=cancellation)


@given(text=HOSTILE)
@settings(deadline=None, max_examples=200)
def test_any_text_is_analysed_and_always_the_same_way(text):
    content = ProductContent(name="x", ingredients_text=text, description=text, labels=(text[:500],))

    assert analyze_content(content) == analyze_content(content)


@given(text=HOSTILE)
@settings(deadline=None, max_examples=200)
def test_an_analysis_survives_being_stored(text):
    analysis = analyze_content(ProductContent(name="x", ingredients_text=text))

    assert Analysis.model_validate_json(analysis.model_dump_json()) == analysis


def test_work_grows_with_the_text_and_not_with_its_square():
    def calls(length: int) -> int:
        count = 0

        def profile(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event in {"call", "c_call"}

        text = ("no a or may contain ( " * length)[:length]
        sys.setprofile(profile)
        try:
            analyse(ingredients_text=text)
        finally:
            sys.setprofile(None)
        return count

    calls(100)
    assert calls(16_000) < 3 * calls(8_000)


def test_nothing_to_read_is_nothing_found():
    analysis = analyse()

    assert analysis.ingredients == ()
    assert analysis.allergens == ()
    assert analysis.confidence == 0


def test_more_to_read_is_more_confidence():
    assert analyse(ingredients_text="Wheat flour, sugar and salt").confidence > analyse(description="Crisp").confidence


def test_illegible_text_is_less_confidence():
    clean = analyse(ingredients_text="Wheat flour, sugar and salt, sunflower oil")
    garbled = analyse(ingredients_text="W h§ 4} fl, s|| 9 %% and ~~ s_l_t, with ~ § $$ {{ ]] 00 ~~ ##")

    assert garbled.confidence < clean.confidence


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Wheat flour, sugar, salt and water", "en"),
        ("Farine de blé, sucre, sel, eau", "fr"),
        ("Weizenmehl, Zucker, Salz und Wasser", "de"),
        ("Harina de trigo, azúcar, sal, agua", "es"),
        ("Farina di frumento, zucchero, sale, acqua", "it"),
        ("Tarwebloem, suiker, zout en water", "nl"),
        ("Farinha de trigo, açúcar, sal, água", "pt"),
        ("Mąka pszenna, cukier, sól, woda", "pl"),
    ],
)
def test_the_language_is_recognised(text, language):
    assert analyse(ingredients_text=text).language == language


def test_a_language_that_nothing_tells_is_unknown():
    assert analyse(ingredients_text="Xyz qrs").language is None


def test_a_compound_ingredient_is_listed_with_its_parts():
    analysis = analyse(
        ingredients_text="Milk chocolate 27,5% (sugar, cocoa butter), whey (milk), emulsifier (E322), salt"
    )

    assert [(one.text, one.percent) for one in analysis.ingredients] == [
        ("Milk chocolate 27,5%", 27.5),
        ("sugar", None),
        ("cocoa butter", None),
        ("whey (milk)", None),
        ("emulsifier (E322)", None),
        ("salt", None),
    ]


def test_headings_and_statements_are_no_ingredients():
    analysis = analyse(ingredients_text="Ingredients: rice, salt. May contain nuts. Free from soy.")

    assert [one.text for one in analysis.ingredients] == ["rice", "salt"]


def test_ingredients_are_read_out_of_the_description_when_the_field_is_missing():
    analysis = analyse(description="A crisp thing. Ingredients: wheat flour, E322.")

    assert [one.text for one in analysis.ingredients] == ["wheat flour", "E322"]
    assert [one.allergen.value for one in analysis.allergens] == ["gluten"]


@pytest.mark.parametrize(
    ("fields", "claim"),
    [
        ({"labels": ("No gluten",)}, ("free_from", "No gluten")),
        ({"labels": ("Organic",)}, ("organic", "Organic")),
        ({"labels": ("Made in Italy",)}, ("origin", "Made in Italy")),
        ({"labels": ("French pork",)}, ("origin", "French pork")),
        ({"labels": ("Sustainable Palm Oil",)}, ("sustainable_palm", "Sustainable Palm Oil")),
        ({"labels": ("Never heard of",)}, ("other", "Never heard of")),
        ({"labels": ("No added sugar",)}, ("nutrition", "No added sugar")),
        ({"description": "Produit en France"}, ("origin", "Produit en France")),
        ({"description": "Keep refrigerated after use"}, ("storage", "Keep refrigerated")),
        ({"description": "À conserver au frais"}, ("storage", "À conserver")),
        ({"description": "Shake well"}, ("usage", "Shake well")),
        ({"description": "Contains a source of phenylalanine"}, ("warning", "Contains a source of phenylalanine")),
        ({"description": "Glutenfrei"}, ("free_from", "Glutenfrei")),
        ({"packaging": ("Recyclable Metals",)}, ("recyclable", "Recyclable")),
        ({"packaging": ("100% compostable bag",)}, ("compostable", "compostable")),
        ({"origins": ("Germany",)}, ("origin", "Germany")),
        (
            {"ingredients_text": "Riz*. *Issu de l'agriculture biologique"},
            ("organic", "Issu de l'agriculture biologique"),
        ),
    ],
)
def test_a_claim_is_found_where_it_counts(fields, claim):
    assert any(kind == claim[0] and text.startswith(claim[1]) for kind, text in claims(analyse(**fields)))


@pytest.mark.parametrize("text", ["Free from Italian spice", "Not recyclable", "Kosher dill pickles"])
def test_a_phrase_that_claims_no_such_thing_is_not_taken_for_it(text):
    analysis = analyse(description=text)

    assert not {kind for kind, _ in claims(analysis)} & {"origin", "recyclable"}
    assert analysis.certifications == ()


@pytest.mark.parametrize(
    ("fields", "certification"),
    [
        ({"labels": ("EU Organic",)}, "eu_organic"),
        ({"labels": ("DE-ÖKO-001",)}, "eu_organic"),
        ({"labels": ("AB Agriculture Biologique",)}, "eu_organic"),
        ({"labels": ("USDA Organic",)}, "usda_organic"),
        ({"labels": ("Kosher",)}, "kosher"),
        ({"labels": ("Green Dot",)}, "green_dot"),
        ({"labels": ("Non GMO project",)}, "non_gmo"),
        ({"labels": ("Crossed Grain Trademark",)}, "gluten_free"),
        ({"description": "Cocoa certified by the Rainforest Alliance"}, "rainforest_alliance"),
        ({"description": "FSSAI Lic. No. 10012345"}, "fssai"),
        ({"description": "Commerce équitable"}, "fairtrade"),
        ({"name": "Poulet Label Rouge"}, "label_rouge"),
    ],
)
def test_a_certificate_is_known_by_its_names(fields, certification):
    assert certification in {found.certification.value for found in analyse(**fields).certifications}


def test_a_claim_of_no_gluten_is_no_certificate():
    assert analyse(labels=("No gluten",)).certifications == ()


def test_nutrition_is_read_from_text_per_100_g():
    analysis = analyse(
        description="Nutrition per 100 g: energy 1674 kJ, fat 3.5 g, of which saturates 1,2 g, sugars 10 g, salt 0.5 g"
    )

    assert analysis.nutrition == Nutrition(
        energy_kcal=Decimal("400.1"),
        fat_g=Decimal("3.5"),
        saturated_fat_g=Decimal("1.2"),
        sugar_g=Decimal(10),
        sodium_mg=Decimal("200.0"),
    )


def test_nutrition_per_portion_is_not_taken_for_100_g():
    assert analyse(description="Per portion: fat 3.5 g, sugars 10 g").nutrition == Nutrition()


def test_a_value_that_cannot_be_is_left_out():
    assert analyse(description="per 100 g: fat 350 g, sugars 10 g").nutrition == Nutrition(sugar_g=Decimal(10))
