"""What every rule has, the counting most share, and the words factors are explained in.

Owns the shape of a rule and of what it returns. The kinds of rule stand beside it.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from squorflow.products.facts import Evidence, ProductFacts, Source
from squorflow.scoring.inputs import Known, shortened

MISSING: Final = "missing"
"""Found nowhere: the factor stands because a fact is not known."""

POLICY: Final = "policy"
"""Found in no fact: the factor is the policy's own arithmetic, such as a limit."""

FoundIn = Source | Literal["missing", "policy"]

Points = Annotated[Decimal, Field(ge=-100, le=100, decimal_places=1)]

RuleId = Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")]
"""The component and the rule's own name, as in `safety.banned`."""


class SubMetric(StrEnum):
    """What within a component a rule speaks about (design, section 8; `nutrition` added for the nutrient rules)."""

    TOXICOLOGY = "toxicology"
    BANNED_INGREDIENTS = "banned_ingredients"
    ALLERGENS = "allergens"
    WARNINGS = "warnings"
    PURITY = "purity"
    ADULTERATION_RISK = "adulteration_risk"
    FRESHNESS = "freshness"
    PROCESSING = "processing"
    NUTRITION = "nutrition"
    READABILITY = "readability"
    ALLERGEN_VISIBILITY = "allergen_visibility"
    INSTRUCTIONS = "instructions"
    SERVING_INFO = "serving_info"
    COUNTRY = "country"
    ORGANIC_FAIR_TRADE = "organic_fair_trade"
    SUPPLIER_TRANSPARENCY = "supplier_transparency"
    PACKAGING = "packaging"
    FOOTPRINT = "footprint"
    ETHICAL_SOURCING = "ethical_sourcing"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A rule that applies: what it adds, and why."""

    points: Decimal
    evidence: str
    source: FoundIn
    reason: str | None = None
    """Said instead of the rule's own words, where those would claim what is only assumed."""


class RuleBase(BaseModel):
    """What every rule has. `reason` is the rule in words, `why` tells why its numbers are what they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: RuleId
    sub_metric: SubMetric
    reason: Annotated[str, Field(min_length=1)]
    points: Points
    unless: tuple[RuleId, ...] = ()
    """Ids of earlier rules; where one of them has applied, this rule does not."""
    why: str = ""

    @abstractmethod
    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Return what the rule adds for this product; `None` when it does not apply."""


class CountingRule(RuleBase):
    """A rule with `points` for each finding and at most `cap` in all; a cap equal to the points means once."""

    cap: Points

    @model_validator(mode="after")
    def _cap_is_not_below_the_points(self) -> CountingRule:
        if self.cap * self.points <= 0 or abs(self.cap) < abs(self.points):
            raise ValueError(
                f"rule {self.id}: the cap {self.cap} must have the sign of {self.points} and be no smaller"
            )
        return self

    def hit(self, findings: Iterable[tuple[str, Evidence]]) -> Hit | None:
        """Count distinct findings (by the first of each pair) and name the words they rest on."""
        distinct: dict[str, Evidence] = {}
        for name, words in findings:
            distinct.setdefault(name, words)
        if not distinct:
            return None
        total = self.points * len(distinct)
        points = max(total, self.cap) if total < 0 else min(total, self.cap)
        note = "" if points == total else f" (limited to {points} of {total})"
        quoted = ", ".join(_quoted(name, words.text) for name, words in distinct.items())
        evidence = shortened(quoted, room=len(note))
        source = next(iter(distinct.values())).source
        return Hit(points=points, evidence=evidence + note, source=source)


def words_of(text: str) -> frozenset[str]:
    """Return the distinct words of a text in lower case."""
    return frozenset(re.findall(r"\w+", text.casefold()))


def _quoted(name: str, text: str) -> str:
    """Name a finding once where the words on the label are its name, else both."""
    label = name.replace("_", " ")
    return f"“{text}”" if text.casefold() == label else f"{label} (“{text}”)"
