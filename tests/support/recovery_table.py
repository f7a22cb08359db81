"""Runs the scenarios of `support.recovery_scenarios` and writes what was seen: `make recovery-table`.

Takes about half an hour; the bad key alone waits five minutes, as it does in life. `make docs` puts the result
into docs/recovery.md. With words as arguments it injects only the failures that contain one of them; the other rows
stay as they were measured. Each row is written as soon as it is there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from support.image_server import ImageServer
from support.recovery_rows import Watch, row_of
from support.recovery_scenarios import SCENARIOS, SETTINGS
from support.recovery_scene import Scene, settle
from support.storm import say
from support.storm_gemini import StormyGemini
from support.storm_ground import ground

TABLE = Path(__file__).resolve().parents[1] / "data" / "recovery_table.json"
Row = dict[str, str]


def run(names: list[str]) -> Iterator[Row]:
    """Run these scenarios one after the other in one installation; yield their rows."""
    with ImageServer() as images, StormyGemini() as gemini:
        settings = {"WORKFLOW_IMAGE_ALLOW": "127.0.0.1", **gemini.settings, **SETTINGS}
        with ground(settings) as place:
            for name in names:
                scene = Scene(ground=place, gemini=gemini, images=images)
                with Watch(scene):
                    SCENARIOS[name](scene)
                yield {"failure": name, **row_of(scene)}
                settle(scene)


def main() -> None:
    """Run all, or those that are named, and keep their rows."""
    wanted = sys.argv[1:]
    names = [name for name in SCENARIOS if not wanted or any(word in name for word in wanted)]
    for row in run(names):
        say(" | ".join(row.values()))
        keep(row)


def keep(row: Row) -> None:
    """Write a row into the table, in the place of what was measured before."""
    rows = {}
    if TABLE.exists():
        rows = {one["failure"]: one for one in json.loads(TABLE.read_text(encoding="utf-8"))}
    rows[row["failure"]] = row
    kept = [rows[name] for name in SCENARIOS if name in rows]
    TABLE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
