"""Libraries of others that are kept in the repository: as their packages have them, with licences, in the wheel."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "include" / "squorflow" / "dashboard" / "static"
MANIFESTS = [STATIC / "vendor" / "manifest.json", ROOT / "tests" / "browser" / "vendor" / "manifest.json"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=["dashboard", "tests"])
def test_vendored_files_are_those_of_their_packages_and_no_others(manifest: Path) -> None:
    entries = json.loads(manifest.read_text())
    files = {file["to"]: file["sha256"] for entry in entries for file in entry["files"]}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in manifest.parent.iterdir()
        if path != manifest
    }
    assert found == files


@pytest.mark.parametrize("manifest", MANIFESTS, ids=["dashboard", "tests"])
def test_each_vendored_package_has_a_version_and_its_licence(manifest: Path) -> None:
    for entry in json.loads(manifest.read_text()):
        assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
        assert entry["licence"]
        assert any(file["to"].endswith(".LICENSE") for file in entry["files"]), entry["package"]


def test_the_wheel_has_the_dashboards_templates_and_files(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    packed = set(zipfile.ZipFile(wheel).namelist())
    package = STATIC.parent
    wanted = {
        path.relative_to(package.parents[1]).as_posix()
        for folder in ("static", "templates")
        for path in (package / folder).rglob("*")
        if path.is_file()
    }
    assert len(wanted) > 20
    assert wanted <= packed


@pytest.mark.parametrize("path", sorted((STATIC.parent / "templates").glob("*.html")), ids=lambda path: path.name)
def test_templates_hold_nothing_that_the_content_security_policy_refuses(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)", source), "a script inside the page"
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", source), "a style or handler inside the page"
    assert not re.search(r"\|\s*safe\b|Markup|autoescape", source), "text that is not escaped"
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", source), "something from elsewhere"


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_scripts_make_no_markup_of_text(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source)
    assert "https://" not in source
