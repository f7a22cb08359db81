"""Build the wheel, install it into a bare environment elsewhere, and use it there: `make wheel-check`.

Nothing of the checkout is reachable from there but the DAG files, which people copy, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")


def run(*command: str | Path, folder: Path, environment: dict[str, str] | None = None) -> None:
    """Run a program in `folder`; ends this one with its exit code when it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, check=False)  # noqa: S603 - programs of our own
    if done.returncode:
        sys.exit(done.returncode)


def index_settings() -> dict[str, str]:
    """Return pip's index for uv, which reads no pip configuration, as `scripts/bootstrap` does."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    index = os.environ.get("PIP_INDEX_URL") or asked.stdout.strip()
    given = {"UV_DEFAULT_INDEX": index} if index else {}
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_SYSTEM_CERTS": "1"} | given | dict(os.environ)


def constraints() -> str:
    """Return the lock without its hashes."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return re.sub(r" \\$", "", re.sub(r"^\s+--hash=.*\n", "", lock, flags=re.MULTILINE), flags=re.MULTILINE)


def check_contents(wheel: Path) -> None:
    """Find every file that git knows of the package and its SQL in the wheel; ends this program where one lacks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "include/squorflow", "include/sql"],  # noqa: S607 - git as people have it
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    tracked = [name.removeprefix("include/") for name in listed.split("\0") if name]
    known = {f"squorflow/{name}" if name.startswith("sql/") else name for name in tracked}
    missing = known - set(zipfile.ZipFile(wheel).namelist())
    if missing or not known:
        sys.exit(f"the wheel lacks {', '.join(sorted(missing)) or 'everything'}")
    print(f"{len(known)} files")


def main() -> None:
    """Check the wheel; the folder it was tried in goes again."""
    with tempfile.TemporaryDirectory(prefix="squorflow-wheel-") as name:
        folder = Path(name)
        # A Postgres that root starts runs as somebody else.
        folder.chmod(0o711)
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", folder=ROOT)
        (wheel,) = (folder / "dist").glob("*.whl")
        check_contents(wheel)
        (folder / "constraints.txt").write_text(constraints(), encoding="utf-8")
        python = folder / "bare" / "bin" / "python"
        run(UV, "venv", "--quiet", "--python", sys.executable, folder / "bare", folder=folder)
        run(
            *(UV, "pip", "install", "--quiet", "--python", python, "--constraint", folder / "constraints.txt"),
            f"{wheel}[embedded]",
            folder=folder,
            environment=index_settings(),
        )
        shutil.copytree(ROOT / "dags", folder / "dags")
        shutil.copy(ROOT / "scripts" / "wheel_probe.py", folder / "probe.py")
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PYTHON", "WORKFLOW"))
        }
        environment = kept | {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "WORKFLOW_HOME": str(folder / "home"),
        }
        run(python, "-I", folder / "probe.py", folder / "dags", folder=folder, environment=environment)


if __name__ == "__main__":
    main()
