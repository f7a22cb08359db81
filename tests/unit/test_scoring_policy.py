"""The published policies: complete, consistent, explained, and the same after a way through JSON."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal

import pytest
from pydantic import ValidationError

from squorflow.scoring import Component, Input, Policy, default_policy, load_policies
from squorflow.scoring.policy import worst_points
from squorflow.scoring.rules import MissingRule, NutrientRule

FIRST, SECOND = load_policies()

POLICIES = pytest.mark.parametrize("policy", load_policies(), ids=lambda policy: policy.version)


def as_json(policy: Policy) -> str:
    return json.dumps(policy.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)


def rules_of(policy: Policy) -> dict[str, object]:
    return {rule.id: rule for part in policy.components.values() for rule in part.rules}


def test_there_are_two_published_versions_and_the_second_is_active():
    assert [(policy.name, policy.version) for policy in load_policies()] == [("squor_v2", "2.0"), ("squor_v2", "2.1")]
    assert default_policy() is SECOND


@POLICIES
def test_a_policy_comes_back_from_json_as_it_was(policy):
    assert Policy.model_validate(json.loads(as_json(policy))) == policy


@POLICIES
def test_weights_thresholds_and_flags_are_those_of_the_design(policy):
    assert [policy.weights[component] for component in Component] == [
        Decimal(share) for share in ("0.25", "0.25", "0.15", "0.15", "0.20")
    ]
    assert [threshold.at_least for threshold in policy.ratings] == [80, 60, 40, 0]
    assert [threshold.at_least for threshold in policy.grades] == [80, 60, 40, 20, 0]
    assert policy.flags == {"safety": 70, "quality": 60, "origin": 50, "responsibility": 50}


@POLICIES
def test_every_input_for_people_to_supply_counts_towards_confidence(policy):
    assert set(policy.confidence) == set(Input) - {Input.ORIGIN_CERTIFICATIONS}
    assert min(policy.confidence.values()) > 0


@POLICIES
def test_what_makes_a_component_known_is_among_the_inputs(policy):
    for part in policy.components.values():
        assert set(part.known_by) - {Input.ORIGIN_CERTIFICATIONS} <= set(part.inputs)


def test_a_published_definition_never_changes():
    digests = {policy.version: hashlib.sha256(as_json(policy).encode()).hexdigest()[:16] for policy in load_policies()}
    assert digests == {"2.0": "e1fa5ecd1690701b", "2.1": "9ba93e44d851448f"}


def test_every_number_changed_since_the_first_version_has_its_reason_beside_it():
    before, now = rules_of(FIRST), rules_of(SECOND)
    unexplained = [
        name
        for name, rule in now.items()
        if not rule.why
        and (name not in before or rule.model_dump(exclude={"why"}) != before[name].model_dump(exclude={"why"}))
    ]
    assert unexplained == []


def test_in_the_second_version_not_knowing_costs_as_much_as_the_worst_that_could_be_known():
    for rule in rules_of(SECOND).values():
        if isinstance(rule, NutrientRule):
            assert rule.points == worst_points(rule), rule.id


def test_a_missing_ingredient_list_costs_quality_all_that_ingredients_can_cost():
    limits = {limit.id: limit.points for limit in SECOND.components[Component.QUALITY].limits}
    missing = rules_of(SECOND)["quality.ingredients_unknown"]
    assert isinstance(missing, MissingRule)
    assert -missing.points == limits["quality.ingredients_limit"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": {**dict.fromkeys(Component, "0.2"), "safety": "0.3"}}, "add up to exactly 1"),
        ({"weights": {"safety": "1"}}, "all five components"),
        ({"grades": [{"at_least": 20, "grade": "A"}]}, "end at 0"),
        ({"unheard_of": 1}, "Extra inputs"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(change, words):
    definition = FIRST.model_dump(mode="json") | change
    with pytest.raises(ValidationError, match=words):
        Policy.model_validate(definition)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cap": -10}, "no smaller"),
        ({"cap": 25}, "must have the sign"),
        ({"id": "quality.banned"}, "begin with safety"),
        ({"id": "safety.high_concern"}, "must be unique"),
        ({"unless": ["safety.no_warning"]}, "does not stand before it"),
        ({"kind": "guess"}, "does not match any of the expected tags"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(change, words):
    definition = FIRST.model_dump(mode="json")
    definition["components"]["safety"]["rules"][0] |= change
    with pytest.raises(ValidationError, match=words):
        Policy.model_validate(definition)


def test_a_limit_may_only_name_rules_of_its_component():
    definition = SECOND.model_dump(mode="json")
    definition["components"]["quality"]["limits"][0]["rules"] = ["safety.banned"]
    with pytest.raises(ValidationError, match="name rules of quality"):
        Policy.model_validate(definition)
