"""What the errors of other libraries mean: one table, by class, status or code.

Owns the table. Classes are named in text, so that nothing heavy is imported to compare with; a subclass means what its
nearest named base means. What is not here is unknown, and `squorflow.recovery.policy` says what that leads to.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from squorflow.errors import ErrorCategory

_TRANSIENT, _RATE_LIMIT = ErrorCategory.TRANSIENT, ErrorCategory.RATE_LIMIT
_DATA, _SYSTEM = ErrorCategory.DATA, ErrorCategory.SYSTEM

_BY_CLASS: dict[str, ErrorCategory] = {
    # Python and the operating system
    "builtins.MemoryError": _SYSTEM,
    "builtins.PermissionError": _SYSTEM,
    "builtins.ImportError": _SYSTEM,
    "builtins.ConnectionError": _TRANSIENT,
    "builtins.TimeoutError": _TRANSIENT,
    "socket.gaierror": _TRANSIENT,
    "ssl.SSLError": _TRANSIENT,
    # A body that was cut off; what a stage reads on purpose it validates by pydantic.
    "json.decoder.JSONDecodeError": _TRANSIENT,
    "pydantic_core._pydantic_core.ValidationError": _DATA,
    # Postgres
    "psycopg.OperationalError": _TRANSIENT,
    "psycopg.InterfaceError": _TRANSIENT,
    "psycopg.DataError": _DATA,
    "psycopg.errors.ConfigurationLimitExceeded": _SYSTEM,
    "psycopg.errors.DataCorrupted": _SYSTEM,
    "psycopg.errors.DiskFull": _SYSTEM,
    "psycopg.errors.IndexCorrupted": _SYSTEM,
    "psycopg.errors.InsufficientPrivilege": _SYSTEM,
    "psycopg.errors.InvalidAuthorizationSpecification": _SYSTEM,
    "psycopg.errors.InvalidCatalogName": _SYSTEM,
    "psycopg.errors.InvalidPassword": _SYSTEM,
    "psycopg.errors.InvalidSchemaName": _SYSTEM,
    "psycopg.errors.IoError": _SYSTEM,
    "psycopg.errors.OutOfMemory": _SYSTEM,
    "psycopg.errors.UndefinedColumn": _SYSTEM,
    "psycopg.errors.UndefinedFunction": _SYSTEM,
    "psycopg.errors.UndefinedObject": _SYSTEM,
    "psycopg.errors.UndefinedTable": _SYSTEM,
    "sqlalchemy.exc.TimeoutError": _TRANSIENT,
    # httpx, and httpx2 below google-genai
    "httpx.TransportError": _TRANSIENT,
    "httpx.DecodingError": _TRANSIENT,
    "httpx.InvalidURL": _DATA,
    "httpx.TooManyRedirects": _DATA,
    "httpx.UnsupportedProtocol": _DATA,
    "httpx2.TransportError": _TRANSIENT,
    "httpx2.DecodingError": _TRANSIENT,
    "httpx2.InvalidURL": _DATA,
    "httpx2.TooManyRedirects": _DATA,
    "httpx2.UnsupportedProtocol": _DATA,
    # requests, below google-generativeai's REST transport
    "requests.exceptions.ConnectionError": _TRANSIENT,
    "requests.exceptions.Timeout": _TRANSIENT,
    "requests.exceptions.ChunkedEncodingError": _TRANSIENT,
    "requests.exceptions.ContentDecodingError": _TRANSIENT,
    # Pillow
    "PIL.UnidentifiedImageError": _DATA,
    "PIL.Image.DecompressionBombError": _DATA,
    # google-generativeai
    "google.api_core.exceptions.RetryError": _TRANSIENT,
    "google.auth.exceptions.TransportError": _TRANSIENT,
    "google.auth.exceptions.GoogleAuthError": _SYSTEM,
    "google.generativeai.types.generation_types.BlockedPromptException": _DATA,
    "google.generativeai.types.generation_types.StopCandidateException": _DATA,
    # The object store
    "botocore.exceptions.ConnectionError": _TRANSIENT,
    "botocore.exceptions.HTTPClientError": _TRANSIENT,
    "botocore.exceptions.BotoCoreError": _SYSTEM,
    "fsspec.exceptions.FSTimeoutError": _TRANSIENT,
}

_BY_ERRNO = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}
)
"""Disk full or read-only, too many open files, no memory, no permission: the machine's fault."""

_BY_STORE_CODE: dict[str, ErrorCategory] = {
    "SlowDown": _RATE_LIMIT,
    "Throttling": _RATE_LIMIT,
    "ThrottlingException": _RATE_LIMIT,
    "RequestLimitExceeded": _RATE_LIMIT,
    "TooManyRequests": _RATE_LIMIT,
    "AccessDenied": _SYSTEM,
    "AllAccessDisabled": _SYSTEM,
    "ExpiredToken": _SYSTEM,
    "InvalidAccessKeyId": _SYSTEM,
    "InvalidToken": _SYSTEM,
    "NoSuchBucket": _SYSTEM,
    "SignatureDoesNotMatch": _SYSTEM,
    "RequestTimeout": _TRANSIENT,
    "InternalError": _TRANSIENT,
    "ServiceUnavailable": _TRANSIENT,
}

_COME_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})
_LOCKED_OUT = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


def categorise(error: BaseException) -> ErrorCategory | None:
    """Return what kind of failure another library's error is; `None` means the table does not know it."""
    # SQLAlchemy wraps the driver's error, and s3fs makes an `OSError` of the store's answer; what is inside says more.
    original = getattr(error, "orig", None) or (error.__cause__ if isinstance(error, OSError) else None)
    for candidate in (original, error) if isinstance(original, BaseException) else (error,):
        category = _categorise(candidate)
        if category is not None:
            return category
    return None


def _categorise(error: BaseException) -> ErrorCategory | None:
    bases = [f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__]
    if "httpx.HTTPStatusError" in bases or "httpx2.HTTPStatusError" in bases:
        return _by_status(error.response.status_code)  # type: ignore[attr-defined]
    if "google.api_core.exceptions.GoogleAPICallError" in bases:
        return _by_google(error.code, error)  # type: ignore[attr-defined]
    if "google.genai.errors.APIError" in bases:
        return _by_google(error.code, error)  # type: ignore[attr-defined]
    if "botocore.exceptions.ClientError" in bases:
        return _by_store(error.response)  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.errno in _BY_ERRNO:
        return _SYSTEM
    return next((_BY_CLASS[base] for base in bases if base in _BY_CLASS), None)


def _by_status(status: int) -> ErrorCategory | None:
    """Read the status of an HTTP answer."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _RATE_LIMIT
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _COME_AGAIN:
        return _TRANSIENT
    if status in _LOCKED_OUT:
        return _SYSTEM
    return _DATA if status >= HTTPStatus.BAD_REQUEST else None


def _by_google(code: int | None, error: BaseException) -> ErrorCategory | None:
    """Read the status of a Google API; a model that is not there is a setting, and so is a key it calls invalid."""
    if code == HTTPStatus.NOT_FOUND or (code == HTTPStatus.BAD_REQUEST and "API_KEY_INVALID" in _all_of(error)):
        return _SYSTEM
    return _by_status(code or HTTPStatus.INTERNAL_SERVER_ERROR)


def _all_of(error: BaseException) -> str:
    return f"{error} {getattr(error, 'details', '')} {getattr(error, 'reason', '')}"


def _by_store(response: Mapping[str, Any]) -> ErrorCategory | None:
    """Read an answer of the object store."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in _BY_STORE_CODE:
        return _BY_STORE_CODE[code]
    if code.isdecimal():
        status = int(code)
    if status == HTTPStatus.NOT_FOUND:
        return None
    return _by_status(status) if status else None
