"""The Gemini analyser: builds the question, has one of the two SDKs ask it, and judges the answer.

Owns the order of these steps and what an answer costs. The words are `prompt`, the form `reading`, the belief
`grounding`, the errors `failures`; the SDKs stand behind `generativeai` and `genai`. Answers are kept, and never bought
twice, by `squorflow.enrichment.answers`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError as InvalidReading

from squorflow.enrichment import AnalysisAnswer, AnalysisRequest, StopSign, Usage
from squorflow.enrichment.gemini.grounding import ground
from squorflow.enrichment.gemini.prompt import INSTRUCTIONS, fence
from squorflow.enrichment.gemini.reading import GeminiReading, response_schema
from squorflow.enrichment.gemini.wire import Question, Reply, Sdk
from squorflow.errors import DataError, ValidationError
from squorflow.products.facts import Analysis

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig

_LOG = logging.getLogger(__name__)
_MILLION = Decimal(1_000_000)
_FINISHED = "STOP"
_CUT_OFF = "MAX_TOKENS"
_GROUNDING = "1"
"""Goes up whenever `grounding` believes something else of the same answer."""


class GeminiAnalyzer:
    """Analyses by Gemini, with the offline rules as the floor."""

    uses_images = True
    is_paid = True

    def __init__(self, config: WorkflowConfig, *, sdk: Sdk) -> None:
        self._sdk = sdk
        self._input_price = config.gemini_input_price / _MILLION
        self._output_price = config.gemini_output_price / _MILLION
        self.name = config.gemini_model

    @cached_property
    def prompt_version(self) -> str:
        """A digest of all that decides what an answer means: instructions, schema, grounding and the form we keep."""
        parts = [INSTRUCTIONS, response_schema(), _GROUNDING, Analysis.model_json_schema()]
        return f"gemini-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]}"

    def analyze(self, request: AnalysisRequest, *, cancellation: StopSign) -> AnalysisAnswer:
        """Ask once, and return what can be believed of the answer.

        Errors about an answer that was paid for have its `usage` in their details.
        """
        cancellation.check()
        reply = self._sdk.generate(
            Question(
                instructions=INSTRUCTIONS,
                text=fence(request.content),
                images=request.images,
                schema=response_schema(),
            )
        )
        usage = self._usage(reply)
        reading = _read(reply, usage=usage)
        grounded = ground(reading, request.content, images=len(request.images))
        if grounded.dropped:
            _LOG.info(
                "%s said %d things that the page of %.80r does not bear out; they were dropped.",
                self.name,
                grounded.dropped,
                request.content.name,
            )
        return AnalysisAnswer(
            analysis=grounded.analysis,
            model_used=self.name,
            prompt_version=self.prompt_version,
            usage=usage,
            requests=1,
        )

    def _usage(self, reply: Reply) -> Usage:
        return Usage(
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            cost_usd=reply.input_tokens * self._input_price + reply.output_tokens * self._output_price,
        )


def _read(reply: Reply, *, usage: Usage) -> GeminiReading:
    """Return the reading in a reply; raises `DataError` for every reply that holds none."""
    details: dict[str, Any] = {"usage": usage.as_json()}
    if reply.block_reason:
        raise DataError(
            f"Gemini does not take this product's page ({reply.block_reason}). A person has to look at it.",
            code="blocked_prompt",
            details=details | {"block_reason": reply.block_reason},
        )
    if reply.finish_reason is None:
        raise DataError("Gemini answered without an answer.", code="empty_answer", details=details)
    if reply.finish_reason == _CUT_OFF:
        raise DataError(
            "Gemini's answer is longer than allowed and was cut off. Raise WORKFLOW_GEMINI_MAX_OUTPUT_TOKENS.",
            code="answer_cut_off",
            details=details,
        )
    if reply.finish_reason != _FINISHED:
        raise DataError(
            f"Gemini stopped its answer ({reply.finish_reason}). A person has to look at the product.",
            code="answer_stopped",
            details=details | {"finish_reason": reply.finish_reason},
        )
    if not reply.text.strip():
        raise DataError("Gemini answered without an answer.", code="empty_answer", details=details)
    try:
        return GeminiReading.model_validate_json(reply.text)
    except InvalidReading as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise ValidationError(
            f"Gemini's answer does not have the form it was asked for: {error.error_count()} errors.",
            code="invalid_answer",
            details=details | {"errors": [{"where": one["loc"], "what": one["msg"]} for one in problems[:20]]},
        ) from None
