"""Component scores to overall, rating and grade: the checks that the rules themselves state, in every version."""

from __future__ import annotations

from decimal import Decimal

import pytest

from squorflow.scoring import Component, Grade, Policy, Rating, combine, default_policy, load_policies


def overall_of(values: list[str | None], policy: Policy | None = None):
    scores = [None if value is None else Decimal(value) for value in values]
    return combine(dict(zip(Component, scores, strict=True)), policy or default_policy())


@pytest.mark.parametrize("policy", load_policies(), ids=lambda policy: policy.version)
@pytest.mark.parametrize(
    ("values", "overall", "rating", "grade"),
    [
        (["95", "90", "80", "85", "75"], "86.0", Rating.EXCELLENT, Grade.A),
        (["65", "45", "70", "30", "25"], "47.5", Rating.FAIR, Grade.C),
        (["100", "95", "85", "95", "90"], "93.8", Rating.EXCELLENT, Grade.A),
        (["100", "80", "80", "60", "40"], "74.0", Rating.GOOD, Grade.B),
        (["85", "70", "75", "60", "65"], "72.0", Rating.GOOD, Grade.B),
    ],
)
def test_the_stated_checks_hold(values, overall, rating, grade, policy):
    result = overall_of(values, policy)
    assert (str(result.overall), result.rating, result.grade) == (overall, rating, grade)


@pytest.mark.parametrize(
    ("value", "rating", "grade"),
    [
        ("80", "Excellent", "A"),
        ("79.9", "Good", "B"),
        ("60", "Good", "B"),
        ("59.9", "Fair", "C"),
        ("40", "Fair", "C"),
        ("39.9", "Poor", "D"),
        ("20", "Poor", "D"),
        ("19.9", "Poor", "F"),
        ("0", "Poor", "F"),
    ],
)
def test_a_threshold_belongs_to_the_better_side(value, rating, grade):
    result = overall_of([value] * 5)
    assert (result.rating, result.grade) == (rating, grade)


def test_the_overall_is_rounded_half_up():
    assert overall_of(["100", "95", "85", "95", "90"]).overall == Decimal("93.8")
    assert overall_of(["0.2", "0", "0", "0", "0"]).overall == Decimal("0.1")


def test_a_component_that_is_not_assessed_is_not_counted():
    result = overall_of(["80", "80", None, None, "80"])
    assert (result.overall, result.assessed_weight) == (Decimal("80.0"), Decimal("0.70"))


def test_exactly_half_the_weight_is_enough_for_a_grade():
    assert overall_of(["90", "90", None, None, None]).grade is Grade.A


def test_under_half_the_weight_there_is_no_overall_and_no_grade():
    result = overall_of([None, "90", None, None, "90"])
    assert (result.overall, result.rating, result.grade) == (None, None, None)
    assert result.assessed_weight == Decimal("0.45")


def test_a_product_about_which_nothing_is_known_has_no_grade():
    result = overall_of([None] * 5)
    assert (result.overall, result.grade, result.assessed_weight) == (None, None, 0)


def test_a_component_that_is_not_named_counts_as_not_assessed():
    result = combine({Component.SAFETY: Decimal(70), Component.QUALITY: Decimal(70)}, default_policy())
    assert result.assessed_weight == Decimal("0.50")
