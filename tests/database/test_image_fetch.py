"""Image_fetch on a real database: what is fetched, stored and recorded, and what a product does without images."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled, DataError, MachineFault, NetworkError, RateLimitError
from squorflow.postgres.database import Database
from squorflow.products import images, picture_process
from squorflow.products.images import ImageStore
from squorflow.stages.context import Cancellation, JsonObject
from support.image_server import Answer, ImageServer, picture
from support.workflows import value
from support.workshop import Workshop, page


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as running:
        yield running


@pytest.fixture
def workshop(database: Database, config: WorkflowConfig, server: ImageServer) -> Workshop:
    return Workshop(database, config.model_copy(update={"image_allow": (server.host,)}))


def discovered(workshop: Workshop, *images: str, details: dict[str, Any] | None = None) -> JsonObject:
    return workshop.discover(page(images=list(images), details=details or {}))


NO_TEXT = {"ingredients_text": None}


def test_images_are_fetched_stored_and_recorded(workshop: Workshop, server: ImageServer) -> None:
    url = server.serve_picture("/a.png")
    output = workshop.fetch_images(discovered(workshop, url))
    (image,) = output["images"]
    (row,) = workshop.rows("product_image")
    assert image == {key: row[key] for key in ("url", "sha256", "mime_type", "width", "height", "stored_at")}
    assert (row["status"], row["position"], row["reason"]) == ("stored", 0, None)
    assert len(ImageStore(workshop.config).read(image["sha256"], "image/png")) == row["size_bytes"]


def test_fetching_the_same_images_again_writes_nothing(workshop: Workshop, server: ImageServer) -> None:
    found = discovered(workshop, server.serve_picture("/a.png"), server.serve("/b.png", Answer(status=404)))
    first = workshop.fetch_images(found)
    before = workshop.everything()
    assert workshop.fetch_images(found) == first
    assert workshop.everything() == before


def test_no_more_images_are_fetched_than_allowed(workshop: Workshop, server: ImageServer) -> None:
    workshop.config = workshop.config.model_copy(update={"images_per_product": 2})
    urls = [server.serve_picture(f"/{number}.png") for number in range(4)]
    assert len(workshop.fetch_images(discovered(workshop, *urls))["images"]) <= 2
    assert sum(server.requests.values()) == 2


def test_one_picture_at_two_addresses_is_handed_on_once(workshop: Workshop, server: ImageServer) -> None:
    output = workshop.fetch_images(discovered(workshop, server.serve_picture("/a.png"), server.serve_picture("/b.png")))
    assert [image["url"] for image in output["images"]] == [f"http://{server.host}/a.png"]
    assert len(workshop.rows("product_image")) == 2


def test_a_product_with_text_goes_on_without_images_and_keeps_the_reasons(
    workshop: Workshop, server: ImageServer
) -> None:
    urls = [
        server.serve("/gone.png", Answer(status=404)),
        server.serve("/broken.png", Answer(status=500)),
        server.serve("/busy.png", Answer(status=429)),
        "http://192.0.2.1/a.png",
    ]
    output = workshop.fetch_images(discovered(workshop, *urls))
    assert output["images"] == []
    assert [image["url"] for image in output["unusable"]] == urls
    assert "not admitted" in output["unusable"][3]["reason"]
    assert {row["status"] for row in workshop.rows("product_image")} == {"unusable"}


@pytest.mark.parametrize(
    ("answer", "attempts"), [(Answer(status=500), 2), (Answer(status=404), 1), (Answer(status=429), 1)]
)
def test_only_an_error_that_may_be_over_soon_gets_a_second_attempt(
    workshop: Workshop, server: ImageServer, answer: Answer, attempts: int
) -> None:
    workshop.fetch_images(discovered(workshop, server.serve("/a.png", answer)))
    assert server.requests["/a.png"] == attempts


def test_a_second_attempt_may_succeed(workshop: Workshop, server: ImageServer) -> None:
    url = server.serve("/a.png", Answer(status=503), Answer(body=picture()))
    assert len(workshop.fetch_images(discovered(workshop, url))["images"]) == 1


def test_a_host_that_does_not_answer_is_asked_for_one_image_only(workshop: Workshop, server: ImageServer) -> None:
    dead = "127.0.0.1:9"
    workshop.config = workshop.config.model_copy(update={"image_allow": (dead, server.host)})
    urls = [f"http://{dead}/{number}.png" for number in range(3)]
    output = workshop.fetch_images(discovered(workshop, *urls, server.serve_picture("/a.png")))
    assert len(output["images"]) == 1
    assert [image["reason"].startswith("not tried") for image in output["unusable"]] == [False, True, True]


def test_a_stored_image_is_not_forgotten_because_its_host_fails_today(workshop: Workshop, server: ImageServer) -> None:
    found = discovered(workshop, server.serve_picture("/a.png"))
    workshop.fetch_images(found)
    before = workshop.rows("product_image")
    server.serve("/a.png", Answer(status=404))
    workshop.fetch_images(found)
    assert workshop.rows("product_image") == before


@pytest.mark.parametrize(
    ("answer", "error"),
    [(Answer(status=404), DataError), (Answer(status=500), NetworkError), (Answer(status=429), RateLimitError)],
)
def test_without_text_the_lack_of_any_image_is_an_error(
    workshop: Workshop, server: ImageServer, answer: Answer, error: type[Exception]
) -> None:
    found = discovered(workshop, server.serve("/a.png", answer), details=NO_TEXT)
    with pytest.raises(error):
        workshop.fetch_images(found)
    assert workshop.rows("product_image") == []


def test_without_text_one_usable_image_is_enough(workshop: Workshop, server: ImageServer) -> None:
    urls = (server.serve("/gone.png", Answer(status=500)), server.serve_picture("/a.png"))
    assert len(workshop.fetch_images(discovered(workshop, *urls, details=NO_TEXT))["images"]) == 1


def test_a_product_with_neither_text_nor_images_is_for_a_person(workshop: Workshop) -> None:
    with pytest.raises(DataError) as caught:
        workshop.fetch_images(discovered(workshop, details=NO_TEXT))
    assert caught.value.code == "no_usable_image"
    assert str(caught.value).endswith("Add ingredients, nutrition, a description or an image.")


def test_a_person_is_told_which_text_could_not_be_used(workshop: Workshop) -> None:
    details = {"ingredients_text": [{"id": "oats"}], "description": {"en": "Oats"}, "rating": "very"}
    with pytest.raises(DataError) as caught:
        workshop.fetch_images(discovered(workshop, details=details))
    assert str(caught.value).endswith(
        "description was left out: text was expected, not a dict. "
        "ingredients_text was left out: text was expected, not a dict."
    )


def test_ingredients_that_come_as_a_list_are_text_enough(workshop: Workshop) -> None:
    found = discovered(workshop, details={"ingredients_text": ["whole oats", "sugar"]})
    assert found["content"]["ingredients_text"] == "whole oats, sugar"
    assert workshop.fetch_images(found)["images"] == []


def test_a_cancelled_stage_asks_for_no_image(workshop: Workshop, server: ImageServer) -> None:
    cancellation = Cancellation()
    cancellation.cancel("a person said so")
    with pytest.raises(Cancelled):
        workshop.fetch_images(discovered(workshop, server.serve_picture("/a.png")), cancellation=cancellation)
    assert not server.requests


def _full_disk(*_: Any, **__: Any) -> Any:
    """Open a file on which the kernel itself finds no space left."""
    return Path("/dev/full").open("w+b")


@pytest.mark.parametrize("where", [images, picture_process], ids=["what comes", "what is decoded"])
@pytest.mark.parametrize("size", [16, 2_000])
def test_a_full_disk_is_the_machines_fault_and_neither_the_pictures_nor_its_hosts(
    workshop: Workshop, server: ImageServer, monkeypatch: pytest.MonkeyPatch, where: Any, size: int
) -> None:
    """The product has text; it waits all the same, since its pictures are sound."""
    found = discovered(workshop, server.serve_picture("/a.png", picture(size=(size, size))))
    with monkeypatch.context() as patched:
        patched.setattr(where, "TemporaryFile", _full_disk)
        with pytest.raises(MachineFault, match="TMPDIR") as caught:
            workshop.fetch_images(found)
    assert caught.value.code == "no_room_for_picture"
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert value(workshop.database, "SELECT count(*) FROM circuit_breaker") == 0
    assert len(workshop.fetch_images(found)["images"]) == 1


def test_a_temporary_folder_that_is_not_there_is_the_machines_fault(
    workshop: Workshop, server: ImageServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = discovered(workshop, server.serve_picture("/a.png"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(MachineFault, match="No such file or directory"):
        workshop.fetch_images(found)
