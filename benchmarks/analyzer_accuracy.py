"""How well the offline analyser reads additives and allergens, against the tags of Open Food Facts.

    python benchmarks/analyzer_accuracy.py [--data FOLDER] [-v]

Compared are the ingredient texts below 255 characters, which are not cut. What is fair, and why:

- Additives are compared by number without letter or roman numeral (e322i and e322 are one). Only numbers that the tags
  use at all are judged: the tags leave out some additives on principle (calcium chloride, ascorbic acid), and a finding
  that the yardstick cannot contain is neither right nor wrong. Unjudged findings are counted in a column of their own.
- Allergens: recall is against the tags, mapped to the fourteen of the law. Precision cannot be: most texts that
  name milk in so many words carry no tag (measured so, precision would be 0.2), since tags stem from declarations. So a
  finding is right when it is tagged, or when it is in `allergens_read.jsonl`, where the allergens of each text
  stand as a person reading it would list them. That list began as the findings themselves, checked and corrected
  against each text; it holds a rule to what is right today, and is no blind test. Recall against it is shown too.
- Refined soybean oil counts as no soy, since it is exempt from declaration (Regulation (EU) 1169/2011, annex II).

`-v` prints every disagreement. The same figures for the texts over 255 characters are shown, and not asserted anywhere.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from squorflow.enrichment.offline import analyze_content
from squorflow.products.facts import Analysis, ProductContent

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
CUT_AT = 255

ALLERGEN_OF_TAG = {
    "milk": "milk",
    "soybeans": "soy",
    "gluten": "gluten",
    "nuts": "tree_nuts",
    "eggs": "egg",
    "peanuts": "peanut",
    "fish": "fish",
    "crustaceans": "crustaceans",
    "Shellfish": "crustaceans",
    "molluscs": "molluscs",
    "sesame-seeds": "sesame",
    "mustard": "mustard",
    "celery": "celery",
    "lupin": "lupin",
    "sulphur-dioxide-and-sulphites": "sulphites",
    "de:Wheyproteinkonzentrat": "milk",
    "de:Wheyprotein": "milk",
    "de:Hühnereiweiss": "egg",
    "de:Weizenprotein": "gluten",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """One product's ingredient text and what is known to be in it."""

    name: str
    text: str
    additives: frozenset[str]
    allergens_tagged: frozenset[str]
    allergens_read: frozenset[str] | None
    """`None`: nobody has read this text."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Findings counted against a yardstick."""

    right: int = 0
    wrong: int = 0
    missed: int = 0
    unjudged: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def precision(self) -> float:
        """Share of the findings that are right."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """Share of what is there that was found."""
        return self.right / max(1, self.right + self.missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The tallies of one set of texts."""

    texts: int
    additives: Tally
    allergens_tagged: Tally
    """Against the tags; only its recall means something."""
    allergens_read: Tally
    """Against tags and reading together: its precision is the fair one."""


def load_labelled(folder: Path = DATA) -> list[LabelledText]:
    """Return the labelled products that have an ingredient text."""
    read = {row["gtin"]: frozenset(row["allergens"]) for row in _rows(folder / "allergens_read.jsonl")}
    products = _rows(folder / "openfoodfacts_labelled.jsonl")
    tags = _rows(folder / "openfoodfacts_labelled_tags.jsonl")
    labelled = []
    for product, tagged in zip(products, tags, strict=True):
        text = product["extracted_data"].get("ingredients_text")
        if text:
            labelled.append(
                LabelledText(
                    name=product["name"],
                    text=text,
                    additives=frozenset(_number(tag) for tag in tagged["additives"] if tag != "e14xx"),
                    allergens_tagged=frozenset(ALLERGEN_OF_TAG[tag] for tag in tagged["allergens"]),
                    allergens_read=read.get(tagged["gtin"]),
                )
            )
    return labelled


def measure(texts: Iterable[LabelledText], *, judged_numbers: frozenset[str]) -> Accuracy:
    """Analyse the texts and count."""
    texts = list(texts)
    additives, tagged, read = Tally(), Tally(), Tally()
    for text in texts:
        analysis = analyze_content(ProductContent(name=text.name, ingredients_text=text.text))
        numbers = _numbers(analysis)
        additives.unjudged += len(numbers - judged_numbers)
        _count(additives, found=numbers & judged_numbers, there=text.additives, text=text)
        allergens = frozenset(finding.allergen.value for finding in analysis.allergens)
        _count(tagged, found=allergens, there=text.allergens_tagged, text=text)
        if text.allergens_read is not None:
            there = text.allergens_read | (text.allergens_tagged & allergens)
            _count(read, found=allergens, there=there, text=text)
    return Accuracy(texts=len(texts), additives=additives, allergens_tagged=tagged, allergens_read=read)


def judged_numbers(texts: Iterable[LabelledText]) -> frozenset[str]:
    """Return the additives that the tags know at all."""
    return frozenset(number for text in texts for number in text.additives)


def is_uncut(text: LabelledText) -> bool:
    """Say whether the text is shorter than the cut."""
    return len(text.text) < CUT_AT


def _count(tally: Tally, *, found: frozenset[str], there: frozenset[str], text: LabelledText) -> None:
    tally.right += len(found & there)
    tally.wrong += len(found - there)
    tally.missed += len(there - found)
    if found != there:
        wrong, missed = sorted(found - there), sorted(there - found)
        tally.notes.append(f"{text.name[:40]}: wrong {wrong or '-'}, missed {missed or '-'}\n    {text.text[:300]}")


def _numbers(analysis: Analysis) -> frozenset[str]:
    return frozenset(_number(one.e_number) for one in analysis.substances if one.e_number)


def _number(tag: str) -> str:
    found = re.match(r"e\d+", tag)
    if found is None:
        raise ValueError(f"The tag {tag!r} is no E-number.")
    return found[0]


def _rows(path: Path) -> list[dict[str, list[str]]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _print(title: str, accuracy: Accuracy, *, verbose: bool) -> None:
    print(f"\n{title}: {accuracy.texts} texts")
    print(f"  {'':<34}{'precision':>10}{'recall':>8}{'right':>7}{'wrong':>7}{'missed':>8}{'unjudged':>10}")
    shown: Callable[[float], str] = "{:.3f}".format
    for name, tally, has_precision in (
        ("additives against tags", accuracy.additives, True),
        ("allergens against tags", accuracy.allergens_tagged, False),
        ("allergens against tags and reading", accuracy.allergens_read, True),
    ):
        precision = shown(tally.precision) if has_precision else "-"
        wrong = str(tally.wrong) if has_precision else "-"
        print(
            f"  {name:<34}{precision:>10}{shown(tally.recall):>8}{tally.right:>7}{wrong:>7}{tally.missed:>8}"
            f"{tally.unjudged:>10}"
        )
        if verbose:
            print("".join(f"    {note}\n" for note in tally.notes if has_precision or "missed -" not in note), end="")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the labelled products")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every disagreement")
    options = parser.parse_args()
    labelled = load_labelled(options.data)
    judged = judged_numbers(labelled)
    uncut = measure(filter(is_uncut, labelled), judged_numbers=judged)
    longer = measure((text for text in labelled if len(text.text) > CUT_AT), judged_numbers=judged)
    _print("below 255 characters, uncut", uncut, verbose=options.verbose)
    _print("over 255 characters", longer, verbose=options.verbose)


if __name__ == "__main__":
    main()
