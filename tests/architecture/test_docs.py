"""The generated parts of the documents are what the code says."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from squorflow.products.crawler import CrawlerData, ExtractedData, NutritionTable, parse_crawler_data
from support.recovery_scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
SECONDS_AWAY = 60


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_of_every_document_are_up_to_date(docs: ModuleType) -> None:
    for document in docs.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert docs.render(text) == text, f"{document.name} is out of date: run `make docs`"


def test_every_generated_part_stands_in_a_document(docs: ModuleType) -> None:
    written = "".join(document.read_text(encoding="utf-8") for document in docs.DOCUMENTS)
    for part in docs.PARTS:
        assert f"<!-- generated: {part} -->" in written


def test_the_table_of_failures_has_a_row_for_each_that_can_be_injected(docs: ModuleType) -> None:
    rows = json.loads(docs.RECOVERY.read_text(encoding="utf-8"))
    assert [row["failure"] for row in rows] == list(SCENARIOS)
    assert all(row[name] for row in rows for name in ("airflow", "trail", "recovered"))


def test_every_measured_product_was_back_within_a_minute_beyond_its_own_delay(docs: ModuleType) -> None:
    measured = {row["failure"]: row["recovered"] for row in json.loads(docs.RECOVERY.read_text(encoding="utf-8"))}
    times = {name: re.findall(r"([\d.]+) s", recovered) for name, recovered in measured.items()}
    assert [measured[name] for name, found in times.items() if not found] == [
        "goes on without the image",
        next(words for words in measured.values() if words.startswith("when the quota is reset")),
    ]
    away = {name: float(found[0]) - sum(map(float, found[1:])) for name, found in times.items() if found}
    assert {name: seconds for name, seconds in away.items() if seconds > SECONDS_AWAY} == {}


def test_every_field_that_a_crawler_may_send_is_documented_and_the_example_is_read_in_full() -> None:
    text = (ROOT / "docs" / "products.md").read_text(encoding="utf-8")
    fields = [name for model in (CrawlerData, ExtractedData, NutritionTable) for name in model.model_fields]
    assert [name for name in fields if f"`{name}`" not in text] == []
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert example is not None
    read = parse_crawler_data(json.loads(example[1]))
    assert (read.notes, read.data.extracted_data.raw_data) == ((), {})


def test_a_changed_diagram_is_noticed(docs: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tampered = readme.replace("created --> queued", "created --> completed")
    assert tampered != readme
    assert docs.render(tampered) == readme
