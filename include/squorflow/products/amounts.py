"""Numbers as pages write them: "1.299,00", "1,29,999.00", "3,5 g". Owns reading them, not what they measure."""

from __future__ import annotations

import re
from decimal import Decimal

NUMBER = re.compile(r"\d+(?:[.,'\u2019\u00a0\u202f ]?\d+)*")
"""One number with its separators; a blank separates only groups of three, which `read_number` checks."""
_GROUP_DIGITS = 3
_MAX_DIGITS = 24
_BLANKS = re.compile(r"(?<=\d)['\u2019\u00a0\u202f ](?=\d{3}(?!\d))")


def read_number(text: str, *, lone_separator_groups: bool = False) -> Decimal | None:
    """Read the one number that `text` consists of, without sign; `None` if it is not one.

    With both "." and "," the last one is the decimal mark; one that repeats separates groups. A single one before
    exactly three digits is a decimal mark, or separates groups with `lone_separator_groups` (as in prices).
    """
    digits = _BLANKS.sub("", text.strip())
    if not re.fullmatch(r"\d+(?:[.,]\d+)*|[.,]\d+", digits) or len(digits) > _MAX_DIGITS * 2:
        return None
    dots, commas = digits.count("."), digits.count(",")
    mark = ""
    if dots and commas:
        mark = max(".", ",", key=digits.rfind)
        if digits.count(mark) > 1:
            return None
    elif dots + commas == 1:
        mark = "." if dots else ","
        whole, _, fraction = digits.partition(mark)
        if lone_separator_groups and len(fraction) == _GROUP_DIGITS and whole.strip("0"):
            mark = ""
    for separator in {".", ","} - {mark}:
        digits = digits.replace(separator, "")
    return Decimal(digits.replace(mark, ".") if mark else digits)


def read_price(text: str) -> Decimal | None:
    """Read the one amount in `text`, whatever the currency ("₹ 1.299,00", "Rs. 45", "$3.50").

    `None` when there is no number, more than one ("2 for $5", a range), or a minus sign before it.
    """
    found = list(NUMBER.finditer(_BLANKS.sub("", text)))
    if len(found) != 1:
        return None
    before = _BLANKS.sub("", text)[: found[0].start()]
    if re.search(r"[-\u2212]\s*\D{0,3}$", before):
        return None
    return read_number(found[0].group(), lone_separator_groups=True)


def plain(number: Decimal) -> str:
    """Write a number without exponent and without trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
