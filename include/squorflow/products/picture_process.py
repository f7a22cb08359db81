"""Strangers' pictures, decoded in a process of their own: one at a time, with a limit on memory and on time.

Owns that process. A few hundred bytes can ask a decoder for gigabytes (an AVIF whose frame is larger than it says) or
for hours (a JPEG of ten thousand scans), in C, where no check of ours reaches, and decoders have had holes. So the
process gets no environment, no open file but picture and answer, and ends with its picture. What is done to a
picture is `pictures`.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from tempfile import TemporaryFile
from typing import BinaryIO

from squorflow.errors import DataError
from squorflow.products.pictures import CleanImage, clean_image

MEMORY_MEBIBYTES = 130
"""What the process may allocate, itself included, so that a stage and its decoder stay under 300 MB together."""
CPU_SECONDS = 10
_WALL_SECONDS = 60
"""For a machine that is too busy to give it its CPU seconds."""
_MAX_CLEAN_BYTES = 20 * 1024 * 1024
_LOOK_SECONDS = 0.2

_START = "import sys; sys.path[:] = sys.argv[1:]; from squorflow.products.picture_process import work; work()"

_turn = threading.Lock()
"""Held while a picture is decoded: parallel fetches share one process' worth of memory."""


def clean_apart(raw: BinaryIO, *, check: Callable[[], None]) -> CleanImage:
    """Do `pictures.clean_image` in a process of its own; `raw` is a file on disk, read from its start.

    `check` is called several times a second and ends the process by what it raises. Raises `DataError` as `clean_image`
    does, and for what takes too much memory or time (`image_too_large`) or makes the decoder crash (`not_an_image`);
    `OSError` when the machine has no room for the process or its answer.
    """
    while not _turn.acquire(timeout=_LOOK_SECONDS):
        check()
    try:
        check()
        # Files, not pipes: the bytes of pictures that wait for each other take no memory of ours.
        with TemporaryFile() as answer:
            status = _run(raw, answer=answer, check=check)
            if status != 0:
                raise _died(status)
            answer.seek(0)
            head, content = answer.readline(), answer.read()
    finally:
        _turn.release()
    said = json.loads(head)
    if "error" in said:
        raise DataError(said["error"], code=said["code"])
    return CleanImage(content=content, **said)


def _run(raw: BinaryIO, *, answer: BinaryIO, check: Callable[[], None]) -> int:
    """Return the exit status."""
    raw.seek(0)
    command = [sys.executable, "-I", "-c", _START, *sys.path]
    with subprocess.Popen(  # noqa: S603 - our own module
        command, stdin=raw, stdout=answer, stderr=subprocess.DEVNULL, env={}
    ) as process:
        try:
            for _ in range(round(_WALL_SECONDS / _LOOK_SECONDS)):
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=_LOOK_SECONDS)
                check()
        finally:
            process.kill()
    return process.returncode


def _died(status: int) -> DataError | OSError:
    import signal

    if status == os.EX_IOERR:
        return OSError(errno.ENOSPC, "the clean picture could not be written")
    if -status in {signal.SIGKILL, signal.SIGXCPU}:
        return DataError(f"the image took more than {CPU_SECONDS} s to decode", code="image_too_large")
    return DataError("the image cannot be decoded: the decoder crashed", code="not_an_image")


def work() -> None:
    """Be that process: read a picture, answer one line of JSON and the clean picture."""
    import resource

    limit = MEMORY_MEBIBYTES * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    said, content = _answer(sys.stdin.buffer.read())
    try:
        sys.stdout.buffer.write(json.dumps(said).encode() + b"\n" + content)
        sys.stdout.buffer.flush()
    except OSError:
        # At once: Python would try again to write what is left.
        os._exit(os.EX_IOERR)


def _answer(raw: bytes) -> tuple[dict[str, object], bytes]:
    too_large = f"the image takes more than {MEMORY_MEBIBYTES} MiB of memory to decode"
    try:
        image = clean_image(raw)
    except DataError as error:
        return {"error": str(error), "code": error.code}, b""
    except (MemoryError, OSError):
        # Encoders answer OSError when they get no memory.
        return {"error": too_large, "code": "image_too_large"}, b""
    if len(image.content) > _MAX_CLEAN_BYTES:
        return {"error": f"the image is larger than {_MAX_CLEAN_BYTES:,} bytes", "code": "image_too_large"}, b""
    said = asdict(image)
    return said, said.pop("content")
