"""Writes the generated parts of the documents from code and test data: `make docs`. `--check` only says what is stale.

A generated part stands between `<!-- generated: name -->` and `<!-- end: name -->`; everything else is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from squorflow.config import WorkflowConfig, variable_of
from squorflow.monitoring.prometheus import METRICS
from squorflow.states import INITIAL_STATE, TERMINAL_STATES, TRANSITIONS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = tuple(ROOT / name for name in ("README.md", "docs/security.md", "docs/monitoring.md", "docs/recovery.md"))
RECOVERY = ROOT / "tests" / "data" / "recovery_table.json"
REFUSED = ROOT / "tests" / "data" / "refused_addresses.jsonl"


def state_diagram() -> str:
    """Return the state machine as a Mermaid diagram, from TRANSITIONS."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {INITIAL_STATE}"]
    for state, targets in TRANSITIONS.items():
        lines += [f"    {state} --> {target}" for target in sorted(targets, key=list(TRANSITIONS).index)]
    lines += [f"    {state} --> [*]" for state in TRANSITIONS if state in TERMINAL_STATES]
    return "\n".join([*lines, "```"])


def _default(value: object) -> str:
    if isinstance(value, timedelta):
        return f"`{value.total_seconds():g}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple) and value:
        return f"`{','.join(value)}`"
    return f"`{value}`" if value not in ("", ()) else "*(empty)*"


def configuration_table() -> str:
    """Return all settings as a table, from WorkflowConfig."""
    lines = ["| environment variable | keyword | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{variable_of(name)}` | `{name}` | {_default(field.default)} | {field.description} |"
        for name, field in WorkflowConfig.model_fields.items()
    ]
    return "\n".join(lines)


def _as_code(text: str) -> str:
    """Return text as Markdown code that survives a table, with what does not print spelt out."""
    spelt = "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)
    return f"`` {spelt.replace('|', chr(92) + '|')} ``" if "`" in spelt else f"`{spelt.replace('|', chr(92) + '|')}`"


def refused_table() -> str:
    """Return the address forms that the tests try, by kind, with one example of each."""
    forms = [json.loads(line) for line in REFUSED.read_text(encoding="utf-8").splitlines()]
    groups: dict[str, list[dict[str, Any]]] = {}
    for form in forms:
        groups.setdefault(form["group"], []).append(form)
    lines = ["| kind | forms tried | for example | refused because |", "| --- | --: | --- | --- |"]
    lines += [
        f"| {group} | {len(tried)} | {_as_code(tried[0]['url'][:80])} | {tried[0]['refused']} |"
        for group, tried in groups.items()
    ]
    return "\n".join([*lines, f"| **all** | **{len(forms)}** | | |"])


def recovery_table() -> str:
    """Return each failure with what was seen when it was injected last (`make recovery-table`)."""
    lines = ["| failure | Airflow shows | the trail says | running again after |", "| --- | --- | --- | --- |"]
    for row in json.loads(RECOVERY.read_text(encoding="utf-8")):
        cells = (row[name].replace("|", "\\|") for name in ("failure", "airflow", "trail", "recovered"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def prometheus_table() -> str:
    """Return what Prometheus is given as a table, from METRICS."""
    lines = ["| name | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for name, (kind, meaning, labels) in METRICS.items():
        shown = f"{name}_total" if kind == "counter" else name
        lines.append(f"| `{shown}` | {kind} | {', '.join(f'`{one}`' for one in labels)} | {meaning} |")
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {
    "states": state_diagram,
    "configuration": configuration_table,
    "refused": refused_table,
    "prometheus": prometheus_table,
    "recovery": recovery_table,
}


def render(text: str) -> str:
    """Return `text` with every generated part made anew; raises `KeyError` for a part nobody makes."""

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- generated: {name} -->\n{PARTS[name]()}\n<!-- end: {name} -->"

    return re.sub(r"<!-- generated: (?P<name>\w+) -->\n.*?<!-- end: (?P=name) -->", replace, text, flags=re.DOTALL)


def main() -> int:
    """Write the documents, or with `--check` list those that are out of date; return the exit code."""
    stale = []
    for document in DOCUMENTS:
        before = document.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            stale.append(document.name)
            if "--check" not in sys.argv:
                document.write_text(after, encoding="utf-8")
                print(f"wrote {document.name}")
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
