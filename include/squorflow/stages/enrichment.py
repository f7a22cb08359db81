"""Stage 3: has the product analysed, by whichever analyser this installation uses.

Writes nothing of its own: the analysis goes into the checkpoint, and data_mapping stores it with the facts. An answer
that costs money, and what it cost, is kept by `squorflow.enrichment.answers` when it arrives.
"""

from __future__ import annotations

from pydantic import ValidationError as InvalidAnswer

from squorflow.enrichment import AnalysisRequest, ImageBlob, answers
from squorflow.errors import ValidationError
from squorflow.products.facts import ProductContent
from squorflow.stages.context import StageContext, StageResult
from squorflow.states import Stage

_SHARE_OF_TIMEOUT = 0.5
"""Part of the stage's time that is spent waiting for another worker's answer."""


def run(context: StageContext) -> StageResult:
    """Build the request from content and stored images, and return the analyser's answer.

    Raises `ValidationError` when the answer does not fit, `ConfigurationError` when the key is missing that the
    settings ask for, and whatever the analyser raises for the outside world.
    """
    context.cancellation.check()
    analyzer = context.clients.find_analyzer()
    images = _images(context) if analyzer.uses_images else []
    request = AnalysisRequest(
        content=ProductContent.model_validate(context.outputs[Stage.DISCOVERY]["content"]), images=images
    )
    context.cancellation.check()
    try:
        answer = answers.obtain(
            analyzer,
            request,
            database=context.database,
            config=context.config,
            spender=answers.Spender(workflow_id=context.workflow_id, stage=context.stage.value),
            cancellation=context.cancellation,
            patience=context.config.processing_timeout * _SHARE_OF_TIMEOUT,
        )
    except InvalidAnswer as error:
        raise ValidationError(
            f"The answer of {analyzer.name} does not have the form it was asked for: {error.error_count()} errors.",
            code="invalid_answer",
            details={"errors": error.errors(include_url=False, include_input=False, include_context=False)[:20]},
        ) from error
    context.cancellation.check()
    analysis = answer.analysis
    return StageResult(
        summary=(
            f"{answer.model_used}: {len(analysis.ingredients)} ingredients, {len(analysis.substances)} substances, "
            f"{len(analysis.allergens)} allergens, language {analysis.language or 'unknown'}"
        ),
        output={
            "analysis": analysis.model_dump(mode="json"),
            "model_used": answer.model_used,
            "prompt_version": answer.prompt_version,
            "images_used": len(images),
        },
    )


def _images(context: StageContext) -> list[ImageBlob]:
    """Read the first images, as many as the settings allow in number and bytes."""
    images: list[ImageBlob] = []
    left = context.config.analysis_image_bytes
    for stored in context.outputs[Stage.IMAGE_FETCH].get("images", []):
        if len(images) >= context.config.analysis_images:
            break
        data = context.clients.image_store.read(stored["sha256"], stored["mime_type"])
        if len(data) <= left:
            left -= len(data)
            images.append(ImageBlob(data=data, mime_type=stored["mime_type"]))
    return images
