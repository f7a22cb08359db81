"""A scoring policy: weights, thresholds and rules as data, in versions that never change once published.

Owns the shape of a policy, its own consistency, and reading the published versions from `policies/*.toml`. Does not
compute a score, and does not store anything: `policy_catalog` holds `Policy.model_dump(mode="json")`, and
`Policy.model_validate` reads that back.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from squorflow.errors import ConfigurationError
from squorflow.scoring.inputs import Input
from squorflow.scoring.rules import CountingRule, IngredientCountRule, NutrientRule, Rule, RuleId

POLICY_NAME: Final = "squor_v2"

ACTIVE_VERSION: Final = "2.1"
"""The version new scores are made with, until the catalogue says otherwise."""

Share = Annotated[Decimal, Field(ge=0, le=1)]
Level = Annotated[Decimal, Field(ge=0, le=100, decimal_places=1)]


class Component(StrEnum):
    """The five parts of a SQUOR score, in the order of their letters."""

    SAFETY = "safety"
    QUALITY = "quality"
    USABILITY = "usability"
    ORIGIN = "origin"
    RESPONSIBILITY = "responsibility"


class Rating(StrEnum):
    """An overall score in one word."""

    EXCELLENT = "Excellent"
    GOOD = "Good"
    FAIR = "Fair"
    POOR = "Poor"


class Grade(StrEnum):
    """An overall score in one letter."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    F = "F"


class PolicyModel(BaseModel):
    """The base of all policy models: frozen, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RatingThreshold(PolicyModel):
    """From `at_least` on, an overall has this rating."""

    at_least: Level
    rating: Rating


class GradeThreshold(PolicyModel):
    """From `at_least` on, an overall has this grade."""

    at_least: Level
    grade: Grade


class Limit(PolicyModel):
    """All `rules` together take away at most `points` (a positive number); what they took beyond is given back."""

    id: RuleId
    reason: str
    rules: Annotated[tuple[RuleId, ...], Field(min_length=1)]
    points: Annotated[Decimal, Field(gt=0, le=100, decimal_places=1)]
    why: str = ""


class ComponentPolicy(PolicyModel):
    """How one component is scored: its start value, the rules in order, and joint limits."""

    start: Level
    known_by: Annotated[tuple[Input, ...], Field(min_length=1)]
    """One of these must be known, or the component is null: a start value is earned only with facts."""
    inputs: tuple[Input, ...]
    """All that the rules look at; those not known are listed as missing."""
    rules: tuple[Rule, ...]
    limits: tuple[Limit, ...] = ()
    why: str = ""


class Policy(PolicyModel):
    """One version of one policy; everything a score depends on besides the facts."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,60}$")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    description: str
    weights: Mapping[Component, Share]
    ratings: tuple[RatingThreshold, ...]
    """Highest first; the last one begins at 0."""
    grades: tuple[GradeThreshold, ...]
    """Highest first; the last one begins at 0."""
    flags: Mapping[Component, Level]
    """A component scored below this is flagged."""
    minimum_assessed: Share
    """With less weight assessed there is no overall, rating or grade."""
    required: tuple[Input, ...] = ()
    """Without every one of these there is no overall either."""
    confidence: Mapping[Input, Share]
    """What each known input adds to the confidence; they add up to 1."""
    components: Mapping[Component, ComponentPolicy]

    @model_validator(mode="after")
    def _is_complete(self) -> Policy:
        for what, keys in (("weights", self.weights), ("components", self.components)):
            if set(keys) != set(Component):
                raise ValueError(f"{what} must name all five components")
        for what, shares in (("weights", self.weights.values()), ("confidence", self.confidence.values())):
            if sum(shares) != 1:
                raise ValueError(f"{what} must add up to exactly 1, not {sum(shares)}")
        for what, levels in (
            ("ratings", [threshold.at_least for threshold in self.ratings]),
            ("grades", [threshold.at_least for threshold in self.grades]),
        ):
            if not levels or levels[-1] != 0 or levels != sorted(set(levels), reverse=True):
                raise ValueError(f"{what} must stand highest first and end at 0")
        return self

    @model_validator(mode="after")
    def _rules_are_consistent(self) -> Policy:
        for component, part in self.components.items():
            earlier: set[str] = set()
            for rule in part.rules:
                if rule.id in earlier or not rule.id.startswith(f"{component}."):
                    raise ValueError(f"rule {rule.id} must be unique and begin with {component}.")
                if unknown := set(rule.unless) - earlier:
                    raise ValueError(f"rule {rule.id} waits for {sorted(unknown)}, which does not stand before it")
                earlier.add(rule.id)
            for limit in part.limits:
                if limit.id in earlier or not earlier.issuperset(limit.rules):
                    raise ValueError(f"limit {limit.id} must have its own id and name rules of {component}")
        return self


def worst_points(rule: Rule) -> Decimal:
    """Return the lowest points a rule can give; 0 for a rule that only adds."""
    if isinstance(rule, CountingRule):
        return min(Decimal(0), rule.cap)
    if isinstance(rule, NutrientRule | IngredientCountRule):
        return min(Decimal(0), rule.points, *(band.points for band in rule.bands))
    return min(Decimal(0), rule.points)


@cache
def load_policies() -> tuple[Policy, ...]:
    """Read the published versions of the policy, oldest first; exactly one of them is `default_policy()`."""
    folder = files("squorflow.scoring") / "policies"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    policies = [
        Policy.model_validate(tomllib.loads(entry.read_text(encoding="utf-8"), parse_float=Decimal)) for entry in found
    ]
    return tuple(sorted(policies, key=lambda policy: tuple(int(part) for part in policy.version.split("."))))


def default_policy() -> Policy:
    """Return the active version.

    Raises:
        ConfigurationError: its file is not part of this installation.
    """
    for policy in load_policies():
        if (policy.name, policy.version) == (POLICY_NAME, ACTIVE_VERSION):
            return policy
    raise ConfigurationError(
        f"The scoring policy {POLICY_NAME} {ACTIVE_VERSION} is missing from this installation: install squorflow again."
    )
