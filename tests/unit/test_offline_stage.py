"""The enrichment stage around an analyser: what it hands over, and what it makes of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest

from squorflow.config import WorkflowConfig
from squorflow.enrichment import AnalysisAnswer, AnalysisRequest, Analyzer, StopSign
from squorflow.enrichment.offline import OfflineAnalyzer
from squorflow.errors import Cancelled, ValidationError
from squorflow.postgres.database import Database
from squorflow.products.facts import Analysis, ProductContent
from squorflow.products.image_store import ImageStore
from squorflow.products.images import ImageFetcher
from squorflow.stages.context import Cancellation, Clients, StageContext
from squorflow.stages.enrichment import run
from squorflow.states import Stage

CONTENT = ProductContent(name="Cookies", ingredients_text="Wheat flour, sugar, E322")


@dataclass
class Recorder:
    """An analyser that remembers what it was asked, and answers with what it was given."""

    answer: AnalysisAnswer | None = None
    name: str = "recorder/1"
    prompt_version: str = "p1"
    uses_images: bool = True
    is_paid: bool = False
    requests: list[AnalysisRequest] = field(default_factory=list)

    def analyze(self, request: AnalysisRequest, *, cancellation: StopSign) -> AnalysisAnswer:
        cancellation.check()
        self.requests.append(request)
        if self.answer is None:
            Analysis.model_validate({"confidence": 7})
        assert self.answer is not None
        return self.answer


def context(
    folder: Path, analyzer: Analyzer, *, images: tuple[bytes, ...] = (), cancellation: Cancellation | None = None
) -> StageContext:
    config = WorkflowConfig(home=folder)
    store = ImageStore(config)
    stored = [store.put(image, "image/png") for image in images]
    return StageContext(
        workflow_id=UUID(int=1),
        stage=Stage.ENRICHMENT,
        token=1,
        retry_count=0,
        max_retries=3,
        queued_at=datetime(2026, 1, 1, tzinfo=UTC),
        crawler_data={},
        outputs={
            Stage.DISCOVERY: {"content": CONTENT.model_dump(mode="json")},
            Stage.IMAGE_FETCH: {
                "images": [
                    {"sha256": one.sha256, "mime_type": one.mime_type, "stored_at": one.stored_at} for one in stored
                ]
            },
        },
        config=config,
        clients=Clients(find_analyzer=lambda: analyzer, image_fetcher=ImageFetcher(config), image_store=store),
        cancellation=cancellation or Cancellation(),
        database=cast(Database, None),
    )


def answer() -> AnalysisAnswer:
    return AnalysisAnswer(analysis=Analysis(confidence=0.5), model_used="recorder/1", prompt_version="p1")


def test_the_offline_analysis_of_a_product_goes_into_the_output(tmp_path):
    result = run(context(tmp_path, OfflineAnalyzer(), images=(b"not looked at",)))

    analysis = Analysis.model_validate(result.output["analysis"])
    assert [one.substance for one in analysis.substances] == ["e322"]
    assert result.output["model_used"] == "offline-rules/1"
    assert result.output["images_used"] == 0
    assert result.measures == {}


def test_the_bytes_of_stored_images_are_handed_over(tmp_path):
    recorder = Recorder(answer())

    result = run(context(tmp_path, recorder, images=(b"one", b"two")))

    (request,) = recorder.requests
    assert [(image.data, image.mime_type) for image in request.images] == [(b"one", "image/png"), (b"two", "image/png")]
    assert result.output["images_used"] == 2


def test_no_more_images_are_handed_over_than_the_settings_allow(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKFLOW_ANALYSIS_IMAGES", "2")
    monkeypatch.setenv("WORKFLOW_ANALYSIS_IMAGE_BYTES", "10")
    recorder = Recorder(answer())

    run(context(tmp_path, recorder, images=(b"eleven bytes", b"one", b"two", b"three")))

    assert [image.data for image in recorder.requests[0].images] == [b"one", b"two"]


def test_an_analyser_that_uses_no_images_is_given_none(tmp_path):
    recorder = Recorder(answer(), uses_images=False)

    run(context(tmp_path, recorder, images=(b"one",)))

    assert recorder.requests[0].images == []


def test_an_answer_that_does_not_fit_is_bad_data(tmp_path):
    with pytest.raises(ValidationError, match="recorder/1") as caught:
        run(context(tmp_path, Recorder()))

    assert caught.value.code == "invalid_answer"


def test_a_cancelled_stage_asks_nobody(tmp_path):
    cancellation, recorder = Cancellation(), Recorder(answer())
    cancellation.cancel("stopped by a person")

    with pytest.raises(Cancelled):
        run(context(tmp_path, recorder, cancellation=cancellation))

    assert recorder.requests == []
