from __future__ import annotations

import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import NoReturn

import pytest
from fsspec.exceptions import FSTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled, DataError, NetworkError, RateLimitError, SystemFault
from squorflow.products.images import FetchedImage, ImageFetcher, ImageLimits, ImageStore, redirect_target, retry_after
from squorflow.products.object_store import ObjectStore
from squorflow.products.pictures import clean_image
from squorflow.stages.context import Cancellation
from support.image_server import Answer, ImageServer, picture

LIMITS = ImageLimits(
    max_bytes=200_000,
    connect_timeout=timedelta(seconds=60),
    read_timeout=timedelta(seconds=60),
    total_timeout=timedelta(seconds=60),
)
HASTY = replace(LIMITS, read_timeout=timedelta(milliseconds=400), total_timeout=timedelta(milliseconds=800))
"""For what is never answered in time, however slow the machine is that runs the tests."""


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as running:
        yield running


@pytest.fixture
def limits() -> ImageLimits:
    return LIMITS


@pytest.fixture
def fetcher(server: ImageServer, limits: ImageLimits) -> Iterator[ImageFetcher]:
    made = ImageFetcher(WorkflowConfig(image_allow=(server.host,)), limits=limits)
    yield made
    made.close()


def fetch(fetcher: ImageFetcher, url: str) -> FetchedImage:
    return fetcher.fetch(url, cancellation=Cancellation())


@pytest.mark.parametrize(
    ("kind", "mime_type"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/png"),
        ("AVIF", "image/webp"),
    ],
)
def test_an_image_is_known_by_its_content_whatever_its_name_says(
    server: ImageServer, fetcher: ImageFetcher, kind: str, mime_type: str
) -> None:
    url = server.serve("/wrong.txt", Answer(body=picture(kind), headers={"Content-Type": "text/html"}))
    image = fetch(fetcher, url)
    assert (image.url, image.mime_type, image.width, image.height) == (url, mime_type, 64, 48)
    assert image.sha256 == hashlib.sha256(image.content).hexdigest()
    with Image.open(BytesIO(image.content)) as opened:
        assert opened.get_format_mimetype() == mime_type


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_an_image_loses_its_metadata_and_stands_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "home address"
    exif[0x0112] = 6
    raw = picture(kind, exif=exif, comment=b"taken by me", icc_profile=b"profile of mine", xmp=b"my rights")
    assert b"home address" in raw
    image = clean_image(raw)
    assert (image.width, image.height) == (48, 64)
    for secret in (b"home address", b"taken by me", b"profile of mine", b"my rights", b"Exif"):
        assert secret not in image.content


def test_cleaning_the_same_bytes_gives_the_same_bytes() -> None:
    assert clean_image(picture("WEBP")) == clean_image(picture("WEBP"))


def test_transparency_is_kept() -> None:
    out = BytesIO()
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(out, format="PNG")
    with Image.open(BytesIO(clean_image(out.getvalue()).content)) as opened:
        assert opened.convert("RGBA").getpixel((1, 1)) == (255, 0, 0, 0)


def test_of_an_animation_the_first_frame_is_kept() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    out = BytesIO()
    frames[0].save(out, format="GIF", save_all=True, append_images=frames[1:])
    with Image.open(BytesIO(clean_image(out.getvalue()).content)) as opened:
        assert opened.convert("RGB").getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize(
    "raw",
    [b"", b"<html>not here</html>", picture()[:60], picture("BMP"), b"\x89PNG\r\n\x1a\n" + b"\x00" * 40],
    ids=["nothing", "a page", "half a picture", "another kind", "garbage"],
)
def test_what_is_no_image_is_bad_data(raw: bytes) -> None:
    with pytest.raises(DataError) as caught:
        clean_image(raw)
    assert caught.value.code == "not_an_image"


@settings(deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]), position=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_image_is_cleaned_or_refused_and_nothing_else(kind: str, position: int, byte: int) -> None:
    raw = bytearray(picture(kind))
    raw[position % len(raw)] = byte
    with suppress(DataError):
        assert clean_image(bytes(raw)).content


@pytest.mark.parametrize(("size", "code"), [((5_000, 4_001), "image_too_large"), ((1, 1), "image_too_small")])
def test_an_image_with_too_many_or_too_few_pixels_is_refused(size: tuple[int, int], code: str) -> None:
    out = BytesIO()
    Image.new("1", size).save(out, format="PNG")
    with pytest.raises(DataError) as caught:
        clean_image(out.getvalue())
    assert caught.value.code == code


def test_a_very_large_photograph_is_halved() -> None:
    image = clean_image(picture("JPEG", size=(4_400, 3_000)))
    assert (image.width, image.height) == (2_200, 1_500)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(status=404), "image_missing"),
        (Answer(status=410), "image_missing"),
        (Answer(status=403), "image_missing"),
        (Answer(status=302, headers={"Location": "http://127.0.0.1:1/"}), "address_not_admitted"),
        (Answer(status=302, headers={"Location": "bundled:oats.webp"}), "bad_address"),
        (Answer(status=302, headers={"Location": "http://[half/"}), "image_redirect"),
        (Answer(status=302), "image_redirect"),
        (Answer(status=304), "image_redirect"),
        (Answer(body=b"hello"), "not_an_image"),
        (Answer(body=picture(), headers={"Content-Encoding": "gzip"}), "image_encoding"),
        (Answer(body=b"", declared_length=10**9), "image_too_large"),
        (Answer(body=b"x" * 300_000, declared_length=None), "image_too_large"),
    ],
)
def test_an_answer_that_will_not_get_better_is_bad_data(
    server: ImageServer, fetcher: ImageFetcher, answer: Answer, code: str
) -> None:
    with pytest.raises(DataError) as caught:
        fetch(fetcher, server.serve("/a.png", answer))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("answer", "code", "limits"),
    [
        (Answer(status=500), "image_server_error", LIMITS),
        (Answer(status=503), "image_server_error", LIMITS),
        (Answer(body=picture()[:50], declared_length=5_000), "image_network", LIMITS),
        (Answer(body=b"this is not http", raw=True), "image_network", LIMITS),
        (Answer(silent=True), "image_timeout", HASTY),
        (Answer(body=b"x" * 5_000, drip=True), "image_timeout", HASTY),
        (Answer(body=b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 5_000, drip=True, raw=True), "image_timeout", HASTY),
    ],
    ids=["500", "503", "cut off", "no http", "silence", "dripping body", "dripping headers"],
)
def test_an_answer_that_may_get_better_is_a_network_error(
    server: ImageServer, fetcher: ImageFetcher, answer: Answer, code: str
) -> None:
    with pytest.raises(NetworkError) as caught:
        fetch(fetcher, server.serve("/a.png", answer))
    assert caught.value.code == code


def test_a_host_that_cannot_be_reached_is_a_network_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        fetcher = ImageFetcher(WorkflowConfig(image_allow=(host,)), limits=LIMITS)
        with pytest.raises(NetworkError) as caught:
            fetch(fetcher, f"http://{host}/a.png")
        fetcher.close()
    assert caught.value.code == "image_unreachable"


def test_a_rate_limit_carries_the_delay_that_was_asked_for(server: ImageServer, fetcher: ImageFetcher) -> None:
    with pytest.raises(RateLimitError) as caught:
        fetch(fetcher, server.serve("/a.png", Answer(status=429, headers={"Retry-After": "7"})))
    assert caught.value.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize("header", [None, "", "soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_an_unusable_retry_after_names_no_delay(header: str | None) -> None:
    assert retry_after(header) is None


def test_a_retry_after_may_be_a_date() -> None:
    later = datetime.now(tz=UTC) + timedelta(hours=1)
    delay = retry_after(later.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    assert delay is not None
    assert delay > timedelta(0)


def redirect(target: str, *, status: int = 302) -> Answer:
    return Answer(status=status, headers={"Location": target})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(server: ImageServer, fetcher: ImageFetcher, status: int) -> None:
    server.serve_picture("/target.png")
    url = server.serve("/a.png", redirect("/target.png", status=status))
    assert fetch(fetcher, url).url == url


def test_redirects_are_followed_so_far_and_no_further(server: ImageServer, fetcher: ImageFetcher) -> None:
    server.serve_picture("/0")
    for number in range(1, 7):
        server.serve(f"/{number}", redirect(f"/{number - 1}"))
    assert fetch(fetcher, f"http://{server.host}/4").width == 64
    with pytest.raises(DataError, match="more than 4 times") as caught:
        fetch(fetcher, f"http://{server.host}/6")
    assert caught.value.code == "image_redirect"
    assert server.requests["/1"] == 1


def test_a_circle_of_redirects_is_noticed(server: ImageServer, fetcher: ImageFetcher) -> None:
    server.serve("/b", redirect("/a"))
    with pytest.raises(DataError, match="in a circle") as caught:
        fetch(fetcher, server.serve("/a", redirect("/b")))
    assert (caught.value.code, server.requests["/a"]) == ("image_redirect", 1)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    with pytest.raises(DataError, match="from https to http"):
        redirect_target("http://pictures.example/a.png", source="https://pictures.example/a.png")


def test_an_address_that_is_not_admitted_is_never_asked(server: ImageServer) -> None:
    fetcher = ImageFetcher(WorkflowConfig(image_allow=()))
    with pytest.raises(DataError, match="address not admitted"):
        fetch(fetcher, server.serve_picture("/a.png"))
    assert not server.requests


def test_a_cancelled_fetch_stops(server: ImageServer, fetcher: ImageFetcher) -> None:
    cancellation = Cancellation()
    cancellation.cancel("a person said so")
    with pytest.raises(Cancelled):
        fetcher.fetch(server.serve_picture("/a.png"), cancellation=cancellation)
    assert not server.requests


@pytest.mark.parametrize("name", ["bottle.png", "oats.webp", "sweets.gif", "jar.jpg"])
def test_a_bundled_image_needs_no_network(name: str) -> None:
    assert fetch(ImageFetcher(WorkflowConfig()), f"bundled:{name}").width == 320


def test_a_bundled_image_that_does_not_exist_is_bad_data() -> None:
    with pytest.raises(DataError) as caught:
        fetch(ImageFetcher(WorkflowConfig()), "bundled:nothing.png")
    assert caught.value.code == "image_missing"


@pytest.fixture(params=["folder", "file://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    place = str(tmp_path / "store")
    return ImageStore(WorkflowConfig(image_store=place if request.param == "folder" else f"file://{place}"))


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_image_is_stored_once_and_read_back(store: ImageStore, tmp_path: Path) -> None:
    content = picture()
    first = store.put(content, "image/png")
    assert store.put(content, "image/png") == first
    assert first.stored_at == f"{first.sha256[:2]}/{first.sha256}.png"
    assert files_in(tmp_path) == [tmp_path / "store" / first.stored_at]
    assert store.read(first.sha256, "image/png") == content


def test_images_lie_under_home_unless_told_otherwise(tmp_path: Path) -> None:
    stored = ImageStore(WorkflowConfig(home=tmp_path)).put(b"x", "image/png")
    assert (tmp_path / "images" / stored.stored_at).read_bytes() == b"x"


def test_many_writers_of_one_image_leave_one_whole_file(tmp_path: Path) -> None:
    store = ImageStore(WorkflowConfig(image_store=str(tmp_path)))
    content = os.urandom(300_000)
    threads = [Thread(target=store.put, args=(content, "image/png")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in files_in(tmp_path)] == [content]


def test_an_altered_image_is_not_handed_out(store: ImageStore, tmp_path: Path) -> None:
    stored = store.put(picture(), "image/png")
    (tmp_path / "store" / stored.stored_at).write_bytes(b"something else")
    with pytest.raises(SystemFault) as caught:
        store.read(stored.sha256, "image/png")
    assert caught.value.code == "image_store_damaged"


def test_a_missing_image_is_a_fault_of_the_system(store: ImageStore) -> None:
    with pytest.raises(SystemFault) as caught:
        store.read("ab" * 32, "image/png")
    assert caught.value.code == "image_store_read"


@pytest.mark.parametrize("busy", [TimeoutError("late"), ConnectionResetError("reset"), FSTimeoutError()])
def test_a_store_that_is_busy_for_the_moment_is_no_fault_of_the_system(
    store: ImageStore, busy: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_: object, **__: object) -> NoReturn:
        raise busy

    monkeypatch.setattr(ObjectStore, "place", give_up)
    with pytest.raises(type(busy)):
        store.put(picture(), "image/png")
    with pytest.raises(type(busy)):
        store.read("ab" * 32, "image/png")


def test_a_store_that_cannot_be_written_is_a_fault_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(SystemFault) as caught:
        ImageStore(WorkflowConfig(image_store=str(tmp_path / "store"))).put(b"x", "image/png")
    assert caught.value.code == "image_store_write"


def test_a_stored_image_can_be_read_by_other_users(tmp_path: Path) -> None:
    stored = ImageStore(WorkflowConfig(image_store=str(tmp_path))).put(b"x", "image/png")
    assert stat.S_IMODE((tmp_path / stored.stored_at).stat().st_mode) == 0o644
