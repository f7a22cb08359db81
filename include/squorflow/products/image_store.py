"""Where images are kept: a plain folder, or any object store that Airflow knows, by SHA-256.

Owns keys and checks. What is in an image is `pictures`, the kinds of store `object_store`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from squorflow.config import WorkflowConfig
from squorflow.errors import ErrorCategory, SystemFault
from squorflow.products.object_store import ObjectStore
from squorflow.recovery import foreign

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


_COMES_BACK = frozenset({ErrorCategory.TRANSIENT, ErrorCategory.RATE_LIMIT})
"""A store that is slow, busy or cut off for the moment: not this installation's fault, and passed on as it is."""


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
        root = config.image_store or str(config.home / "images")
        self._store = ObjectStore(root, setting="WORKFLOW_IMAGE_STORE")

    def put(self, content: bytes, mime_type: str) -> StoredImage:
        """Store an image unless it is there; a reader never sees half of one.

        Raises `SystemFault` when the store cannot be written (disk full, no access), the library's own error when an
        object store is busy or out of reach.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        key = _key(sha256, mime_type)
        try:
            self._store.put(content, key)
        except OSError as error:
            if foreign.categorise(error) in _COMES_BACK:
                raise
            why = error.strerror or str(error)
            raise SystemFault(
                f"The image store {self._store.root} cannot be written ({why}). Check its space and rights.",
                code="image_store_write",
            ) from error
        return StoredImage(sha256=sha256, mime_type=mime_type, stored_at=key, size_bytes=len(content))

    def read(self, sha256: str, mime_type: str) -> bytes:
        """Return an image's bytes, checked against their hash.

        Raises `SystemFault` when it is missing, unreadable or altered, the library's own error when an object store is
        busy or out of reach.
        """
        key = _key(sha256, mime_type)
        try:
            content: bytes = self._store.place(key).read_bytes()
        except OSError as error:
            if foreign.categorise(error) in _COMES_BACK:
                raise
            raise SystemFault(
                f"The image {key} cannot be read from the store {self._store.root}. "
                "Check that every worker sees that store; where the image is lost, cancel the workflow, and "
                "`squorflow reprocess` fetches it again.",
                code="image_store_read",
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise SystemFault(
                f"The image {key} in the store {self._store.root} is damaged. Delete it, cancel the workflow, and "
                "`squorflow reprocess` fetches it again.",
                code="image_store_damaged",
            )
        return content


def _key(sha256: str, mime_type: str) -> str:
    return f"{sha256[:2]}/{sha256}.{EXTENSIONS[mime_type]}"
