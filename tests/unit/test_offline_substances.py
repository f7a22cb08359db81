from __future__ import annotations

import pytest

from squorflow.enrichment.offline import analyze_content
from squorflow.products.facts import ProductContent, Substance, SubstanceKind


def substances(text: str) -> dict[str, Substance]:
    analysis = analyze_content(ProductContent(name="Thing", ingredients_text=text))
    return {found.substance: found for found in analysis.substances}


@pytest.mark.parametrize(
    "text", ["E322", "E-322", "E 322", "e322", "INS 322", "INS322", "SIN 322", "E322i", "E322(i)", "E322et"]
)
def test_a_number_is_read_in_every_spelling(text):
    assert set(substances(f"sugar, {text}, salt")) == {"e322"}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("E450-E452", {"e450", "e452"}),
        ("INS 322, 471", {"e322", "e471"}),
        ("emulsifier (322, 471)", {"e322", "e471"}),
        ("raising agents [500(ii), 503(ii)]", {"e500", "e503"}),
        ("flavour enhancers 627 & 631", {"e627", "e631"}),
        ("colour 150d", {"e150d"}),
        ("émulsifiants : E471, E472e", {"e471", "e472e"}),
        ("Farbstoff: E150c", {"e150c"}),
    ],
)
def test_a_list_of_numbers_is_read_as_separate_numbers(text, numbers):
    assert set(substances(text)) == numbers


@pytest.mark.parametrize(
    "text", ["sale e 100 g di zucchero", "vitamin E 120 mg", "Pack of 322", "milk 471 ml", "E 322z9", "E3222"]
)
def test_a_figure_that_is_no_additive_is_not_read(text):
    assert not any(found.e_number for found in substances(text).values())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("soya lecithin", "e322"),
        ("yellow 5", "e102"),
        ("FD&C Red #40", "e129"),
        ("citric acid", "e330"),
        ("acide citrique", "e330"),
        ("Zitronensäure", "e330"),
        ("ácido cítrico", "e330"),
        ("acido citrico", "e330"),
        ("citroenzuur", "e330"),
        ("kwas cytrynowy", "e330"),
        ("nitrite de sodium", "e250"),
        ("Natriumnitrit", "e250"),
        ("nitrito de sodio", "e250"),
        ("azotyn sodu", "e250"),
        ("ascorbic acid", "e300"),
        ("potassium sorbate", "e202"),
        ("sorbato di potassio", "e202"),
        ("disodium diphosphate", "e450"),
        ("mono- et diglycérides d'acides gras", "e471"),
        ("colorant : caramel", "e150"),
    ],
)
def test_an_additive_is_known_by_name_in_many_languages(text, number):
    assert number in substances(text)


def test_caramel_as_a_food_is_no_additive():
    assert substances("sugar, caramel, salt") == {}


@pytest.mark.parametrize(
    "text", ["no MSG", "without E211", "sans conservateur E202", "free from aspartame and saccharin"]
)
def test_what_the_label_says_is_not_in_it_is_no_substance(text):
    assert substances(f"rice, {text}") == {}


@pytest.mark.parametrize(
    ("text", "substance", "kinds"),
    [
        ("potassium bromate", "e924", {"additive", "banned"}),
        ("rhodamine B", "rhodamine_b", {"banned"}),
        ("partially hydrogenated palm oil", "partially_hydrogenated_fat", {"high_concern", "ultra_processing"}),
        ("huile partiellement hydrogénée", "partially_hydrogenated_fat", {"high_concern", "ultra_processing"}),
        ("high fructose corn syrup", "high_fructose_corn_syrup", {"high_concern"}),
        ("tartrazine", "e102", {"additive", "high_concern", "artificial"}),
        ("sodium benzoate", "e211", {"additive", "high_concern", "preservative"}),
        ("artificial flavours", "artificial_flavouring", {"artificial", "ultra_processing"}),
        ("arôme artificiel", "artificial_flavouring", {"artificial", "ultra_processing"}),
        ("sulfites", "sulphites", {"preservative"}),
        ("huile de palme", "palm_oil", {"palm_oil"}),
        ("Palmöl", "palm_oil", {"palm_oil"}),
        ("E1442", "e1442", {"additive", "ultra_processing"}),
    ],
)
def test_a_substance_has_the_kinds_that_the_rules_give_it(text, substance, kinds):
    assert set(substances(text)[substance].kinds) == {SubstanceKind(kind) for kind in kinds}


@pytest.mark.parametrize("text", ["palm sugar", "hearts of palm", "vitamin A palmitate", "sans huile de palme"])
def test_what_only_sounds_like_palm_oil_is_none(text):
    assert "palm_oil" not in substances(f"rice, {text}")


def test_palm_in_a_list_of_oils_is_palm_oil():
    assert "palm_oil" in substances("vegetable oil (coconut, palm, sunflower)")


def test_each_ultra_processed_ingredient_is_one_finding():
    analysis = analyze_content(
        ProductContent(name="x", ingredients_text="tomato extract, yeast extract, modified and hydrolysed starch, salt")
    )

    found = [one for one in analysis.substances if SubstanceKind.ULTRA_PROCESSING in one.kinds]
    assert [one.evidence.text for one in found] == ["tomato extract", "yeast extract", "modified and hydrolysed starch"]


@pytest.mark.parametrize("text", ["non-hydrogenated vegetable fat", "graisse non hydrogénée", "flavour enhancer"])
def test_a_marker_that_is_taken_back_marks_nothing(text):
    assert substances(f"salt, {text}") == {}


def test_a_substance_is_reported_once_with_its_first_words():
    (found,) = substances("soya lecithin, sugar, E322, lecithin").values()

    assert found.evidence.text == "soya lecithin"


def test_a_may_contain_remark_lists_no_substance():
    assert substances("rice. May contain sulphites.") == {}
