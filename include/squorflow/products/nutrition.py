"""The page's nutrition table as `Nutrition`: kJ to kcal, salt to sodium, impossible values dropped.

Owns units and ranges of what the page says per 100 g. Label against analysis is decided when facts are merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

from squorflow.products.amounts import plain
from squorflow.products.facts import Nutrition

KILOJOULES_PER_KILOCALORIE = Decimal("4.184")
"""The thermochemical calorie (ISO 80000-5)."""
SODIUM_MG_PER_SALT_G = Decimal(400)
"""EU 1169/2011, annex I: salt = sodium x 2.5, and a label's salt is computed so. (Chemistry says 1000/2.54 = 393.7.)"""
_SALT_TOLERANCE = Decimal("0.1")
_PLACES = Decimal("0.001")
_MAX_GRAMS = Decimal(100)
_MAX_SUM_GRAMS = Decimal(105)
_RANGES: dict[str, Decimal] = {
    "energy_kcal": Decimal(900),
    "fat_g": _MAX_GRAMS,
    "saturated_fat_g": _MAX_GRAMS,
    "carbohydrate_g": _MAX_GRAMS,
    "sugar_g": _MAX_GRAMS,
    "fiber_g": _MAX_GRAMS,
    "protein_g": _MAX_GRAMS,
    "salt_g": _MAX_GRAMS,
    "sodium_mg": Decimal(40_000),
}
"""Largest possible value per 100 g; 900 kcal is pure fat."""
_PARTS = (("sugar_g", "carbohydrate_g"), ("saturated_fat_g", "fat_g"))


def page_nutrition(table: Mapping[str, Decimal | None]) -> tuple[Nutrition, tuple[str, ...]]:
    """Return the table in our units, and notes on what was dropped or looks wrong.

    `table` may have `energy_kj` and `salt_g` besides `Nutrition`'s own fields; kcal and sodium win over them.
    Values outside their range are dropped, contradictions between values are noted and kept.
    """
    notes: list[str] = []
    values = {key: value for key, value in table.items() if value is not None}
    kilojoules = values.pop("energy_kj", None)
    if kilojoules is not None and "energy_kcal" not in values:
        values["energy_kcal"] = kilojoules / KILOJOULES_PER_KILOCALORIE
    for name, largest in _RANGES.items():
        value = values.get(name)
        if value is not None and not 0 <= value <= largest:
            notes.append(f"{name} = {_shown(value)} is impossible per 100 g and was dropped.")
            del values[name]
    _settle_salt(values, notes)
    for part, whole in _PARTS:
        if part in values and whole in values and values[part] > values[whole]:
            notes.append(f"{part} = {_shown(values[part])} is more than {whole} = {_shown(values[whole])}; both kept.")
    total = sum((values.get(name, Decimal(0)) for name in ("fat_g", "carbohydrate_g", "protein_g")), Decimal(0))
    if total > _MAX_SUM_GRAMS:
        notes.append(f"Fat, carbohydrate and protein sum to {_shown(total)} g in 100 g; all kept.")
    rounded = {name: _rounded(value) for name, value in values.items() if name in Nutrition.model_fields}
    return Nutrition(**rounded), tuple(notes)


def _settle_salt(values: dict[str, Decimal], notes: list[str]) -> None:
    salt = values.pop("salt_g", None)
    if salt is None:
        return
    from_salt = salt * SODIUM_MG_PER_SALT_G
    sodium = values.setdefault("sodium_mg", from_salt)
    if abs(sodium - from_salt) > max(from_salt, sodium) * _SALT_TOLERANCE + 1:
        notes.append(f"salt_g = {_shown(salt)} and sodium_mg = {_shown(sodium)} disagree; sodium_mg was kept.")


def _rounded(value: Decimal) -> Decimal:
    return Decimal(plain(value.quantize(_PLACES, rounding=ROUND_HALF_UP)))


def _shown(value: Decimal) -> str:
    return f"{value:.6g}"
