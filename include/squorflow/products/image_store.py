"""Where images are kept: a plain folder, or any object store that Airflow knows, by SHA-256.

Owns keys and the two kinds of store. What is in an image is `pictures`.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError, SystemFault

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """A stored image; `stored_at` is its key inside the store, the same wherever the store lies."""

    sha256: str
    mime_type: str
    stored_at: str
    size_bytes: int


class ImageStore:
    """Keeps each image once. A folder, or an object store for an address with a scheme (`s3://`, `gs://`)."""

    def __init__(self, config: WorkflowConfig) -> None:
        self._root = config.image_store or str(config.home / "images")

    def put(self, content: bytes, mime_type: str) -> StoredImage:
        """Store an image unless it is there; a reader never sees half of one.

        Raises `SystemFault` when the store cannot be written (disk full, no access).
        """
        sha256 = hashlib.sha256(content).hexdigest()
        key = _key(sha256, mime_type)
        try:
            if _is_remote(self._root):
                self._put_remote(content, key=key)
            else:
                _put_file(content, path=Path(self._root) / key)
        except OSError as error:
            why = error.strerror or str(error)
            raise SystemFault(
                f"The image store {self._root} cannot be written ({why}). Check its space and rights.",
                code="image_store_write",
            ) from error
        return StoredImage(sha256=sha256, mime_type=mime_type, stored_at=key, size_bytes=len(content))

    def read(self, sha256: str, mime_type: str) -> bytes:
        """Return an image's bytes, checked against their hash.

        Raises `SystemFault` when it is missing, unreadable or altered.
        """
        key = _key(sha256, mime_type)
        try:
            content: bytes = self._place(key).read_bytes()
        except OSError as error:
            raise SystemFault(
                f"The image {key} cannot be read from the store {self._root}. Check that every worker sees that store.",
                code="image_store_read",
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise SystemFault(
                f"The image {key} in the store {self._root} is damaged. Delete it; it will be fetched again.",
                code="image_store_damaged",
            )
        return content

    def _place(self, key: str) -> Any:
        return _remote(self._root) / key if _is_remote(self._root) else Path(self._root) / key

    def _put_remote(self, content: bytes, *, key: str) -> None:
        # Object stores make an object visible only when it is complete, so no renaming is needed.
        place = _remote(self._root) / key
        if not place.exists():
            if place.protocol == "file":
                place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


def _key(sha256: str, mime_type: str) -> str:
    return f"{sha256[:2]}/{sha256}.{EXTENSIONS[mime_type]}"


def _is_remote(root: str) -> bool:
    return "://" in root


def _remote(root: str) -> ObjectStoragePath:
    from airflow.sdk import ObjectStoragePath

    try:
        place = ObjectStoragePath(root)
        place.fs  # noqa: B018 - a kind that Airflow knows by name is imported only here
    except (ValueError, ImportError) as error:
        raise ConfigurationError(
            f"WORKFLOW_IMAGE_STORE={root} names a kind of store that is not installed. Install its Airflow provider."
        ) from error
    return place


def _put_file(content: bytes, *, path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".incoming-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
