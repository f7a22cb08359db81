"""The sample dashboard and rules name only figures that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from squorflow.monitoring.alerts import Alert
from squorflow.monitoring.prometheus import METRICS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
SUFFIXES = {"gauge": ("",), "counter": ("_total",), "summary": ("_count", "_sum")}
EXPOSED = {f"{name}{suffix}": labels for name, (kind, _, labels) in METRICS.items() for suffix in SUFFIXES[kind]}


def _dashboard() -> dict[str, tuple[str, str]]:
    """Return each panel's expression and legend by its title."""
    panels = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))["panels"]
    return {one["title"]: (one["targets"][0]["expr"], one["targets"][0]["legendFormat"]) for one in panels}


def _rules() -> dict[str, tuple[str, str]]:
    """Return each rule's expression and summary by its name."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return {
        rule["alert"]: (rule["expr"], rule["annotations"]["summary"]) for group in groups for rule in group["rules"]
    }


USED = {**_dashboard(), **_rules()}


@pytest.mark.parametrize("name", USED)
def test_an_expression_names_only_figures_and_labels_that_exist(name: str) -> None:
    expression, words = USED[name]
    figures = re.findall(r"squorflow_\w+", expression)
    assert figures
    assert [one for one in figures if one not in EXPOSED] == []
    labels = {label for one in figures for label in EXPOSED[one]}
    matched = re.findall(r"(\w+)\s*=~?\"", expression)
    grouped = re.findall(r"by \((\w+)\)", expression)
    shown = re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", words)
    assert [one for one in (*matched, *grouped, *shown) if one not in labels] == []


def test_every_figure_is_on_the_dashboard() -> None:
    shown = " ".join(expression for expression, _ in _dashboard().values())
    assert [name for name in EXPOSED if name not in shown] == []


def test_panels_do_not_lie_upon_each_other() -> None:
    panels = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))["panels"]
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels]
    assert len(set(places)) == len({one["id"] for one in panels}) == len(panels)


def test_the_runbook_says_of_every_alert_and_rule_what_to_do() -> None:
    runbook = (FOLDER.parent / "operations.md").read_text(encoding="utf-8")
    rows = [line for line in runbook.splitlines() if line.startswith("|")]
    names = {*(alert.value for alert in Alert), "breaker_open", "system_fault", *_rules()}
    assert {name for name in names if not any(f"`{name}`" in row for row in rows)} == set()
