"""What becomes of each attack of `support.hostile_images`: which error, in which words, or a harmless picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled, DataError, NetworkError
from squorflow.products.images import ImageFetcher, ImageLimits
from squorflow.products.picture_process import clean_apart
from squorflow.stages.context import Cancellation
from support.hostile_images import MARK, hostile_answers
from support.image_server import Answer, ImageServer, picture

SOUND = ("sound", "")
NO_IMAGE = ("not_an_image", "no JPEG, PNG, WebP, GIF or AVIF image, or one that is broken or takes too much memory")
TOO_MANY_BYTES = ("image_too_large", "larger than 10,485,760 bytes")
COMPRESSED = ("image_encoding", "came compressed although that was declined")
LATE = ("image_timeout", "did not answer in time")
NO_HTTP = ("image_network", "RemoteProtocolError")


def pixels(most: str) -> tuple[str, str]:
    return "image_too_large", f"more than {most},000,000 pixels"


OUTCOMES = {
    "endless body": TOO_MANY_BYTES,
    "endless picture": TOO_MANY_BYTES,
    "endless headers": NO_HTTP,
    "slow drip": LATE,
    "slow picture": LATE,
    "silence": LATE,
    "gzip, declared": COMPRESSED,
    "gzip, undeclared": NO_IMAGE,
    "deflate in gzip": COMPRESSED,
    "length too long": NO_HTTP,
    "length too short": NO_IMAGE,
    "length of 10 GB": TOO_MANY_BYTES,
    "length below zero": NO_HTTP,
    "two lengths": NO_HTTP,
    "truncated": NO_IMAGE,
    "truncated head": NO_IMAGE,
    "nothing": NO_IMAGE,
    "page named png": NO_IMAGE,
    "picture named page": SOUND,
    "svg with script": NO_IMAGE,
    "postscript": NO_IMAGE,
    "polyglot gif": SOUND,
    "polyglot jpeg": SOUND,
    "polyglot png": SOUND,
    "claims png": pixels("24"),
    "claims gif": pixels("24"),
    "claims gif frame": pixels("24"),
    "claims jpeg": pixels("24"),
    "claims webp": pixels("24"),
    "claims avif": NO_IMAGE,
    "hides avif": NO_IMAGE,
    "bomb in idat": SOUND,
    "bomb in ztxt": NO_IMAGE,
    "bomb in itxt": NO_IMAGE,
    "bomb in iccp": NO_IMAGE,
    "100 megapixels": pixels("12"),
    "a long line": pixels("12"),
    "2,000 frames gif": SOUND,
    "500 frames png": SOUND,
    "500 frames webp": SOUND,
    "10,000 scans": ("image_too_large", "more than 10 s to decode"),
}
"""The code of the error and a part of its text, by attack."""


@pytest.fixture(scope="module")
def attacks() -> dict[str, Answer]:
    return hostile_answers()


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as running:
        yield running


@pytest.fixture
def name() -> str:
    """Name no attack; where one is tried, the test does."""
    return ""


@pytest.fixture
def fetcher(server: ImageServer, name: str) -> Iterator[ImageFetcher]:
    """A fetcher with little time for what never comes in time, and much for all else: the machine may be slow."""
    seconds = 1 if OUTCOMES.get(name) == LATE else 60
    limits = ImageLimits(read_timeout=timedelta(seconds=seconds / 2), total_timeout=timedelta(seconds=seconds))
    made = ImageFetcher(WorkflowConfig(image_allow=(server.host,)), limits=limits)
    yield made
    made.close()


def test_every_attack_has_an_outcome(attacks: dict[str, Answer]) -> None:
    assert attacks.keys() == OUTCOMES.keys()


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if outcome != SOUND])
def test_an_attack_is_refused(
    server: ImageServer, fetcher: ImageFetcher, attacks: dict[str, Answer], name: str
) -> None:
    code, text = OUTCOMES[name]
    with pytest.raises((DataError, NetworkError), match=re.escape(text)) as caught:
        fetcher.fetch(server.serve("/a.png", attacks[name]), cancellation=Cancellation())
    assert caught.value.code == code


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if outcome == SOUND])
def test_what_can_be_made_harmless_is_one_small_picture(
    server: ImageServer, fetcher: ImageFetcher, attacks: dict[str, Answer], name: str
) -> None:
    image = fetcher.fetch(server.serve("/a.html", attacks[name]), cancellation=Cancellation())
    assert (image.width, image.height) in {(64, 48), (64, 64)}
    assert MARK not in image.content
    assert len(image.content) < 1_000


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:10.0.0.1]/",
        "http://localhost/",
        "//10.0.0.1/a.png",
    ],
)
def test_a_redirect_to_a_private_address_is_refused(server: ImageServer, fetcher: ImageFetcher, target: str) -> None:
    url = server.serve("/a.png", Answer(status=302, headers={"Location": target}))
    with pytest.raises(DataError, match="address not admitted") as caught:
        fetcher.fetch(url, cancellation=Cancellation())
    assert (caught.value.code, server.requests.total()) == ("address_not_admitted", 1)


def test_a_redirect_to_another_private_server_does_not_reach_it(server: ImageServer, fetcher: ImageFetcher) -> None:
    with ImageServer() as private:
        url = server.serve("/a.png", Answer(status=307, headers={"Location": private.serve_picture("/secret.png")}))
        with pytest.raises(DataError, match="another port than 80 and 443"):
            fetcher.fetch(url, cancellation=Cancellation())
        assert not private.requests


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "data:image/png;base64,AAAA"])
def test_a_redirect_to_what_is_no_web_address_is_refused(
    server: ImageServer, fetcher: ImageFetcher, target: str
) -> None:
    url = server.serve("/a.png", Answer(status=302, headers={"Location": target}))
    with pytest.raises(DataError) as caught:
        fetcher.fetch(url, cancellation=Cancellation())
    assert caught.value.code in {"image_redirect", "bad_address"}


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Callable[[bytes], BinaryIO]]:
    with ExitStack() as stack:

        def place(body: bytes) -> BinaryIO:
            (tmp_path / "picture").write_bytes(body)
            return stack.enter_context((tmp_path / "picture").open("rb"))

        yield place


def test_a_picture_that_is_being_decoded_is_let_go_when_the_stage_is_to_stop(
    attacks: dict[str, Answer], on_disk: Callable[[bytes], BinaryIO]
) -> None:
    cancellation = Cancellation()
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            cancellation.cancel("a person said so")
        cancellation.check()

    with pytest.raises(Cancelled):
        clean_apart(on_disk(attacks["10,000 scans"].body), check=check)
    assert asked == 3
    assert clean_apart(on_disk(picture()), check=Cancellation().check).width == 64


@pytest.mark.parametrize(
    ("kind", "size", "options"),
    [
        ("JPEG", (6_000, 4_000), {}),
        ("JPEG", (6_000, 4_000), {"progressive": True}),
        ("PNG", (4_000, 3_000), {}),
        ("GIF", (4_000, 3_000), {}),
        ("WEBP", (2_000, 2_000), {}),
        ("AVIF", (2_000, 2_000), {}),
    ],
)
def test_the_largest_admitted_picture_fits(
    on_disk: Callable[[bytes], BinaryIO], kind: str, size: tuple[int, int], options: dict[str, bool]
) -> None:
    image = clean_apart(on_disk(picture(kind, size=size, **options)), check=Cancellation().check)
    divisor = 2 if kind == "JPEG" else 1
    assert (image.width, image.height) == (size[0] // divisor, size[1] // divisor)
