"""What a hostile image host sends: answers by name, to be served by `image_server`.

Owns how each attack is made. What becomes of it is said by the tests; nothing here knows squorflow.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image

from support.image_server import Answer, picture

MARK = b"<script>alert('squorflow')</script>"
"""What polyglots carry along; no cleaned picture may hold it."""

_HUGE = 60_000


def hostile_answers() -> dict[str, Answer]:
    """Return every attack that is one answer; those by redirect need a server's own addresses."""
    sound = picture()
    return {
        "endless body": Answer(body=b"x" * 65_536, declared_length=None, endless=True),
        "endless picture": Answer(body=sound + b"\x00" * 65_536, declared_length=None, endless=True),
        "endless headers": Answer(body=b"HTTP/1.1 200 OK\r\n" + b"X-More: more\r\n" * 500, raw=True, endless=True),
        "slow drip": Answer(body=b"x" * 5_000, drip=True),
        "slow picture": Answer(body=picture(size=(400, 400)) + b"\x00" * 5_000, drip=True),
        "silence": Answer(silent=True),
        "gzip, declared": Answer(body=gzip.compress(bytes(10**7)), headers={"Content-Encoding": "gzip"}),
        "gzip, undeclared": Answer(body=gzip.compress(sound)),
        "deflate in gzip": Answer(body=gzip.compress(sound), headers={"Content-Encoding": "deflate, gzip"}),
        "length too long": Answer(body=sound, declared_length=len(sound) + 1),
        "length too short": Answer(body=sound, declared_length=len(sound) // 2),
        "length of 10 GB": Answer(body=sound, declared_length=10**10),
        "length below zero": Answer(body=sound, declared_length=None, headers={"Content-Length": "-5"}),
        "two lengths": Answer(body=sound, declared_length=5, headers={"Content-Length": str(len(sound))}),
        "truncated": Answer(body=picture(size=(300, 300), kind="JPEG")[:900]),
        "truncated head": Answer(body=sound[:20]),
        "nothing": Answer(),
        "page named png": Answer(body=b"<html>" + MARK, headers={"Content-Type": "image/png"}),
        "picture named page": Answer(body=sound, headers={"Content-Type": "text/html"}),
        "svg with script": Answer(
            body=b'<svg xmlns="http://www.w3.org/2000/svg">' + MARK + b"</svg>",
            headers={"Content-Type": "image/svg+xml"},
        ),
        "postscript": Answer(body=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n" + MARK),
        "polyglot gif": Answer(body=picture("GIF") + MARK),
        "polyglot jpeg": Answer(body=picture("JPEG", comment=MARK) + MARK),
        "polyglot png": Answer(body=_png_with(b"tEXt", b"Comment\0" + MARK) + MARK),
        "claims png": Answer(body=_png(width=_HUGE, height=_HUGE)),
        "claims gif": Answer(body=b"GIF89a" + struct.pack("<HH", _HUGE, _HUGE) + picture("GIF")[10:]),
        "claims gif frame": Answer(body=_gif_with_a_huge_frame()),
        "claims jpeg": Answer(body=_jpeg_claiming(_HUGE)),
        "claims webp": Answer(body=_webp_claiming(16_383)),
        "claims avif": Answer(body=_avif_claiming(_HUGE)),
        "hides avif": Answer(body=(Path(__file__).parents[1] / "data" / "hides_144_megapixels.avif").read_bytes()),
        "bomb in idat": Answer(body=_png(width=64, height=64, pixels=bytes(30_000_000))),
        "bomb in ztxt": Answer(body=_png_with(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9))),
        "bomb in itxt": Answer(body=_png_with(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 9))),
        "bomb in iccp": Answer(body=_png_with(b"iCCP", b"profile\0\0" + zlib.compress(bytes(50_000_000), 9))),
        "100 megapixels": Answer(body=_png(width=10_000, height=10_000, pixels=bytes(1251 * 10_000), bits=1)),
        "a long line": Answer(body=_png(width=20_000_000, height=8)),
        "2,000 frames gif": Answer(body=_animation("GIF", frames=2_000)),
        "500 frames png": Answer(body=_animation("PNG", frames=500)),
        "500 frames webp": Answer(body=_animation("WEBP", frames=500)),
        "10,000 scans": Answer(body=_jpeg_with_scans(10_000)),
    }


def _png(*, width: int, height: int, pixels: bytes = bytes(100), bits: int = 8) -> bytes:
    """Make a grey PNG that says one size and holds what it is given."""
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(pixels, 9)) + _chunk(b"IEND", b"")
    )


def _png_with(kind: bytes, data: bytes) -> bytes:
    """Make a sound PNG with one more chunk before its pixels."""
    plain = _png(width=64, height=48, pixels=bytes(65 * 48))
    place = plain.index(b"IDAT") - 4
    return plain[:place] + _chunk(kind, data) + plain[place:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _gif_with_a_huge_frame() -> bytes:
    """Make a GIF whose screen is small and whose frame is not."""
    plain = bytearray(picture("GIF"))
    place = plain.index(b"\x2c")
    plain[place + 5 : place + 9] = struct.pack("<HH", _HUGE, _HUGE)
    return bytes(plain)


def _jpeg_claiming(side: int) -> bytes:
    plain = bytearray(picture("JPEG"))
    place = plain.index(b"\xff\xc0") + 5
    plain[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(plain)


def _webp_claiming(side: int) -> bytes:
    plain = bytearray(picture("WEBP"))
    place = plain.index(b"\x9d\x01\x2a") + 3
    plain[place : place + 4] = struct.pack("<HH", side, side)
    return bytes(plain)


def _avif_claiming(side: int) -> bytes:
    plain = bytearray(picture("AVIF"))
    place = plain.index(b"ispe") + 8
    plain[place : place + 8] = struct.pack(">II", side, side)
    return bytes(plain)


def _jpeg_with_scans(number: int) -> bytes:
    """Make a progressive JPEG whose last scan comes again and again; each costs a pass over the whole picture."""
    plain = picture("JPEG", size=(2_000, 2_000), progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + plain[last:-2] * number + b"\xff\xd9"


def _animation(kind: str, *, frames: int) -> bytes:
    first, *others = [Image.new("RGB", (64, 48), (number % 256, number // 256, 0)) for number in range(frames)]
    out = BytesIO()
    first.save(out, format=kind, save_all=True, append_images=others, duration=20)
    return out.getvalue()
