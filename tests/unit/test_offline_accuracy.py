"""The yardstick: what is compared and why is said in the benchmark's docstring."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "analyzer_accuracy.py"


def _load_benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("analyzer_accuracy", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def accuracy():
    benchmark = _load_benchmark()
    labelled = benchmark.load_labelled()
    return benchmark.measure(filter(benchmark.is_uncut, labelled), judged_numbers=benchmark.judged_numbers(labelled))


def test_nine_in_ten_additives_found_are_right(accuracy):
    assert accuracy.additives.precision >= 0.9


def test_nine_in_ten_additives_are_found(accuracy):
    assert accuracy.additives.recall >= 0.9


def test_nine_in_ten_allergens_found_are_right(accuracy):
    assert accuracy.allergens_read.precision >= 0.9


def test_nine_in_ten_tagged_allergens_are_found(accuracy):
    assert accuracy.allergens_tagged.recall >= 0.9


def test_the_yardstick_is_large_enough_to_mean_something(accuracy):
    assert accuracy.texts > 250
    assert accuracy.additives.right > 400
