"""The memory of an image stage: bounded whatever the hosts send, and enough for the largest admitted picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from squorflow.postgres.database import Database
from support.hostile_images import hostile_answers
from support.image_server import Answer, ImageServer, picture
from support.processes import TESTS

MOST_MEGABYTES = 300
SILENT = {"slow drip", "slow picture", "silence"}
"""Attacks after which their host is not asked again, so each gets one of its own."""
LARGEST = ("24 megapixels", "24 megapixels, progressive", "12 megapixels png", "4 megapixels webp")


def _large() -> dict[str, Answer]:
    """Return sound pictures at the limits of pixels and of bytes."""
    noise = BytesIO()
    Image.frombytes("RGB", (1_800, 1_800), os.urandom(1_800 * 1_800 * 3)).save(noise, format="PNG", compress_level=1)
    full = Answer(body=noise.getvalue())
    sizes = {"size": (6_000, 4_000)}
    return {
        "24 megapixels": Answer(body=picture("JPEG", **sizes)),
        "24 megapixels, progressive": Answer(body=picture("JPEG", colour="olive", progressive=True, **sizes)),
        "12 megapixels png": Answer(body=picture("PNG", size=(4_000, 3_000))),
        "4 megapixels webp": Answer(body=picture("WEBP", size=(2_000, 2_000))),
        **{f"ten megabytes {number}": full for number in range(5)},
        **{f"endless {number}": Answer(body=b"x" * 65_536, declared_length=None, endless=True) for number in range(5)},
    }


def _fetch_all(database: Database, answers: dict[str, Answer], *, store: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Run a process that fetches all answers as the images of one product; return their names by address, and what it
    said.
    """
    with ExitStack() as stack:
        common = stack.enter_context(ImageServer())
        servers = {name: stack.enter_context(ImageServer()) for name in answers if name in SILENT}
        names = {
            servers.get(name, common).serve(f"/{number}.png", answer): name
            for number, (name, answer) in enumerate(answers.items())
        }
        hosts = ",".join(server.host for server in (common, *servers.values()))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "support.image_stage_process"),
                *(database.engine.url.render_as_string(hide_password=False), str(store), hosts),
            ],
            input=json.dumps([common.serve_picture("/first.png"), *names]),
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            check=True,
            timeout=300,
        )
    return names, json.loads(done.stdout)


def test_a_stage_and_its_decoder_stay_under_300_mb_together_whatever_the_hosts_send(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, said = _fetch_all(database, {**hostile_answers(), **_large()}, store=tmp_path / "images")
    stored = {names[image["url"]] for image in said["images"] if image["url"] in names}
    unusable = {names[image["url"]]: image["reason"] for image in said["unusable"]}
    own, decoder = (round(said[name] * 1024 / 1e6) for name in ("own_kib", "decoder_kib"))
    with capsys.disabled():
        sys.stdout.write(f"\nimage_fetch over {len(names)} images took {own} MB, its largest decoder {decoder} MB\n")
    assert {*LARGEST, "ten megabytes 0"} <= stored, unusable
    assert not [reason for reason in unusable.values() if reason.startswith("not tried")]
    assert "10 s" in unusable["10,000 scans"]
    assert decoder > 50, "no decoder was seen at work"
    assert own + decoder < MOST_MEGABYTES
