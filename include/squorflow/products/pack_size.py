"""Pack and serving sizes in one spelling: "70g" and "70 g", "6x33cl" and "6 x 330 ml" become equal.

Owns the quantities on a pack. Metric units become g or ml (kg or l from a thousand); ounces and pounds stay what they
are, since a label's ounce is often rounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from squorflow.products.amounts import plain, read_number
from squorflow.products.text import fold, one_line

_METRIC: dict[str, tuple[str, Decimal]] = {
    "mg": ("g", Decimal("0.001")),
    "g": ("g", Decimal(1)),
    "kg": ("g", Decimal(1000)),
    "ml": ("ml", Decimal(1)),
    "cl": ("ml", Decimal(10)),
    "dl": ("ml", Decimal(100)),
    "l": ("ml", Decimal(1000)),
}
_LARGE = {"g": "kg", "ml": "l"}
_SPELLINGS = {
    "mg": "mg|milligrams?",
    "kg": "kgs?|kilos?|kilograms?|kilogramm|кг",
    "g": "g|gr|grs|gm|gms|grm|grams?|grammes?|gramm|г|гр",  # noqa: RUF001 - Cyrillic on purpose
    "ml": "mls?|millilit(?:er|re)s?|мл",
    "cl": "cl|centilit(?:er|re)s?",
    "dl": "dl|decilit(?:er|re)s?",
    "l": "l|lt|ltr|ltrs|lit(?:er|re)s?|л",
    "fl oz": r"fl\.?\s*oz|fluid\s+ounces?|oza",
    "oz": "oz|ozs|onz|ounces?",
    "lb": "lbs?|pounds?",
    "pieces": "pieces?|pcs?|count|ct|stück|stk",
}
_SMALL_UNITS = frozenset({"mg", "g", "ml", "cl"})
_UNIT = "|".join(f"(?P<{name.replace(' ', '_')}>{spelling})" for name, spelling in _SPELLINGS.items())
_TIMES = r"\s*[x\u00d7*]\s*"
_QUANTITY = re.compile(
    rf"(?<![\d.,/])(?P<factors>(?:\d{{1,5}}{_TIMES})*)(?P<number>\d[\d.,]*|[.,]\d+)\s*(?:{_UNIT})(?![^\W\d_])\.?"
    rf"(?:{_TIMES}(?P<after>\d{{1,5}})(?![\d.,]*\s*[^\W\d_]))?"
)
_PACKS = re.compile(r"pack of (\d{1,4})(?!\d)|(?<!\d)(\d{1,4})[- ]?(?:pack|packs|pk|er[- ]pack)(?![^\W\d_])")
_MAX_NUMBER = 30
_PLACES = Decimal("0.000001")
_MAX_FREE_TEXT = 100
_FLOAT_NOISE = re.compile(r"\d+\.\d{7,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    count: int
    number: Decimal
    unit: str
    in_brackets: bool

    def __str__(self) -> str:
        number, unit = self.number, self.unit
        if unit in _METRIC:
            unit, factor = _METRIC[unit]
            number = _rounded(number * factor)
            if number >= 1000:  # noqa: PLR2004 - a thousand of the small unit is one of the large, by definition
                number, unit = _rounded(number / 1000), _LARGE[unit]
        else:
            number = _rounded(number)
        single = f"{plain(number)} {unit}"
        return f"{self.count} x {single}" if self.count > 1 else single


def normalise_pack_size(text: str) -> str | None:
    """Return the canonical form of a pack size, `None` when `text` is blank.

    Of several quantities the first metric one outside brackets wins ("1 bag (28 g)" has none, so 28 g), then metric in
    brackets, then ounces and pounds, then pieces. Text without any quantity is kept, folded and cut at 100 characters.
    """
    folded = fold(text)
    found = _quantities(folded)
    if not found:
        return fold(folded[:_MAX_FREE_TEXT]) or None
    best = min(found, key=_preference)
    packs = _PACKS.search(folded)
    if packs and best.count == 1 and best.unit != "pieces":
        best = replace(best, count=int(packs.group(1) or packs.group(2)))
    return str(best)


def normalise_serving_size(text: str) -> str | None:
    """Return a serving size tidied up: one quantity in canonical form, longer text with rounded numbers."""
    tidy = _FLOAT_NOISE.sub(lambda match: plain(_rounded(Decimal(match.group()))), one_line(text))
    match = _QUANTITY.fullmatch(fold(tidy))
    if match:
        quantity = _quantity(match, text="")
        if quantity:
            return str(quantity)
    return tidy or None


def _preference(quantity: _Quantity) -> int:
    if quantity.unit in _METRIC:
        return 1 if quantity.in_brackets else 0
    return 3 if quantity.unit == "pieces" else 2


def _quantities(folded: str) -> list[_Quantity]:
    found = (_quantity(match, text=folded) for match in _QUANTITY.finditer(folded))
    return [quantity for quantity in found if quantity]


def _quantity(match: re.Match[str], *, text: str) -> _Quantity | None:
    unit = next(name for name in _SPELLINGS if match.group(name.replace(" ", "_")))
    raw = match.group("number").rstrip(".,")
    if len(raw) > _MAX_NUMBER:
        return None
    # "1,000 g" is a kilogram, "1,000 kg" is one too: nobody sells three decimals of a gram or a tonne of crisps.
    number = read_number(raw, lone_separator_groups=unit in _SMALL_UNITS and "," in raw)
    if not number or not _rounded(number * _METRIC.get(unit, ("", Decimal(1)))[1]):
        return None
    count = 1
    for factor in [*re.findall(r"\d+", match.group("factors")), match.group("after") or "1"]:
        count *= int(factor)
    before = text[: match.start()]
    return _Quantity(count=count, number=number, unit=unit, in_brackets=before.count("(") > before.count(")"))


def _rounded(number: Decimal) -> Decimal:
    """Round to what a label can mean, which also undoes binary fractions (28.000000000000004)."""
    return number.quantize(_PLACES, rounding=ROUND_HALF_UP).normalize()
