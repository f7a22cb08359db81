"""How SQUOR scores spread over real products, for each published policy version.

    python benchmarks/score_spread.py [--data FOLDER] [--show 12]

Reads every row of `openfoodfacts_*.jsonl` (tests/data unless told otherwise), takes it through discovery's
normalisation, the offline analyser, the merge and the score, and prints histograms. No network, no database.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from statistics import median, quantiles

from squorflow.enrichment import AnalysisRequest
from squorflow.enrichment.offline import OfflineAnalyzer
from squorflow.errors import ValidationError
from squorflow.products.crawler import parse_crawler_data
from squorflow.products.facts import ProductFacts
from squorflow.products.identity import build_content
from squorflow.products.jsonl import GoodLine, read_jsonl
from squorflow.products.merging import merge_facts
from squorflow.scoring import Component, Grade, Policy, SquorScore, load_policies, score

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
FILES = ("openfoodfacts_products.jsonl", "openfoodfacts_labelled.jsonl")
BAR = 40


class NeverCancelled:
    """A stop sign for work that nobody stops."""

    def check(self) -> None:
        """Let the work go on."""


def read_facts(path: Path) -> list[ProductFacts]:
    """Take every usable row of a file as far as its merged facts."""
    analyzer, found = OfflineAnalyzer(), []
    with path.open("rb") as stream:
        for line in read_jsonl(stream):
            if not isinstance(line, GoodLine):
                print(f"{path.name}: {line}")
                continue
            try:
                content = build_content(parse_crawler_data(line.item.raw).data)
            except ValidationError as error:
                print(f"{path.name}:{line.line_number}: {error}")
                continue
            answer = analyzer.analyze(AnalysisRequest(content=content), cancellation=NeverCancelled())
            found.append(merge_facts(content, answer.analysis, images_used=0))
    return found


def print_spread(title: str, scored: Sequence[SquorScore]) -> None:
    """Print deciles of the overall, grades, and a line for each component."""
    overalls = [result.overall for result in scored if result.overall is not None]
    ungraded = len(scored) - len(overalls)
    print(f"\n== {title}: {len(scored)} products, {ungraded / len(scored):.1%} without a grade")
    tens = Counter(min(int(overall // 10), 9) for overall in overalls)
    for ten in range(10):
        share = tens[ten] / len(overalls)
        print(f"  {ten * 10:3d}-{ten * 10 + 10:<3d} {tens[ten]:5d} {share:6.1%} {'#' * round(share * BAR * 2)}")
    cuts = quantiles(overalls, n=10)
    print("  deciles   " + "  ".join(f"{cut:.1f}" for cut in cuts))
    grades = Counter(result.grade for result in scored)
    print("  grades    " + "  ".join(f"{grade} {grades[grade] / len(scored):.1%}" for grade in Grade))
    for component in Component:
        values = [part.score for result in scored if (part := result.component(component)).score is not None]
        print(f"  {component:<15} known {len(values) / len(scored):6.1%}  {_summary(values)}")
    heaviest = Counter(factor.rule if (factor := result.heaviest_factor()) else "-" for result in scored)
    print(
        "  weighed most: " + ", ".join(f"{rule} {count / len(scored):.0%}" for rule, count in heaviest.most_common(6))
    )


def print_examples(facts: Sequence[ProductFacts], policy: Policy, *, count: int) -> None:
    """Print the best and the worst products, so that a reader can disagree."""
    pairs = [(result.overall, given) for given in facts if (result := score(given, policy)).overall is not None]
    pairs.sort(key=lambda pair: pair[0])
    for title, chosen in (("best", pairs[::-1][:count]), ("worst", pairs[:count])):
        print(f"\n{title} under {policy.version}")
        for overall, given in chosen:
            text = (given.content.ingredients_text or "")[:80].replace("\n", " ")
            print(f"  {overall:5}  {given.content.name[:36]:<36}  {text}")


def _summary(values: Sequence[Decimal]) -> str:
    if len(values) < 2:
        return "too few to say"
    tenths = quantiles(values, n=10)
    return f"median {median(values):5.1f}  middle 80 % {tenths[0]:.1f} to {tenths[-1]:.1f}"


def main() -> None:
    """Print the spread for each file and policy version."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with openfoodfacts_*.jsonl")
    parser.add_argument("--show", type=int, default=0, help="print that many best and worst products")
    options = parser.parse_args()
    by_file = {name: read_facts(options.data / name) for name in FILES}
    everything = [facts for found in by_file.values() for facts in found]
    for policy in load_policies():
        for name, found in by_file.items():
            print_spread(f"{policy.version} {name}", [score(facts, policy) for facts in found])
        print_spread(f"{policy.version} all", [score(facts, policy) for facts in everything])
        if options.show:
            print_examples(everything, policy, count=options.show)


if __name__ == "__main__":
    main()
