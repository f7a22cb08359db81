"""`scripts/bootstrap`: what it tells uv about certificates. A script that writes it down stands in for uv."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).resolve().parents[2] / "scripts" / "bootstrap"
UV = """#!/bin/sh
[ "$1" = --version ] && { echo "uv 9.9.9"; exit; }
echo "${SSL_CERT_FILE-none} ${UV_SYSTEM_CERTS-none}"
"""
SYSTEM = ssl.get_default_verify_paths()


def _told(folder: Path, **environment: str) -> list[str]:
    """Run the script in a checkout of its own and return what uv was told each time."""
    (folder / "scripts").mkdir()
    shutil.copy(BOOTSTRAP, folder / "scripts")
    (folder / "requirements.lock").write_text("uv==9.9.9 \\\n    --hash=sha256:00\n")
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "uv").write_text(UV)
    (programs / "uv").chmod(0o755)
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("SSL_", "UV_", "PIP_"))}
    bare |= {"PIP_CONFIG_FILE": os.devnull, "PYTHON": sys.executable}
    done = subprocess.run(
        ["/bin/sh", folder / "scripts" / "bootstrap"],
        env=bare | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(not (SYSTEM.cafile or SYSTEM.capath), reason="this system has no certificates of its own")
def test_uv_trusts_whom_the_system_trusts(tmp_path: Path) -> None:
    assert _told(tmp_path) == ["none 1"] * 2


def test_uv_trusts_the_certificates_that_pip_is_set_up_for(tmp_path: Path) -> None:
    assert _told(tmp_path, PIP_CERT="/ca.pem") == ["/ca.pem none"] * 2


def test_what_uv_is_told_by_its_user_stays(tmp_path: Path) -> None:
    assert _told(tmp_path, UV_SYSTEM_CERTS="0", SSL_CERT_FILE="/mine.pem") == ["/mine.pem 0"] * 2
