"""What other libraries' errors mean, each with the class they really raise."""

from __future__ import annotations

import errno
import json
import socket
import ssl
import warnings
from io import BytesIO
from typing import Any

import botocore.exceptions
import fsspec.exceptions
import httpx
import httpx2
import PIL
import PIL.Image
import psycopg
import pydantic
import pytest
import requests
import sqlalchemy.exc
from google.api_core import exceptions as google
from google.auth import exceptions as google_auth
from google.genai import errors as genai
from s3fs.errors import translate_boto_error

from squorflow.errors import ErrorCategory
from squorflow.recovery.foreign import categorise

with warnings.catch_warnings():
    # The package says that it has ended.
    warnings.simplefilter("ignore", FutureWarning)
    from google.generativeai.types import BlockedPromptException, StopCandidateException

TRANSIENT, RATE_LIMIT = ErrorCategory.TRANSIENT, ErrorCategory.RATE_LIMIT
DATA, SYSTEM = ErrorCategory.DATA, ErrorCategory.SYSTEM


def _raised(function: Any, *arguments: Any) -> BaseException:
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError


def _wrapped(original: BaseException) -> Exception:
    return sqlalchemy.exc.DBAPIError("SELECT 1", {}, original)


def _http(library: Any, status: int) -> Exception:
    request = library.Request("GET", "https://a.example/")
    error: Exception = library.HTTPStatusError(
        "no", request=request, response=library.Response(status, request=request)
    )
    return error


def _genai(kind: type[genai.APIError], code: int, reason: str = "") -> Exception:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}] if reason else []
    return kind(code, {"error": {"code": code, "message": "no", "status": "NO", "details": details}})


def _store(code: str, status: int) -> Exception:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "PutObject")


KNOWN: dict[str, tuple[BaseException, ErrorCategory]] = {
    # Python and the operating system
    "no memory": (MemoryError(), SYSTEM),
    "no permission": (PermissionError("denied"), SYSTEM),
    "no module": (ModuleNotFoundError("PIL"), SYSTEM),
    "disk full": (OSError(errno.ENOSPC, "no space"), SYSTEM),
    "disk quota": (OSError(errno.EDQUOT, "quota"), SYSTEM),
    "disk read-only": (OSError(errno.EROFS, "read-only"), SYSTEM),
    "too many open files": (OSError(errno.EMFILE, "too many"), SYSTEM),
    "connection reset": (OSError(errno.ECONNRESET, "reset"), TRANSIENT),
    "connection refused": (ConnectionRefusedError("refused"), TRANSIENT),
    "broken pipe": (BrokenPipeError("pipe"), TRANSIENT),
    "time-out": (TimeoutError("late"), TRANSIENT),
    "name not resolved": (socket.gaierror(socket.EAI_AGAIN, "again"), TRANSIENT),
    "TLS cut off": (ssl.SSLEOFError("eof"), TRANSIENT),
    "truncated JSON": (_raised(json.loads, '{"a": '), TRANSIENT),
    "pydantic": (_raised(pydantic.TypeAdapter(int).validate_python, "x"), DATA),
    # Postgres
    "serialization": (psycopg.errors.SerializationFailure("again"), TRANSIENT),
    "deadlock": (psycopg.errors.DeadlockDetected("again"), TRANSIENT),
    "admin shutdown": (psycopg.errors.AdminShutdown("gone"), TRANSIENT),
    "crash shutdown": (psycopg.errors.CrashShutdown("gone"), TRANSIENT),
    "starting up": (psycopg.errors.CannotConnectNow("starting"), TRANSIENT),
    "too many connections": (psycopg.errors.TooManyConnections("many"), TRANSIENT),
    "statement cancelled": (psycopg.errors.QueryCanceled("cancelled"), TRANSIENT),
    "lock not available": (psycopg.errors.LockNotAvailable("busy"), TRANSIENT),
    "connection lost": (psycopg.OperationalError("server closed the connection unexpectedly"), TRANSIENT),
    "connection closed": (psycopg.InterfaceError("the connection is closed"), TRANSIENT),
    "pool exhausted": (sqlalchemy.exc.TimeoutError("QueuePool limit"), TRANSIENT),
    "database full": (psycopg.errors.DiskFull("full"), SYSTEM),
    "database out of memory": (psycopg.errors.OutOfMemory("memory"), SYSTEM),
    "database IO": (psycopg.errors.IoError("io"), SYSTEM),
    "wrong password": (psycopg.errors.InvalidPassword("no"), SYSTEM),
    "no such database": (psycopg.errors.InvalidCatalogName("no"), SYSTEM),
    "no privilege": (psycopg.errors.InsufficientPrivilege("no"), SYSTEM),
    "no table": (psycopg.errors.UndefinedTable("none"), SYSTEM),
    "no column": (psycopg.errors.UndefinedColumn("none"), SYSTEM),
    "out of range": (psycopg.errors.NumericValueOutOfRange("big"), DATA),
    "wrapped: no function": (_wrapped(psycopg.errors.UndefinedFunction("none")), SYSTEM),
    "wrapped: bad text": (_wrapped(psycopg.errors.InvalidTextRepresentation("x")), DATA),
    "wrapped: gone": (_wrapped(psycopg.OperationalError("gone")), TRANSIENT),
    "wrapped: deadlock": (_wrapped(psycopg.errors.DeadlockDetected("again")), TRANSIENT),
    # Pillow
    "no image": (_raised(PIL.Image.open, BytesIO(b"<svg/>")), DATA),
    "a bomb": (PIL.Image.DecompressionBombError("huge"), DATA),
    # google-generativeai
    "gemini 429": (google.ResourceExhausted("quota"), RATE_LIMIT),
    "gemini 429 over REST": (google.TooManyRequests("quota"), RATE_LIMIT),
    "gemini 400": (google.InvalidArgument("bad request"), DATA),
    "gemini wrong key": (google.InvalidArgument("API key not valid. API_KEY_INVALID"), SYSTEM),
    "gemini 401": (google.Unauthenticated("who"), SYSTEM),
    "gemini 403": (google.PermissionDenied("no"), SYSTEM),
    "gemini no model": (google.NotFound("no model"), SYSTEM),
    "gemini 500": (google.InternalServerError("oops"), TRANSIENT),
    "gemini 503": (google.ServiceUnavailable("busy"), TRANSIENT),
    "gemini 504": (google.DeadlineExceeded("late"), TRANSIENT),
    "gemini gave up": (google.RetryError("late", cause=None), TRANSIENT),
    "gemini unreachable": (google_auth.TransportError("away"), TRANSIENT),
    "gemini no credentials": (google_auth.DefaultCredentialsError("none"), SYSTEM),
    "gemini blocked the prompt": (BlockedPromptException("blocked"), DATA),
    "gemini stopped": (StopCandidateException("safety"), DATA),
    "REST connection": (requests.exceptions.ConnectionError("away"), TRANSIENT),
    "REST time-out": (requests.exceptions.ReadTimeout("late"), TRANSIENT),
    "REST cut off": (requests.exceptions.ChunkedEncodingError("cut"), TRANSIENT),
    # google-genai
    "genai 429": (_genai(genai.ClientError, 429), RATE_LIMIT),
    "genai 400": (_genai(genai.ClientError, 400), DATA),
    "genai wrong key": (_genai(genai.ClientError, 400, "API_KEY_INVALID"), SYSTEM),
    "genai 403": (_genai(genai.ClientError, 403), SYSTEM),
    "genai no model": (_genai(genai.ClientError, 404), SYSTEM),
    "genai 503": (_genai(genai.ServerError, 503), TRANSIENT),
    "genai time-out": (httpx2.ReadTimeout("late"), TRANSIENT),
    "genai reset": (httpx2.ReadError("reset"), TRANSIENT),
    # The object store
    "store slow down": (_store("SlowDown", 503), RATE_LIMIT),
    "store denied": (_store("AccessDenied", 403), SYSTEM),
    "store wrong key": (_store("InvalidAccessKeyId", 403), SYSTEM),
    "store no bucket": (_store("NoSuchBucket", 404), SYSTEM),
    "store 500": (_store("InternalError", 500), TRANSIENT),
    "store 503 without words": (_store("503", 503), TRANSIENT),
    "store no credentials": (botocore.exceptions.NoCredentialsError(), SYSTEM),
    "store unreachable": (botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"), TRANSIENT),
    "store connect time-out": (botocore.exceptions.ConnectTimeoutError(endpoint_url="http://s3"), TRANSIENT),
    "store read time-out": (botocore.exceptions.ReadTimeoutError(endpoint_url="http://s3"), TRANSIENT),
    "store connection closed": (botocore.exceptions.ConnectionClosedError(endpoint_url="http://s3"), TRANSIENT),
    # As the file system above the store passes them on.
    "store file system slow down": (translate_boto_error(_store("SlowDown", 503)), RATE_LIMIT),
    "store file system 500": (translate_boto_error(_store("InternalError", 500)), TRANSIENT),
    "store file system 503 without words": (translate_boto_error(_store("503", 503)), TRANSIENT),
    "store file system denied": (translate_boto_error(_store("AccessDenied", 403)), SYSTEM),
    "store file system no bucket": (translate_boto_error(_store("NoSuchBucket", 404)), SYSTEM),
    "store file system time-out": (fsspec.exceptions.FSTimeoutError(), TRANSIENT),
}
for _library in (httpx, httpx2):
    KNOWN |= {
        f"{_library.__name__} {name}": (error, category)
        for name, error, category in (
            ("connect", _library.ConnectError("refused"), TRANSIENT),
            ("connect time-out", _library.ConnectTimeout("late"), TRANSIENT),
            ("pool time-out", _library.PoolTimeout("late"), TRANSIENT),
            ("protocol", _library.RemoteProtocolError("cut off"), TRANSIENT),
            ("decoding", _library.DecodingError("gzip"), TRANSIENT),
            ("bad address", _library.InvalidURL("no"), DATA),
            ("other scheme", _library.UnsupportedProtocol("ftp"), DATA),
            ("redirects", _library.TooManyRedirects("loop"), DATA),
            ("429", _http(_library, 429), RATE_LIMIT),
            ("408", _http(_library, 408), TRANSIENT),
            ("502", _http(_library, 502), TRANSIENT),
            ("403", _http(_library, 403), SYSTEM),
            ("404", _http(_library, 404), DATA),
        )
    }


@pytest.mark.parametrize("name", KNOWN)
def test_an_error_of_another_library_has_its_category(name: str) -> None:
    error, category = KNOWN[name]
    assert categorise(error) is category


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyError("x"), OSError("no number"), _store("NoSuchKey", 404)])
def test_what_the_table_does_not_have_is_unknown(error: BaseException) -> None:
    assert categorise(error) is None
