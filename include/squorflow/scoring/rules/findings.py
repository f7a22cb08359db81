"""Rules about what an analyser found: substances, allergens, certificates, claims, palm oil.

Matching is on what the analyser already named; nothing here reads ingredient text.
"""

from __future__ import annotations

import re
from typing import Literal

from squorflow.products.facts import Certification, ClaimKind, ProductFacts, Source, SubstanceKind
from squorflow.scoring.inputs import Input, Known, shortened
from squorflow.scoring.rules.base import MISSING, CountingRule, Hit, RuleBase


class SubstanceRule(CountingRule):
    """Substances of one of `kinds`, or named in `substances`, each counted once; those in `besides` never."""

    kind: Literal["substances"]
    kinds: tuple[SubstanceKind, ...] = ()
    substances: tuple[str, ...] = ()
    besides: tuple[SubstanceKind, ...] = ()

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Count the substances found."""
        return self.hit(
            (substance.substance, substance.evidence)
            for substance in facts.analysis.substances
            if (set(self.kinds).intersection(substance.kinds) or substance.substance in self.substances)
            and not set(self.besides).intersection(substance.kinds)
        )


class UndeclaredAllergenRule(CountingRule):
    """Allergens among the ingredients that the label does not declare."""

    kind: Literal["undeclared_allergens"]

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Count the allergens that are in the product but not in its declaration."""
        declared = {finding.allergen for finding in facts.analysis.allergens_declared}
        return self.hit(
            (finding.allergen.value, finding.evidence)
            for finding in facts.analysis.allergens
            if finding.allergen not in declared
        )


class AllergensVisibleRule(RuleBase):
    """The ingredients are known and every allergen among them is declared; no allergen needs no declaration."""

    kind: Literal["allergens_visible"]

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Compare the allergens found with those declared."""
        analysis = facts.analysis
        if not analysis.ingredients:
            return None
        found = {finding.allergen for finding in analysis.allergens}
        if found - {finding.allergen for finding in analysis.allergens_declared}:
            return None
        names = ", ".join(sorted(found))
        evidence = f"declared: {names}" if found else "no allergen is among the ingredients"
        return Hit(points=self.points, evidence=evidence, source=Source.ALLERGEN_LIST if found else Source.INGREDIENTS)


class CertificationRule(CountingRule):
    """Certificates and marks named in `certifications`, each counted once; an empty list means any."""

    kind: Literal["certifications"]
    certifications: tuple[Certification, ...] = ()

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Count the certificates found."""
        return self.hit(
            (finding.certification.value, finding.evidence)
            for finding in facts.analysis.certifications
            if not self.certifications or finding.certification in self.certifications
        )


class LacksCertificationRule(RuleBase):
    """Certificates are known, `certification` is not among them, and the law where it is sold asks for it.

    With `where_unknown` the rule applies instead where nobody knows in which countries the product is sold.
    """

    kind: Literal["lacks_certification"]
    certification: Certification
    sold_in: tuple[str, ...] = ()
    """Names of the country, in lower case."""
    where_unknown: bool = False

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Look for the certificate where it is asked for."""
        found = {finding.certification for finding in facts.analysis.certifications}
        if Input.CERTIFICATIONS not in known or self.certification in found:
            return None
        countries = {re.sub(r"^[a-z]{2}:", "", country.strip().casefold()) for country in facts.content.countries}
        if countries.intersection(self.sold_in):
            evidence = f"sold in {', '.join(facts.content.countries)}; no {self.certification.upper()} mark"
        elif self.where_unknown and not countries:
            evidence = f"{Input.COUNTRIES.words} are not known; no {self.certification.upper()} mark"
        else:
            return None
        return Hit(points=self.points, evidence=shortened(evidence), source=MISSING)


class ClaimRule(CountingRule):
    """Claims of one of `claims`, each kind counted once."""

    kind: Literal["claims"]
    claims: tuple[ClaimKind, ...]

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Count the claims found."""
        return self.hit(
            (finding.claim.value, finding.evidence) for finding in facts.analysis.claims if finding.claim in self.claims
        )


class PalmOilRule(RuleBase):
    """Palm oil: `absent` (ingredients known, none listed), `sustainable` (with a claim or RSPO), or `plain`."""

    kind: Literal["palm_oil"]
    outcome: Literal["absent", "sustainable", "plain"]

    def check(self, facts: ProductFacts, known: Known) -> Hit | None:
        """Look for palm oil and for what is said about it."""
        analysis = facts.analysis
        palm = [item.evidence for item in analysis.substances if SubstanceKind.PALM_OIL in item.kinds]
        if not palm:
            if self.outcome != "absent" or not analysis.ingredients:
                return None
            evidence = "no palm oil among the ingredients"
            return Hit(points=self.points, evidence=evidence, source=Source.INGREDIENTS)
        claims = [item.evidence for item in analysis.claims if item.claim is ClaimKind.SUSTAINABLE_PALM]
        marks = [item.evidence for item in analysis.certifications if item.certification is Certification.RSPO]
        if self.outcome != ("sustainable" if claims or marks else "plain"):
            return None
        first = next(iter((*claims, *marks, *palm)))
        return Hit(points=self.points, evidence=first.text, source=first.source)
