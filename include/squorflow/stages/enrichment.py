"""Stage 3: has the product analysed, by whichever analyser this installation uses.

Writes nothing of its own: the analysis goes into the checkpoint, and data_mapping stores it with the facts.
"""

from __future__ import annotations

from pydantic import ValidationError as InvalidAnswer

from squorflow.enrichment import AnalysisRequest, ImageBlob
from squorflow.errors import ValidationError
from squorflow.products.facts import ProductContent
from squorflow.stages.context import StageContext, StageResult
from squorflow.states import Stage


def run(context: StageContext) -> StageResult:
    """Build the request from content and stored images, and return the analyser's answer.

    Raises `ValidationError` when the answer does not fit, and whatever the analyser raises for the outside world.
    """
    context.cancellation.check()
    analyzer = context.clients.analyzer
    stored = context.outputs[Stage.IMAGE_FETCH].get("images", []) if analyzer.uses_images else []
    images = [
        ImageBlob(
            data=context.clients.image_store.read(image["sha256"], image["mime_type"]), mime_type=image["mime_type"]
        )
        for image in stored
    ]
    request = AnalysisRequest(
        content=ProductContent.model_validate(context.outputs[Stage.DISCOVERY]["content"]), images=images
    )
    context.cancellation.check()
    try:
        answer = analyzer.analyze(request, cancellation=context.cancellation)
    except InvalidAnswer as error:
        raise ValidationError(
            f"The answer of {analyzer.name} does not have the form it was asked for: {error.error_count()} errors.",
            code="invalid_answer",
            details={"errors": error.errors(include_url=False, include_input=False, include_context=False)[:20]},
        ) from error
    context.cancellation.check()
    usage = answer.usage
    measures = {
        "tokens": float(usage.input_tokens + usage.output_tokens),
        "cost": float(usage.cost_usd),
        "requests": float(answer.requests),
    }
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
        measures={name: value for name, value in measures.items() if value > 0},
    )
