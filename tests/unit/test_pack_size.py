from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squorflow.products.pack_size import normalise_pack_size, normalise_serving_size


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("70g", "70 g"),
        ("70 g", "70 g"),
        ("70 G", "70 g"),
        ("70 grams", "70 g"),
        ("28.000000000000004g", "28 g"),
        ("56.99999999999999g", "57 g"),
        ("6 x 330 ml", "6 x 330 ml"),
        ("6x33cl", "6 x 330 ml"),
        ("6 \u00d7 330ML", "6 x 330 ml"),
        ("330 ml x 6", "6 x 330 ml"),
        ("2 x 6 x 50 g", "12 x 50 g"),
        ("pack of 6, 330 ml", "6 x 330 ml"),
        ("4-pack 330ml", "4 x 330 ml"),
        ("1,5 L", "1.5 l"),
        ("1500 ml", "1.5 l"),
        ("2000 g", "2 kg"),
        ("2,5 kg", "2.5 kg"),
        ("0,164 kg", "164 g"),
        ("1,000 g", "1 kg"),
        ("1,250 kg", "1.25 kg"),
        ("16OZ", "16 oz"),
        ("12 fl. oz", "12 fl oz"),
        ("1/2 lb", "1/2 lb"),
        ("0.75 oz (22 g)", "22 g"),
        ("1 Serving(s) (14 G)", "14 g"),
        ("260 g (4 * 75 g)", "260 g"),
        ("200 mints, 98g", "98 g"),
        ("150 g e", "150 g"),
        ("56 Pieces", "56 pieces"),
        ("500", "500"),
        ("70 gluten", "70 gluten"),
        ("0 g", "0 g"),
        ("200 \u0433", "200 g"),
        ("\u096d\u0966 g", "70 g"),
        ("  ", None),
    ],
)
def test_a_pack_size_has_one_spelling(written: str, canonical: str | None) -> None:
    assert normalise_pack_size(written) == canonical


@pytest.mark.parametrize(
    ("written", "tidy"),
    [
        ("41g", "41 g"),
        ("236.58799999999997g", "236.588 g"),
        ("1 BAG (28 g)", "1 BAG (28 g)"),
        ("1 cup (28.000000000000004g)", "1 cup (28g)"),
        (" ", None),
    ],
)
def test_a_serving_size_keeps_its_words_and_loses_float_noise(written: str, tidy: str | None) -> None:
    assert normalise_serving_size(written) == tidy


SIZES = st.one_of(
    st.text(max_size=60),
    st.from_regex(
        r"(\d{1,3} ?x ?)?\d{1,5}([.,]\d{1,18})? ?(g|kg|ml|cl|l|oz|fl oz|lb|mg|pieces)( x \d)?", fullmatch=True
    ),
)


@settings(deadline=None)
@given(SIZES)
def test_normalising_a_pack_size_twice_changes_nothing_more(written: str) -> None:
    once = normalise_pack_size(written)
    assert once is None or normalise_pack_size(once) == once


@settings(deadline=None)
@given(SIZES)
def test_normalising_a_serving_size_twice_changes_nothing_more(written: str) -> None:
    once = normalise_serving_size(written)
    assert once is None or normalise_serving_size(once) == once
