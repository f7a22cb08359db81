"""Whom the embedded Postgres runs as, and that user's way to its files. Postgres refuses to run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

SERVER_USER = "squorflow-postgres"
"""Who runs the server when root starts it."""


class Identity(TypedDict, total=False):
    """Arguments of `subprocess` that set a child's user."""

    user: int
    group: int
    extra_groups: list[int]


def find_user(data: Path) -> pwd.struct_passwd | None:
    """Return whom the server must run as: the data folder's owner, or a user made for it; `None`: as ourselves."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat().st_uid) != 0:
        return pwd.getpwuid(owner)
    for attempt in ("useradd", None):
        with suppress(KeyError):
            return pwd.getpwnam(SERVER_USER)
        if attempt and (program := shutil.which(attempt, path="/usr/sbin:/sbin:/usr/bin:/bin")):
            command = [program, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
            subprocess.run(  # noqa: S603 - a fixed name
                [*command, "--shell", "/usr/sbin/nologin", SERVER_USER], capture_output=True, check=False
            )
    return pwd.getpwnam("nobody")


def identity_of(user: pwd.struct_passwd | None) -> Identity:
    """Return what makes a child run as `user`; nothing where that is who we are."""
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def open_way(folder: Path, user: pwd.struct_passwd) -> None:
    """Let `user` pass through the folders above `folder`, and read it if it is there and not the user's own.

    Adds the search bit only (no listing), only where it is missing, and says so.
    """
    for parent in folder.parents:
        found = parent.stat()
        if not found.st_mode & stat.S_IXOTH and found.st_uid != user.pw_uid:
            parent.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXOTH)
            sys.stderr.write(
                f"Other users may now pass through (not list) {parent}: Postgres does not run as root, "
                f"and its user {user.pw_name} has to reach {folder}.\n"
            )
    program = folder / "postgres"
    if program.exists() and not program.stat().st_mode & stat.S_IXOTH:
        for path in folder.parent.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | (0o005 if mode & stat.S_IXUSR else 0o004))
        folder.parent.chmod(stat.S_IMODE(folder.parent.stat().st_mode) | 0o005)
