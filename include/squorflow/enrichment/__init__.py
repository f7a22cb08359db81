"""Analysers: from a product's content and images to an Analysis.

Owns the seam every analyser keeps to and the choice of one. The offline rules are `squorflow.enrichment.offline`,
Gemini is `squorflow.enrichment.gemini`; what costs money is asked through `squorflow.enrichment.answers`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from squorflow.config import AnalyzerChoice, WorkflowConfig
from squorflow.errors import ConfigurationError

if TYPE_CHECKING:
    from squorflow.products.facts import Analysis, ProductContent

__all__ = [
    "AnalysisAnswer",
    "AnalysisRequest",
    "Analyzer",
    "ImageBlob",
    "StopSign",
    "Usage",
    "choose_analyzer",
]

_LOG = logging.getLogger(__name__)


class StopSign(Protocol):
    """What an analyser looks at between its steps."""

    def check(self) -> None:
        """Raise `Cancelled` if the work is no longer wanted."""

    def wait(self, seconds: float) -> None:
        """Sleep up to `seconds`; raise `Cancelled` as soon as the work is no longer wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBlob:
    """One image: its bytes and its media type ("image/jpeg")."""

    data: bytes = field(repr=False)
    mime_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisRequest:
    """What is to be analysed; `images` may be empty, and is when the analyser does not use any."""

    content: ProductContent
    images: Sequence[ImageBlob] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an answer cost: tokens read and written, and US dollars. All zero offline."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    def as_json(self) -> dict[str, Any]:
        """Return it as `error_details` and the answer cache keep it; the cost is text, so that no digit is lost."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": f"{self.cost_usd:f}",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisAnswer:
    """An analysis and where it comes from.

    `model_used` names the model or the rules with their version ("offline-rules/1"); `requests` counts calls to the
    outside (0 offline and for an answer out of the cache).
    """

    analysis: Analysis
    model_used: str
    prompt_version: str
    usage: Usage = Usage()
    requests: int = 0


class Analyzer(Protocol):
    """Reads a product's content (and images) and says what it found, with evidence for every finding."""

    @property
    def name(self) -> str:
        """The analyser's name and version, as `model_used` reports it."""

    @property
    def prompt_version(self) -> str:
        """The version of the instructions it follows; a new one makes cached answers void."""

    @property
    def uses_images(self) -> bool:
        """Whether image bytes are worth reading for it."""

    @property
    def is_paid(self) -> bool:
        """Whether its answers cost money, so that they are kept and asked for once."""

    def analyze(self, request: AnalysisRequest, *, cancellation: StopSign) -> AnalysisAnswer:
        """Return the analysis of one product.

        Raises `StageError` subclasses for what went wrong outside, `Cancelled` when told to stop, and
        `pydantic.ValidationError` when an answer does not fit `Analysis`.
        """


def choose_analyzer(config: WorkflowConfig) -> Analyzer:
    """Return the analyser this installation uses; the log says once a process which one that is.

    Raises `ConfigurationError` when Gemini is asked for by name and there is no key.
    """
    return _chosen(config)


@cache
def _chosen(config: WorkflowConfig) -> Analyzer:
    from squorflow.enrichment.offline import OfflineAnalyzer

    if config.analyzer is not AnalyzerChoice.OFFLINE:
        from squorflow.enrichment.gemini.access import find_settings, make_analyzer

        settings = find_settings(config)
        if settings is not None:
            _LOG.info("Products of %s are analysed by %s at %s.", config.instance, settings.model, settings.endpoint)
            return make_analyzer(config, settings=settings)
        if config.analyzer is not AnalyzerChoice.AUTO:
            raise ConfigurationError(
                f"WORKFLOW_ANALYZER is {config.analyzer.value} and there is no key: set the Airflow connection "
                "gemini_default (the key is its password) or GEMINI_API_KEY"
            )
    analyzer = OfflineAnalyzer()
    why = "as it is set" if config.analyzer is AnalyzerChoice.OFFLINE else "as there is no key for Gemini"
    _LOG.info("Products of %s are analysed by %s, %s: rules on text, no images.", config.instance, analyzer.name, why)
    return analyzer
