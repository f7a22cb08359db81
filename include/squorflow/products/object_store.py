"""A plain folder, or any object store that Airflow knows, by key: what images and archives are kept in.

Owns the two kinds of store and that nobody ever sees half a file. What the keys and contents mean is the caller's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from squorflow.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


class ObjectStore:
    """A folder, or an object store for an address with a scheme (`s3://`, `gs://`).

    `setting` is the environment variable it comes from, for messages. What cannot be read or written raises `OSError`.
    """

    def __init__(self, root: str, *, setting: str) -> None:
        self.root = root
        self._setting = setting

    def describe(self) -> str:
        """Return where it is, for people: a folder by its whole path."""
        return self.root if "://" in self.root else str(Path(self.root).absolute())

    def put(self, content: bytes | IO[bytes], key: str, *, replace: bool = False) -> None:
        """Store content under a key, unless that is there and not to be replaced; it appears whole or not at all."""
        place = self.place(key)
        if not replace and place.exists():
            return
        source = BytesIO(content) if isinstance(content, bytes) else content
        if isinstance(place, Path):
            _put_file(source, path=place)
            return
        # Object stores make an object visible only when it is complete, so no renaming is needed.
        if place.protocol == "file":
            place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as target:
            shutil.copyfileobj(source, target)

    def open(self, key: str) -> IO[bytes]:
        """Open what is stored under a key, to be read."""
        file: IO[bytes] = self.place(key).open("rb")
        return file

    def list_names(self, folder: str) -> list[str]:
        """Return the names in a folder of the store, sorted; none when there is no such folder."""
        place = self.place(folder)
        return sorted(one.name for one in place.iterdir() if not one.name.startswith(".")) if place.exists() else []

    def place(self, key: str) -> Any:
        """Return where a key is: a `Path`, or Airflow's `ObjectStoragePath`."""
        return self._remote() / key if "://" in self.root else Path(self.root) / key

    def _remote(self) -> ObjectStoragePath:
        from airflow.sdk import ObjectStoragePath

        try:
            place = ObjectStoragePath(self.root)
            place.fs  # noqa: B018 - a kind that Airflow knows by name is imported only here
        except (ValueError, ImportError) as error:
            raise ConfigurationError(
                f"{self._setting}={self.root} names a kind of store that is not installed. "
                "Install its Airflow provider."
            ) from error
        return place


def _put_file(source: IO[bytes], *, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".incoming-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
