"""The arithmetic of a SQUOR score, and the score that explains itself.

Everything is `Decimal`; component scores are exact sums of their factors, the overall is rounded half up
to one decimal. Owns no number: those come from the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

from pydantic import BaseModel, ConfigDict

from squorflow.products.facts import ProductFacts
from squorflow.scoring.inputs import Known, known_inputs, without_unproved
from squorflow.scoring.policy import Component, ComponentPolicy, Grade, Policy, Rating
from squorflow.scoring.rules import POLICY, FoundIn, SubMetric

LOWEST, HIGHEST = Decimal(0), Decimal(100)

ONE_DECIMAL, THREE_DECIMALS = Decimal("0.1"), Decimal("0.001")


class ScoreModel(BaseModel):
    """The base of all score models: frozen, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Factor(ScoreModel):
    """One deduction or bonus: the rule, its points, and the words it rests on."""

    rule: str
    component: Component
    sub_metric: SubMetric | None
    """`None` for a limit, which belongs to the component as a whole."""
    points: Decimal
    reason: str
    evidence: str
    source: FoundIn
    """Where the evidence stands; `missing` where a fact is not known, `policy` for a limit."""


class ComponentScore(ScoreModel):
    """One component; `start` and the factors' points add up to exactly `score`.

    `score` is `None` where nothing it rests on is known; `start` is then 0 and there are no factors.
    """

    component: Component
    score: Decimal | None
    start: Decimal
    weight: Decimal
    factors: tuple[Factor, ...]
    missing: tuple[str, ...]


class Overall(ScoreModel):
    """Component scores combined. Overall, rating and grade are `None` where too little is assessed."""

    overall: Decimal | None
    rating: Rating | None
    grade: Grade | None
    assessed_weight: Decimal


class SquorScore(ScoreModel):
    """The score of one product under one policy version."""

    policy: str
    version: str
    overall: Decimal | None
    rating: Rating | None
    grade: Grade | None
    assessed_weight: Decimal
    """0 to 1: the weight of the components that could be scored."""
    confidence: Decimal
    """0 to 1: how far the facts carry; falls with every missing input."""
    flags: tuple[Component, ...]
    """Components scored below their limit."""
    components: tuple[ComponentScore, ...]
    """All five, in the order of `Component`."""
    missing: tuple[str, ...]
    """What is not known, in words for people, each once."""

    def component(self, component: Component) -> ComponentScore:
        """Return one of the five."""
        return next(part for part in self.components if part.component == component)

    def heaviest_factor(self) -> Factor | None:
        """Return the factor that moved the overall most, the earliest of equals; `None` when there is none.

        Limits are passed over: they only take back what other factors did.
        """
        weighted = [
            (abs(factor.points) * part.weight, factor)
            for part in self.components
            for factor in part.factors
            if factor.source != POLICY
        ]
        return max(weighted, key=lambda pair: pair[0])[1] if weighted else None


def score(facts: ProductFacts, policy: Policy) -> SquorScore:
    """Score one product. The same facts and policy always give the same score."""
    facts = without_unproved(facts)
    known = known_inputs(facts)
    parts = tuple(_score_component(facts, policy, component=component, known=known) for component in Component)
    overall = combine({part.component: part.score for part in parts}, policy)
    if not all(name in known for name in policy.required):
        overall = Overall(overall=None, rating=None, grade=None, assessed_weight=overall.assessed_weight)
    known_share = sum((share for name, share in policy.confidence.items() if name in known), Decimal(0))
    return SquorScore(
        policy=policy.name,
        version=policy.version,
        **overall.model_dump(),
        confidence=_rounded(Decimal(str(facts.confidence)) * known_share, to=THREE_DECIMALS),
        flags=tuple(
            part.component
            for part in parts
            if part.score is not None and part.score < policy.flags.get(part.component, LOWEST)
        ),
        components=parts,
        missing=tuple(dict.fromkeys(words for part in parts for words in part.missing)),
    )


def combine(components: Mapping[Component, Decimal | None], policy: Policy) -> Overall:
    """Weigh component scores (0 to 100, `None` or absent: not assessed) over the weight that was assessed.

    Overall, rating and grade are `None` when less than the policy's minimum was assessed.
    """
    assessed = {name: value for name, value in components.items() if value is not None}
    weight = sum((policy.weights[name] for name in assessed), Decimal(0))
    if not weight or weight < policy.minimum_assessed:
        return Overall(overall=None, rating=None, grade=None, assessed_weight=weight)
    overall = _rounded(sum(policy.weights[name] * value for name, value in assessed.items()) / weight, to=ONE_DECIMAL)
    return Overall(
        overall=overall,
        rating=next(threshold.rating for threshold in policy.ratings if overall >= threshold.at_least),
        grade=next(threshold.grade for threshold in policy.grades if overall >= threshold.at_least),
        assessed_weight=weight,
    )


def _score_component(facts: ProductFacts, policy: Policy, *, component: Component, known: Known) -> ComponentScore:
    part, weight = policy.components[component], policy.weights[component]
    missing = tuple(name.words for name in part.inputs if name not in known)
    if not any(name in known for name in part.known_by):
        return ComponentScore(component=component, score=None, start=LOWEST, weight=weight, factors=(), missing=missing)
    factors = _apply_rules(facts, part, component=component, known=known)
    factors += _apply_limits(part, factors, component=component)
    total = part.start + sum((factor.points for factor in factors), Decimal(0))
    value = min(max(total, LOWEST), HIGHEST)
    if value != total:
        bound = "below 0" if total < LOWEST else "above 100"
        factors.append(
            Factor(
                rule=f"{component}.clamp",
                component=component,
                sub_metric=None,
                points=value - total,
                reason="a component lies between 0 and 100",
                evidence=f"the rules add up to {total}, which is {bound}",
                source=POLICY,
            )
        )
    return ComponentScore(
        component=component, score=value, start=part.start, weight=weight, factors=tuple(factors), missing=missing
    )


def _apply_rules(facts: ProductFacts, part: ComponentPolicy, *, component: Component, known: Known) -> list[Factor]:
    factors: list[Factor] = []
    applied: set[str] = set()
    for rule in part.rules:
        hit = None if applied.intersection(rule.unless) else rule.check(facts, known)
        if hit is not None:
            applied.add(rule.id)
            factors.append(
                Factor(
                    rule=rule.id,
                    component=component,
                    sub_metric=rule.sub_metric,
                    points=hit.points,
                    reason=hit.reason or rule.reason,
                    evidence=hit.evidence,
                    source=hit.source,
                )
            )
    return factors


def _apply_limits(part: ComponentPolicy, factors: list[Factor], *, component: Component) -> list[Factor]:
    """Give back what the rules of a limit took beyond it."""
    given_back = []
    for limit in part.limits:
        taken = -sum((factor.points for factor in factors if factor.rule in limit.rules), Decimal(0))
        if taken > limit.points:
            given_back.append(
                Factor(
                    rule=limit.id,
                    component=component,
                    sub_metric=None,
                    points=taken - limit.points,
                    reason=limit.reason,
                    evidence=f"together {taken} points, limited to {limit.points}",
                    source=POLICY,
                )
            )
    return given_back


def _rounded(value: Decimal, *, to: Decimal) -> Decimal:
    return value.quantize(to, rounding=ROUND_HALF_UP)
