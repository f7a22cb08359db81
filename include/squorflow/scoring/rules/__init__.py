"""The kinds of rule a policy may contain: what each looks at, when it applies, and what it says as evidence.

A rule is data (points, caps, names) with one test, `check`. Numbers live in the policy files, never here.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from squorflow.scoring.rules.base import (
    MISSING,
    POLICY,
    CountingRule,
    FoundIn,
    Hit,
    Points,
    RuleBase,
    RuleId,
    SubMetric,
)
from squorflow.scoring.rules.findings import (
    AllergensVisibleRule,
    CertificationRule,
    ClaimRule,
    LacksCertificationRule,
    PalmOilRule,
    SubstanceRule,
    UndeclaredAllergenRule,
)
from squorflow.scoring.rules.label import (
    IngredientCountRule,
    KnownRule,
    MissingRule,
    NameRule,
    NutrientRule,
    WarningRule,
)

__all__ = [
    "MISSING",
    "POLICY",
    "CountingRule",
    "FoundIn",
    "Hit",
    "IngredientCountRule",
    "NutrientRule",
    "Points",
    "Rule",
    "RuleBase",
    "RuleId",
    "SubMetric",
]

Rule = Annotated[
    SubstanceRule
    | UndeclaredAllergenRule
    | AllergensVisibleRule
    | CertificationRule
    | LacksCertificationRule
    | ClaimRule
    | NutrientRule
    | IngredientCountRule
    | MissingRule
    | KnownRule
    | NameRule
    | PalmOilRule
    | WarningRule,
    Field(discriminator="kind"),
]
"""Any rule; its `kind` says which."""
