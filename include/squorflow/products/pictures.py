"""Pictures by content: what kind an image is, whether it is sound, and the same picture without its metadata.

Owns decoding and encoding (Pillow). Where bytes come from is `images`, where they go is `image_store`.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from squorflow.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_READ_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
_WRITTEN_AS = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "GIF": "PNG", "AVIF": "WEBP"}
"""GIF and AVIF are kept as PNG and WebP, because vision models do not take them."""
_MIME_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
MAX_PIXELS = 40_000_000
_MIN_SIDE = 8
"""Smaller ones are tracking pixels and spacers."""
_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanImage:
    """A picture re-encoded from its pixels: upright, one frame, no EXIF, no comments, no colour profile."""

    content: bytes
    mime_type: str
    width: int
    height: int


def clean_image(raw: bytes) -> CleanImage:
    """Decode an image of a known kind (JPEG, PNG, WebP, GIF, AVIF, by content) and encode its pixels anew.

    Of an animation the first frame is kept. The same bytes give the same result. Raises `DataError` (`not_an_image`,
    `image_too_large`, `image_too_small`).
    """
    picture, kind = _decode(raw)
    written_as = _WRITTEN_AS[kind]
    out = BytesIO()
    options = {"optimize": True} if written_as == "PNG" else {"quality": _QUALITY}
    picture.save(out, format=written_as, **options)
    return CleanImage(
        content=out.getvalue(), mime_type=_MIME_TYPES[written_as], width=picture.width, height=picture.height
    )


def _decode(raw: bytes) -> tuple[Image.Image, str]:
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(raw), formats=_READ_FORMATS) as opened:
            kind = str(opened.format)
            _check_size(opened.width, opened.height)
            upright = ImageOps.exif_transpose(opened)
            return _pixels_only(upright, kind), kind
    except (DataError, MemoryError):
        raise
    # Pillow's decoders raise whatever their parsers run into (struct.error, SyntaxError, IndexError, bomb warnings …).
    except Exception as error:
        raise DataError(
            "what was sent is no JPEG, PNG, WebP, GIF or AVIF image, or a broken one", code="not_an_image"
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"the image has more than {MAX_PIXELS:,} pixels", code="image_too_large")
    if min(width, height) < _MIN_SIDE:
        raise DataError(f"the image is only {width} x {height} pixels", code="image_too_small")


def _pixels_only(picture: Image.Image, kind: str) -> Image.Image:
    """Return a copy that has lost everything but its pixels (Pillow would write some of `info` back)."""
    mode = "L" if picture.mode in {"1", "L"} else "RGB"
    if kind != "JPEG" and picture.has_transparency_data:
        mode = "RGBA"
    plain = picture.convert(mode)
    plain.info = {}
    return plain
