"""Print `.env.example` with random secrets where values are missing: `python3 scripts/make_env.py > .env`."""

from __future__ import annotations

import base64
import secrets
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / ".env.example"
OURS_TO_MAKE = ("_PASSWORD", "_SECRET", "_SECRET_KEY")


def fill(line: str) -> str:
    """Return the line with a secret, if it is an empty one that can be made up."""
    name, equals, value = line.partition("=")
    if not equals or value or line.startswith("#"):
        return line
    if name == "AIRFLOW_FERNET_KEY":
        return f"{name}={base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}"
    # In hexadecimal, because some of them stand in addresses.
    return f"{name}={secrets.token_hex(24)}" if name.endswith(OURS_TO_MAKE) else line


if __name__ == "__main__":
    sys.stdout.write("".join(f"{fill(line)}\n" for line in EXAMPLE.read_text(encoding="utf-8").splitlines()))
