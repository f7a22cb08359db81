"""SQUOR v2: from the facts of one product to a score that explains itself.

    policies/*.toml   the published policy versions, as data
    inputs.py         which facts a score can rest on, and which of them are known
    rules.py          the kinds of rule a policy may contain, each with its test
    policy.py         Policy: weights, thresholds and rules; reading the published versions
    scorer.py         score() and combine(): the arithmetic, and SquorScore

A pure library: no clock, no database, no network. Owns how a score is computed and explained; not where it is stored
(the stage `scoring`), nor how facts are found (`squorflow.enrichment`).
"""

from __future__ import annotations

from squorflow.scoring.inputs import Input, known_inputs
from squorflow.scoring.policy import Component, Grade, Policy, Rating, default_policy, load_policies
from squorflow.scoring.rules import MISSING, POLICY, SubMetric
from squorflow.scoring.scorer import ComponentScore, Factor, Overall, SquorScore, combine, score

__all__ = [
    "MISSING",
    "POLICY",
    "Component",
    "ComponentScore",
    "Factor",
    "Grade",
    "Input",
    "Overall",
    "Policy",
    "Rating",
    "SquorScore",
    "SubMetric",
    "combine",
    "default_policy",
    "known_inputs",
    "load_policies",
    "score",
]
