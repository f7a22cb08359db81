"""Pictures by content: what kind an image is, whether it is sound, and the same picture without its metadata.

Owns decoding and encoding (Pillow). Pictures of strangers are decoded in a process of their own, by `picture_process`;
where bytes come from is `images`, where they go is `image_store`.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from squorflow.errors import DataError

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

_READ_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
_WRITTEN_AS = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "GIF": "PNG", "AVIF": "WEBP"}
"""GIF and AVIF are kept as PNG and WebP, because vision models do not take them."""
_MIME_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
MAX_PIXELS = {"JPEG": 24_000_000, "PNG": 12_000_000, "GIF": 12_000_000, "WEBP": 4_000_000, "AVIF": 4_000_000}
"""What can be decoded and encoded in `picture_process.MEMORY_MEBIBYTES`: a pixel costs up to 8 bytes, of WebP 21."""
_FULL_PIXELS = 8_000_000
"""A larger JPEG is decoded at half its width and height; no other kind can be."""
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

    Of an animation the first frame is kept, a very large JPEG is halved. The same bytes give the same result. Raises
    `DataError` (`not_an_image`, `image_too_large`, `image_too_small`).
    """
    picture, kind = _decode(raw)
    written_as = _WRITTEN_AS[kind]
    out = BytesIO()
    options = {} if written_as == "PNG" else {"quality": _QUALITY}
    picture.save(out, format=written_as, **options)
    return CleanImage(
        content=out.getvalue(), mime_type=_MIME_TYPES[written_as], width=picture.width, height=picture.height
    )


def _decode(raw: bytes) -> tuple[Image.Image, str]:
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(raw), formats=_READ_FORMATS) as opened:
            kind = str(opened.format)
            _check_size(opened.width, opened.height, kind)
            _shrink(opened)
            # In place, because each copy of 16 million pixels is 64 MB.
            ImageOps.exif_transpose(opened, in_place=True)
            return _pixels_only(opened, kind), kind
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(max(MAX_PIXELS.values())) from error
    # Pillow's decoders raise whatever their parsers run into (struct.error, SyntaxError, IndexError, bomb warnings …).
    except Exception as error:
        raise DataError(
            "what was sent is no JPEG, PNG, WebP, GIF or AVIF image, or one that is broken or takes too much memory",
            code="not_an_image",
        ) from error


def _check_size(width: int, height: int, kind: str) -> None:
    if width * height > MAX_PIXELS[kind]:
        raise _too_many_pixels(MAX_PIXELS[kind])
    if min(width, height) < _MIN_SIDE:
        raise DataError(f"the image is only {width} x {height} pixels", code="image_too_small")


def _too_many_pixels(most: int) -> DataError:
    return DataError(f"the image has more than {most:,} pixels", code="image_too_large")


def _shrink(opened: ImageFile) -> None:
    """Have a very large JPEG decoded at half its width and height."""
    if opened.width * opened.height > _FULL_PIXELS:
        opened.draft(opened.mode, (opened.width // 2, opened.height // 2))


def _pixels_only(picture: Image.Image, kind: str) -> Image.Image:
    """Return a picture that has lost everything but its pixels (Pillow would write some of `info` back)."""
    mode = "L" if picture.mode in {"1", "L"} else "RGB"
    if kind != "JPEG" and picture.has_transparency_data:
        mode = "RGBA"
    picture.load()
    plain = picture if picture.mode == mode else picture.convert(mode)
    plain.info = {}
    return plain
