"""Analysers: from a product's content and images to an Analysis.

Owns the seam every analyser keeps to and the choice of one. The offline rules are `squorflow.enrichment.offline`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
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

    def analyze(self, request: AnalysisRequest, *, cancellation: StopSign) -> AnalysisAnswer:
        """Return the analysis of one product.

        Raises `StageError` subclasses for what went wrong outside, `Cancelled` when told to stop, and
        `pydantic.ValidationError` when an answer does not fit `Analysis`.
        """


def choose_analyzer(config: WorkflowConfig) -> Analyzer:
    """Return the analyser this installation uses; the log says once a process which one that is."""
    return _chosen(config.instance)


@cache
def _chosen(instance: str) -> Analyzer:
    from squorflow.enrichment.offline import OfflineAnalyzer

    analyzer = OfflineAnalyzer()
    _LOG.info("Products of %s are analysed by %s: rules on text, no network, no images.", instance, analyzer.name)
    return analyzer
