"""What tests of the way to the outside need: the forms that must be refused, a resolver, and a record of connections.

Nothing here connects. While `recorded_connections` is open, every attempt of this process to connect anywhere is noted,
and one that would leave the machine is stopped.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

FORMS_FILE = Path(__file__).resolve().parents[1] / "data" / "refused_addresses.jsonl"
PUBLIC = "192.0.43.8"
"""A public address; nothing ever connects to it."""

_real_getaddrinfo = socket.getaddrinfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to write an address that must be refused; `leads_to` is what its name is looked up as."""

    group: str
    url: str
    leads_to: tuple[str, ...]
    refused: str


def refused_forms() -> list[Form]:
    """Return all forms, in the order of the file."""
    rows = map(json.loads, FORMS_FILE.read_text(encoding="utf-8").splitlines())
    return [Form(**{**row, "leads_to": tuple(row["leads_to"])}) for row in rows]


class Resolver:
    """Stands in for `socket.getaddrinfo`: answers by name, the last answer of a list for ever; counts lookups."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._answers = {name: list(answers) for name, answers in names.items()}
        self.lookups: Counter[str] = Counter()

    def __call__(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        try:
            _literal(host)
        except ValueError:
            pass
        else:
            return _real_getaddrinfo(host, port, *args, **options)
        self.lookups[host] += 1
        answers = self._answers.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        family = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (family[_literal(one).version], socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (one, port)) for one in found
        ]


_recordings: list[list[tuple[str, int]]] = []


def _note_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not _recordings or not isinstance(arguments[1], tuple):
        return
    host, port = str(arguments[1][0]), int(arguments[1][1])
    _recordings[-1].append((host, port))
    if not _literal(host).is_loopback:
        raise ConnectionRefusedError(f"a test tried to reach {host}")


sys.addaudithook(_note_connection)


@contextmanager
def recorded_connections() -> Iterator[list[tuple[str, int]]]:
    """Note every address that this process tries to connect to; those beyond loopback are not reached."""
    _recordings.append([])
    try:
        yield _recordings[-1]
    finally:
        _recordings.pop()


def _literal(host: str) -> IPv4Address | IPv6Address:
    return ip_address(host.partition("%")[0])


class Listener:
    """Listens on one port of both loopback addresses (IPv6 where there is one) and counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        self._stack = ExitStack()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Listener:
        first = self._listen(socket.AF_INET, "127.0.0.1", port=0)
        self.port: int = first.getsockname()[1]
        if _has_ipv6():
            self._listen(socket.AF_INET6, "::1", port=self.port)
        for one in self._sockets:
            thread = threading.Thread(target=self._count, args=(one,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._stack.close()

    def _listen(self, family: socket.AddressFamily, host: str, *, port: int) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family))
        made.bind((host, port))
        made.listen()
        self._sockets.append(made)
        return made

    def _count(self, listening: socket.socket) -> None:
        while True:
            try:
                visitor, _ = listening.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
