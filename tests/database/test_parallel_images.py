"""The images of one product, fetched at the same time: order, bounds and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled, DataError, NetworkError, SystemFault
from squorflow.postgres.database import Database
from squorflow.products.facts import ProductContent
from squorflow.products.image_store import ImageStore, StoredImage
from squorflow.products.images import CancelCheck, FetchedImage
from squorflow.stages import image_fetch
from squorflow.stages.context import Cancellation, Clients, StageContext
from squorflow.states import Stage

PATIENCE_SECONDS = 30
Behaviour = Callable[[int, CancelCheck], None]


def _image(number: int) -> FetchedImage:
    return FetchedImage(
        url=f"https://shop.example/{number}.png",
        content=f"picture {number}".encode(),
        sha256="",
        mime_type="image/png",
        width=64,
        height=48,
    )


class Shop:
    """An image fetcher that behaves as it is told for each image, and counts how many are under way."""

    pause = timedelta(0)

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self._lock = threading.Lock()
        self._under_way = 0
        self.most = 0
        self.asked: list[int] = []

    def fetch(self, url: str, *, cancellation: CancelCheck) -> FetchedImage:
        number = int(url.rpartition("/")[2].removesuffix(".png"))
        with self._lock:
            self.asked.append(number)
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            self._behave(number, cancellation)
        finally:
            with self._lock:
                self._under_way -= 1
        return _image(number)


@pytest.fixture
def fetching(database: Database, config: WorkflowConfig, tmp_path: Any) -> Callable[..., StageContext]:
    def make(shop: Shop, *, images: int, wanted: int, store: Any = None, **configured: Any) -> StageContext:
        chosen = config.model_copy(
            update={"images_per_product": wanted, "image_store": str(tmp_path / "images"), **configured}
        )
        return StageContext(
            workflow_id=UUID(int=1),
            stage=Stage.IMAGE_FETCH,
            token=1,
            retry_count=0,
            max_retries=3,
            queued_at=datetime.now(UTC),
            crawler_data={},
            outputs={
                Stage.DISCOVERY: {
                    "content": ProductContent(name="Cola", ingredients_text="Water").model_dump(mode="json"),
                    "images": [f"https://shop.example/{number}.png" for number in range(images)],
                    "product_id": str(UUID(int=2)),
                    "notes": [],
                }
            },
            config=chosen,
            clients=cast(Clients, SimpleNamespace(image_fetcher=shop, image_store=store or ImageStore(chosen))),
            cancellation=Cancellation(),
            database=database,
        )

    return make


def _threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("image_fetch")]


def _numbers(images: list[dict[str, Any]]) -> list[int]:
    return [int(image["url"].rpartition("/")[2].removesuffix(".png")) for image in images]


def test_once_a_host_has_answered_its_other_images_are_fetched_together(fetching: Callable[..., StageContext]) -> None:
    together = threading.Barrier(4)

    def behave(number: int, _: CancelCheck) -> None:
        if number > 0:
            together.wait(PATIENCE_SECONDS)

    shop = Shop(behave)
    output = image_fetch.run(fetching(shop, images=5, wanted=5)).output
    assert _numbers(output["images"]) == [0, 1, 2, 3, 4]
    assert (shop.asked[0], shop.most) == (0, 4)
    assert _threads_left() == []


def test_images_are_handed_on_in_page_order_whichever_comes_first(fetching: Callable[..., StageContext]) -> None:
    last_has_come = threading.Event()

    def behave(number: int, _: CancelCheck) -> None:
        if number == 3:
            last_has_come.set()
        if number in {1, 2}:
            assert last_has_come.wait(PATIENCE_SECONDS)
        if number == 2:
            raise DataError("the image's host answered 404", code="image_missing")

    output = image_fetch.run(fetching(Shop(behave), images=4, wanted=5)).output
    assert (_numbers(output["images"]), _numbers(output["unusable"])) == ([0, 1, 3], [2])


def test_no_more_are_under_way_than_are_still_needed(fetching: Callable[..., StageContext]) -> None:
    def behave(number: int, _: CancelCheck) -> None:
        if number in {1, 2}:
            raise DataError("the image's host answered 404", code="image_missing")

    shop = Shop(behave)
    output = image_fetch.run(fetching(shop, images=9, wanted=3)).output
    assert _numbers(output["images"]) == [0, 3, 4]
    assert sorted(shop.asked) == [0, 1, 2, 3, 4]
    assert shop.most <= 2


def test_many_images_are_fetched_only_so_many_at_a_time(fetching: Callable[..., StageContext]) -> None:
    together = threading.Barrier(image_fetch.MOST_AT_A_TIME)

    def behave(number: int, _: CancelCheck) -> None:
        if number > 0:
            together.wait(PATIENCE_SECONDS)

    shop = Shop(behave)
    images = 2 * image_fetch.MOST_AT_A_TIME + 1
    assert len(image_fetch.run(fetching(shop, images=images, wanted=images)).output["images"]) == images
    assert shop.most == image_fetch.MOST_AT_A_TIME


def test_a_host_that_goes_silent_later_is_not_asked_again(fetching: Callable[..., StageContext]) -> None:
    def behave(number: int, _: CancelCheck) -> None:
        if number > 0:
            raise NetworkError("shop.example did not answer in time", code="image_timeout")

    shop = Shop(behave)
    output = image_fetch.run(fetching(shop, images=9, wanted=2, breaker_threshold=50)).output
    assert sorted(shop.asked) == [0, 1, 1]
    assert [image["reason"].startswith("not tried") for image in output["unusable"]] == [False, *[True] * 7]


def test_a_cancelled_stage_stops_all_its_fetches(fetching: Callable[..., StageContext]) -> None:
    under_way = threading.Barrier(3)

    def behave(number: int, cancellation: CancelCheck) -> None:
        if number == 0:
            return
        if under_way.wait(PATIENCE_SECONDS) == 0:
            context.cancellation.cancel("a person said so")
        assert isinstance(cancellation, Cancellation)
        cancellation.wait(PATIENCE_SECONDS)

    context = fetching(Shop(behave), images=4, wanted=4)
    with pytest.raises(Cancelled, match="a person said so"):
        image_fetch.run(context)
    assert _threads_left() == []


def test_what_ends_the_stage_ends_the_fetches_that_are_under_way(fetching: Callable[..., StageContext]) -> None:
    stopped: list[int] = []

    class FullStore:
        def put(self, content: bytes, mime_type: str) -> StoredImage:
            if content == b"picture 0":
                return StoredImage(sha256="", mime_type=mime_type, stored_at="0.png", size_bytes=len(content))
            raise SystemFault("The image store cannot be written (disk full).", code="image_store_write")

    def behave(number: int, cancellation: CancelCheck) -> None:
        if number in {2, 3}:
            assert isinstance(cancellation, Cancellation)
            try:
                cancellation.wait(PATIENCE_SECONDS)
            except Cancelled:
                stopped.append(number)
                raise

    with pytest.raises(SystemFault, match="disk full"):
        image_fetch.run(fetching(Shop(behave), images=4, wanted=4, store=FullStore()))
    assert sorted(stopped) == [2, 3]
    assert _threads_left() == []


def test_after_half_of_the_stages_time_no_further_address_is_tried(fetching: Callable[..., StageContext]) -> None:
    shop = Shop(lambda _number, _cancellation: None)
    output = image_fetch.run(fetching(shop, images=2, wanted=2, processing_timeout=timedelta(0))).output
    assert shop.asked == []
    assert {image["reason"] for image in output["unusable"]} == {"not tried: the other images took too long"}
