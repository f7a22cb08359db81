"""Rules about the page and the label themselves: nutrition values, name, origin, what is known and what is not.

Words are compared whole and in lower case, never as substrings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from squorflow.products.facts import Nutrition, ProductFacts, Source
from squorflow.scoring.inputs import Input, Known, shortened
from squorflow.scoring.rules.base import MISSING, Hit, Points, RuleBase, words_of

NutrientName = Literal["sugar_g", "fat_g", "saturated_fat_g", "carbohydrate_g", "fiber_g", "protein_g", "sodium_mg"]

NUTRIENT_WORDS: Mapping[NutrientName, str] = {
    "sugar_g": "sugar",
    "fat_g": "fat",
    "saturated_fat_g": "saturated fat",
    "carbohydrate_g": "carbohydrate",
    "fiber_g": "fibre",
    "protein_g": "protein",
    "sodium_mg": "sodium",
}


class Band(BaseModel):
    """Strictly more than `over` (in the unit of what is counted) costs or earns `points`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    over: Annotated[Decimal, Field(ge=0)]
    points: Points


class NutrientRule(RuleBase):
    """A nutrient per 100 g; the highest band it lies in counts. `points` is what an unknown value costs (0: nothing).

    `part_of` names the nutrient that contains this one: where only that is known, it stands in, as the most it can be.
    """

    kind: Literal["nutrient"]
    nutrient: NutrientName
    part_of: NutrientName | None = None
    bands: Annotated[tuple[Band, ...], Field(min_length=1)]

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Find the band, or what not knowing costs."""
        name = self.nutrient
        if (value := _amount(facts.nutrition, nutrient=name)) is None and self.part_of:
            name = self.part_of
            value = _amount(facts.nutrition, nutrient=name)
        if value is None:
            words = NUTRIENT_WORDS[self.nutrient]
            if not self.points:
                return None
            return Hit(
                points=self.points,
                evidence=f"{words} is not known",
                source=MISSING,
                reason=f"does not say how much {words}; the worst is assumed",
            )
        exceeded = _exceeded(self.bands, value)
        if exceeded is None:
            return None
        unit = name.rpartition("_")[2]
        evidence = f"{NUTRIENT_WORDS[name]} {value:f} {unit} per 100 g, over {exceeded.over:f} {unit}"
        return Hit(points=exceeded.points, evidence=evidence, source=Source.NUTRITION_TABLE)


class IngredientCountRule(RuleBase):
    """The length of the ingredient list; the highest band it exceeds counts. `points` is unused and stays 0."""

    kind: Literal["ingredient_count"]
    points: Points = Decimal(0)
    bands: Annotated[tuple[Band, ...], Field(min_length=1)]

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Count the ingredients as listed."""
        count = len(facts.analysis.ingredients)
        exceeded = _exceeded(self.bands, Decimal(count))
        if exceeded is None:
            return None
        evidence = f"{count} ingredients, more than {exceeded.over:f}"
        return Hit(points=exceeded.points, evidence=evidence, source=Source.INGREDIENTS)


class MissingRule(RuleBase):
    """None of `inputs` is known."""

    kind: Literal["missing"]
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)]

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Look whether any of them is known."""
        if any(name in known for name in self.inputs):
            return None
        evidence = f"not known: {', '.join(name.words for name in self.inputs)}"
        return Hit(points=self.points, evidence=evidence, source=MISSING)


class KnownRule(RuleBase):
    """At least one of `any_of` and all of `all_of` are known."""

    kind: Literal["known"]
    any_of: tuple[Input, ...] = ()
    all_of: tuple[Input, ...] = ()

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Look whether they are known, and quote them."""
        found = [known[name] for name in (*self.any_of, *self.all_of) if name in known]
        enough = all(name in known for name in self.all_of)
        if self.any_of:
            enough = enough and any(name in known for name in self.any_of)
        if not enough:
            return None
        evidence = "; ".join(item.text for item in found)
        return Hit(points=self.points, evidence=shortened(evidence), source=found[0].source)

    @model_validator(mode="after")
    def _names_an_input(self) -> KnownRule:
        if not self.any_of and not self.all_of:
            raise ValueError(f"rule {self.id}: name at least one input in any_of or all_of")
        return self


class NameRule(RuleBase):
    """The name is shorter than `shorter_than` characters and uses none of the advertising `words`."""

    kind: Literal["plain_name"]
    shorter_than: Annotated[int, Field(ge=1)]
    words: tuple[str, ...]

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Read the name word by word."""
        name = facts.content.name
        if len(name) >= self.shorter_than or words_of(name).intersection(self.words):
            return None
        return Hit(points=self.points, evidence=shortened(name), source=Source.NAME)


class WarningRule(RuleBase):
    """No storage, usage or warning note, though the category (by one of its words) needs one.

    With `category_unknown` the rule also applies where nobody knows the category.
    """

    kind: Literal["needs_instructions"]
    categories: tuple[str, ...]
    """Words of category names, in lower case."""
    category_unknown: bool = False

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Look for a note where one is needed."""
        if Input.INSTRUCTIONS in known:
            return None
        category = facts.content.category
        if category and words_of(category).intersection(self.categories):
            return Hit(points=self.points, evidence=f"category {category}: no note found", source=MISSING)
        if not category and self.category_unknown:
            return Hit(points=self.points, evidence="category not known: no note found", source=MISSING)
        return None


def _exceeded(bands: Sequence[Band], value: Decimal) -> Band | None:
    return max((band for band in bands if value > band.over), key=lambda band: band.over, default=None)


def _amount(nutrition: Nutrition, *, nutrient: NutrientName) -> Decimal | None:
    value: Decimal | None = getattr(nutrition, nutrient)
    return value
