"""Fetches the browser libraries that are kept in the repository, from npm packages named by version and checksum.

    python scripts/vendor.py                      fetch every file of every manifest anew, and check it
    python scripts/vendor.py htmx.org 4.0.1       take another version, and write its checksums down

Owns the `manifest.json` files and what stands beside them; tests only compare. Nothing else of the project needs npm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = (
    ROOT / "include" / "squorflow" / "dashboard" / "static" / "vendor" / "manifest.json",
    ROOT / "tests" / "browser" / "vendor" / "manifest.json",
)


def fetch(package: str, version: str) -> dict[str, bytes]:
    """Return the files of an npm package by their path inside it; runs none of its scripts."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"{package}@{version}", "--silent", "--ignore-scripts", "--pack-destination", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - npm, by the manifest's names
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as opened:
            return {
                member.name.removeprefix("package/"): found.read()
                for member in opened
                if (found := opened.extractfile(member)) is not None
            }


def take(entry: dict[str, Any], *, folder: Path, anew: bool) -> list[str]:
    """Write one package's files; `anew` writes their checksums down too. Return what does not fit them."""
    content = fetch(entry["package"], entry["version"])
    wrong = []
    for file in entry["files"]:
        found = content.get(file["from"])
        sha256 = hashlib.sha256(found).hexdigest() if found is not None else None
        if anew:
            file["sha256"] = sha256
        if found is None or sha256 != file["sha256"]:
            wrong.append(f"{entry['package']}@{entry['version']}: {file['from']}")
            continue
        (folder / file["to"]).write_bytes(found)
    return wrong


def main() -> int:
    """Fetch, and exit 1 where a file is missing or other than its checksum says."""
    parser = argparse.ArgumentParser(description="Fetch the browser libraries anew.")
    parser.add_argument("package", nargs="?", help="the package to take in another version")
    parser.add_argument("version", nargs="?", help="that version")
    asked = parser.parse_args()
    wrong: list[str] = []
    for path in MANIFESTS:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest:
            anew = entry["package"] == asked.package and asked.version is not None
            if asked.package and not anew:
                continue
            if anew:
                entry["version"] = asked.version
            wrong += take(entry, folder=path.parent, anew=anew)
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for one in wrong:
        sys.stderr.write(f"{one} is not what the manifest says\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
