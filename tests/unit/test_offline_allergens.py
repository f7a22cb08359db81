from __future__ import annotations

import pytest

from squorflow.enrichment.offline import analyze_content
from squorflow.products.facts import AllergenFinding, Analysis, ProductContent, Source


def analyse(text: str, **fields: object) -> Analysis:
    return analyze_content(ProductContent(name="Thing", ingredients_text=text, **fields))


def names(findings: tuple[AllergenFinding, ...]) -> set[str]:
    return {finding.allergen.value for finding in findings}


@pytest.mark.parametrize(
    "text",
    [
        "eggplant",
        "buckwheat flour",
        "coconut milk",
        "cocoa butter",
        "shea butter",
        "nutmeg",
        "coconut",
        "butternut squash",
        "cream of tartar",
        "lactic acid",
        "peanut-free oats of rice",
        "noix de coco, noix de muscade",
        "beurre de cacao, lait de coco",
        "farine de blé noir",
        "farine de sarrasin",
        "Kokosmilch, Kakaobutter, Buchweizenmehl, Milchsäure, Muskatnuss",
        "latte di cocco, burro di cacao, noce moscata, grano saraceno",
        "leche de coco, manteca de cacao, nuez moscada, trigo sarraceno",
        "cacaoboter, kokosmelk, boekweitmeel, nootmuskaat",
        "masło kakaowe, mleko kokosowe",
        "soybean oil",
        "sirop de glucose de blé",
        "maltodextrin, maltitol",
    ],
)
def test_a_word_that_only_looks_like_an_allergen_is_none(text):
    found = names(analyse(text).allergens)

    assert found <= ({"gluten"} if "oats" in text else set())


@pytest.mark.parametrize(
    ("text", "allergen"),
    [
        ("peanut butter", "peanut"),
        ("almond milk", "tree_nuts"),
        ("wheat flour", "gluten"),
        ("flour, water", "gluten"),
        ("whey powder", "milk"),
        ("soya lecithin", "soy"),
        ("sodium metabisulphite", "sulphites"),
        ("preservative: E223", "sulphites"),
        ("anchovies", "fish"),
        ("shrimp", "crustaceans"),
        ("clam juice", "molluscs"),
        ("tahini", "sesame"),
        ("celery seed", "celery"),
        ("farine de lupin", "lupin"),
        ("graines de moutarde", "mustard"),
        ("blanc d'œuf", "egg"),
        ("noix de Saint-Jacques", "molluscs"),
        ("œufs de lompe", "fish"),
        ("Vollmilchpulver", "milk"),
        ("Haselnusskerne", "tree_nuts"),
        ("Erdnussbutter", "peanut"),
        ("Sojalecithin", "soy"),
        ("Hühnereigelb", "egg"),
        ("nocciole", "tree_nuts"),
        ("huevo", "egg"),
        ("tarwebloem", "gluten"),
        ("pindakaas", "peanut"),
        ("mąka pszenna", "gluten"),
        ("leite em pó", "milk"),
    ],
)
def test_an_allergen_is_found_in_many_languages(text, allergen):
    assert names(analyse(text).allergens) == {allergen}


@pytest.mark.parametrize(
    "text",
    [
        "Rice. Free from soy, milk and egg.",
        "Rice. Does not contain milk.",
        "Rice, no milk, egg or soy",
        "Riz. Sans lait ni œuf",
        "Riz. Ne contient pas de lait",
        "Reis, ohne Milch",
        "Arroz, sin leche",
        "Rice, milk-free",
        "Rice (soy free)",
        "Reis, laktosefrei",
    ],
)
def test_what_the_label_says_is_not_in_it_is_no_finding(text):
    analysis = analyse(text)

    assert (analysis.allergens, analysis.allergens_declared, analysis.may_contain) == ((), (), ())


def test_free_takes_away_only_what_stands_right_before_it():
    assert names(analyse("lactose free milk, gluten free wheat starch").allergens) == {"milk", "gluten"}


def test_free_range_eggs_are_eggs():
    assert names(analyse("sugar, free range eggs").allergens) == {"egg"}


@pytest.mark.parametrize(
    ("text", "allergens"),
    [
        ("Sugar. May contain traces of milk and nuts.", {"milk", "tree_nuts"}),
        ("Sugar. Made in a facility that also processes peanuts.", {"peanut"}),
        ("Sucre. Peut contenir des traces de lait, d'œufs et de fruits à coque.", {"milk", "egg", "tree_nuts"}),
        ("Sucre. Traces éventuelles de soja.", {"soy"}),
        ("Zucker. Kann Spuren von Erdnüssen und Milch enthalten.", {"peanut", "milk"}),
        ("Azúcar. Puede contener trazas de soja.", {"soy"}),
        ("Zucchero. Può contenere tracce di frutta a guscio.", {"tree_nuts"}),
        ("Suiker. Kan sporen van melk bevatten.", {"milk"}),
        ("Açúcar. Pode conter vestígios de leite.", {"milk"}),
        ("Cukier. Może zawierać orzeszki ziemne.", {"peanut"}),
    ],
)
def test_a_precaution_is_kept_apart_from_the_ingredients(text, allergens):
    analysis = analyse(text)

    assert names(analysis.may_contain) == allergens
    assert analysis.allergens == ()


def test_a_precaution_in_a_bracket_ends_with_it():
    analysis = analyse("Oil (may contain soya), milk powder")

    assert names(analysis.may_contain) == {"soy"}
    assert names(analysis.allergens) == {"milk"}


def test_a_traces_remark_in_a_bracket_belongs_to_what_stands_before_it():
    assert names(analyse("Sugar, hazelnuts (traces)").may_contain) == {"tree_nuts"}


@pytest.mark.parametrize(
    "text",
    [
        "Sugar, cream. Contains: milk.",
        "Sugar, whey (milk)",
        "sugar, _milk_ powder",
        "sugar, salt, cocoa, MILK powder",
        "sugar, <b>milk</b> powder",
        "Zucker. Enthält: Milch",
        "sucre, crème (contient lait)",
    ],
)
def test_an_allergen_that_the_label_declares_or_emphasises_is_declared(text):
    assert names(analyse(text).allergens_declared) == {"milk"}


def test_an_allergen_in_plain_words_is_not_declared():
    assert analyse("sugar, milk powder").allergens_declared == ()


def test_capitals_emphasise_nothing_in_a_text_set_in_capitals():
    assert analyse("SUGAR, MILK POWDER, SALT").allergens_declared == ()


def test_contains_two_percent_or_less_declares_nothing():
    analysis = analyse("Sugar, contains 2% or less of: soy flour")

    assert names(analysis.allergens) == {"soy"}
    assert analysis.allergens_declared == ()


def test_the_pages_own_list_declares():
    analysis = analyse("sugar", allergens_declared=("Soybeans", "en:milk"), may_contain=("Tree-nuts-hazelnuts",))

    assert names(analysis.allergens_declared) == {"soy", "milk"}
    assert {finding.evidence.source for finding in analysis.allergens_declared} == {Source.ALLERGEN_LIST}
    assert names(analysis.may_contain) == {"tree_nuts"}


def test_a_finding_quotes_the_words_it_rests_on():
    (finding,) = analyse("Sugar, Whole Milk powder").allergens

    assert (finding.evidence.text, finding.evidence.source) == ("Whole Milk", Source.INGREDIENTS)
