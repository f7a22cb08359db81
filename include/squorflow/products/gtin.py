"""Barcode numbers: which are global identifiers and how the same number in another notation is recognised.

Owns reading GTINs (checked by `biip`). What a product is identified by is `identity`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GTIN_DIGITS = 14
_SEPARATORS = re.compile(r"[\s\-\u2010-\u2015]")


@dataclass(frozen=True, slots=True, kw_only=True)
class GtinReading:
    """What a text that should be a GTIN turned out to be.

    `gtin` is the number in 14 digits, so that UPC-A, EAN-8, EAN-13 and GTIN-14 of one product are equal; `None` when it
    is no global identifier. `local` is a number that is valid only within one company or shop (restricted
    circulation: most EAN-13 that begin with 2, EAN-8 that begin with 0 or 2). `note` says why `gtin` is `None`.
    """

    gtin: str | None = None
    local: str | None = None
    note: str | None = None


def read_gtin(text: str) -> GtinReading:
    """Read a barcode number; blanks and hyphens are allowed, a wrong length or check digit is not."""
    from biip import ParseError
    from biip.gtin import Gtin
    from biip.rcn import Rcn

    digits = _SEPARATORS.sub("", text)
    shown = text[:40]
    if not digits.isascii() or not digits.isdigit() or not digits.strip("0"):
        return GtinReading(note=f"The GTIN {shown!r} is not a number, so it does not identify the product.")
    try:
        parsed = Gtin.parse(digits)
    except ParseError:
        return GtinReading(
            note=f"The GTIN {shown!r} has a wrong length or check digit, so it does not identify the product."
        )
    canonical = digits.zfill(_GTIN_DIGITS)
    if isinstance(parsed, Rcn):
        return GtinReading(
            local=canonical,
            note=f"The number {shown!r} is valid only within one shop, so it identifies the product only there.",
        )
    return GtinReading(gtin=canonical)
