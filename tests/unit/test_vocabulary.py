from __future__ import annotations

import pytest

from squorflow.products import vocabulary
from squorflow.products.facts import Allergen, SubstanceKind
from squorflow.products.lexicon import Lexicon, WordPatterns, read_words, word_key


@pytest.mark.parametrize(
    "table",
    [
        vocabulary.known_additives,
        vocabulary.known_substances,
        vocabulary.substance_words,
        vocabulary.words_after_class,
        vocabulary.allergen_words,
        vocabulary.allergen_items,
        vocabulary.marker_words,
        vocabulary.statement_words,
        vocabulary.additive_classes,
        vocabulary.claim_words,
        vocabulary.certification_words,
        vocabulary.origin_words,
        vocabulary.language_words,
        vocabulary.nutrient_words,
    ],
)
def test_every_table_is_read_once_and_kept(table):
    assert table() is table()


@pytest.mark.parametrize("number", ["e102", "e104", "e110", "e122", "e124", "e129", "e211", "e621", "e951", "e954"])
def test_the_additives_that_the_safety_rule_names_are_of_high_concern(number):
    assert SubstanceKind.HIGH_CONCERN in vocabulary.known_additives()[number].kinds


@pytest.mark.parametrize(
    "substance", ["rhodamine_b", "lead_chromate", "calcium_carbide", "formalin", "oxytocin", "melamine"]
)
def test_the_substances_that_the_safety_rule_bans_are_banned(substance):
    assert SubstanceKind.BANNED in vocabulary.known_substances()[substance].kinds


def test_potassium_bromate_is_banned_by_its_number():
    assert SubstanceKind.BANNED in vocabulary.known_additives()["e924"].kinds


def test_exactly_the_preservatives_of_the_quality_rule_are_preservatives():
    numbers = {
        int(number[1:4])
        for number, known in vocabulary.known_additives().items()
        if SubstanceKind.PRESERVATIVE in known.kinds
    }

    assert numbers
    assert all(200 <= number <= 228 or 249 <= number <= 252 for number in numbers)


def test_every_additive_is_of_the_kind_additive():
    assert all(SubstanceKind.ADDITIVE in known.kinds for known in vocabulary.known_additives().values())


def test_a_number_that_is_no_additive_is_none():
    assert vocabulary.additive("999", "z") is None
    assert vocabulary.additive("777") is None


def test_a_letter_without_a_number_of_its_own_is_dropped():
    found = vocabulary.additive("924", "a")

    assert found is not None
    assert found.substance == "e924"


def test_a_letter_that_makes_a_number_of_its_own_is_kept():
    found = vocabulary.additive("150", "c")

    assert found is not None
    assert found.substance == "e150c"


def test_all_fourteen_allergens_have_words():
    words, _ = vocabulary.allergen_words()
    text = read_words("wheat, crab, egg, fish, peanut, soy, milk, nut, celery, mustard, sesame, sulphites, lupin, clam")
    named = {allergen for match in words.find(text) for allergen in match.meanings}

    assert named == set(Allergen)


@pytest.mark.parametrize(
    ("printed", "same"),
    [("Œufs", "oeuf"), ("SULPHITES", "sulfite"), ("Crème", "creme"), ("Weiß", "weiss"), ("śledź", "sledz")],
)
def test_case_accents_and_a_plural_make_no_difference(printed, same):
    assert word_key(printed) == word_key(same)


def test_the_longest_phrase_wins():
    lexicon = Lexicon([("milk", "milk"), ("coconut milk", "coconut")])

    assert [match.meanings for match in lexicon.find(read_words("coconut milk, milk"))] == [("coconut",), ("milk",)]


def test_a_phrase_does_not_reach_across_a_comma():
    lexicon = Lexicon([("soya lecithin", "e322")])

    assert list(lexicon.find(read_words("soya, lecithin"))) == []


def test_a_phrase_may_be_hyphenated():
    lexicon = Lexicon([("soya lecithin", "e322")])

    assert [match.meanings for match in lexicon.find(read_words("SOYA-LECITHIN"))] == [("e322",)]


def test_a_phrase_without_a_word_is_refused():
    with pytest.raises(ValueError, match="holds no word"):
        Lexicon([("…", "nothing")])


def test_a_pattern_matches_the_whole_word():
    patterns = WordPatterns([("*milch*", "milk"), ("senf*", "mustard")])

    assert patterns.of(word_key("Vollmilchpulver")) == ("milk",)
    assert patterns.of(word_key("Senfmehl")) == ("mustard",)
    assert patterns.of(word_key("Hansenf")) == ()


def test_a_pattern_without_a_star_is_refused():
    with pytest.raises(ValueError, match="belongs into the lexicon"):
        WordPatterns([("milch", "milk")])
