from __future__ import annotations

import pytest

from squorflow.errors import DataError
from squorflow.products.addresses import admit, image_address, web_address

ALLOW = {"images.internal", "127.0.0.1:9000"}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://images.internal/a.png", "images.internal:80"),
        ("https://IMAGES.internal:8443/a.png", "images.internal:8443"),
        ("http://127.0.0.1:9000/a.png", "127.0.0.1:9000"),
    ],
)
def test_a_named_host_is_admitted(url: str, host: str) -> None:
    assert admit(url, allow=ALLOW).host == host


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://example.com/a.png", "example.com:80"),
        ("https://example.com/a.png", "example.com:443"),
        ("http://example.com:443/a.png", "example.com:443"),
        ("http://8.8.8.8/a.png", "8.8.8.8:80"),
        ("http://[2620:0:2d0:200::7]/a.png", "[2620:0:2d0:200::7]:80"),
        ("http://images.internal.example.com/a.png", "images.internal.example.com:80"),
        ("http://example.com\\@images.internal/a.png", "example.com:80"),
        ("http://example.com#@127.0.0.1/", "example.com:80"),
        ("http://example.com?@127.0.0.1/", "example.com:80"),
    ],
)
def test_a_public_host_is_admitted_on_the_ports_of_the_web(url: str, host: str) -> None:
    address = admit(url, allow=ALLOW)
    assert (address.host, address.trusted) == (host, False)


def test_a_bundled_image_is_admitted_by_its_file_name() -> None:
    assert admit("bundled:oats.webp", allow=()).bundled_name == "oats.webp"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://127.0.0.1:9001/a.png",
        "http://images.internal@example.com/a.png",
        "http://user:secret@images.internal/a.png",
        "http://example.com:9000/a.png",
        "file:///etc/passwd",
        "ftp://images.internal/a.png",
        "gopher://images.internal/",
        "bundled:../../secret.png",
        "bundled:a/b.png",
        "bundled:",
        "images.internal/a.png",
        "http://",
        "",
        "http://images.internal/" + "a" * 3000,
    ],
)
def test_every_other_address_is_refused(url: str) -> None:
    with pytest.raises(DataError, match="address not admitted") as caught:
        admit(url, allow=ALLOW)
    assert caught.value.code == "address_not_admitted"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("HTTP://Example.COM:80/a/../b", "http://example.com/b"),
        ("https://münchen.example/ä", "https://xn--mnchen-3ya.example/%C3%A4"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("//example.com/a", None),
        ("mailto:a@b.example", None),
        ("http://ex ample.com", None),
        ("http://[::1", None),
    ],
)
def test_a_web_address_is_normalised_as_a_browser_would(text: str, address: str | None) -> None:
    assert web_address(text) == address


def test_only_web_and_bundled_addresses_can_be_an_images() -> None:
    found = [
        image_address(text) for text in ("https://e.example/a.png", "bundled:oats.webp", "data:image/png;base64,AA")
    ]
    assert found == ["https://e.example/a.png", "bundled:oats.webp", None]
