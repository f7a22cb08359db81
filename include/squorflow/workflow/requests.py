"""Requests that may be sent twice: with the same key they are carried out once and answered the same.

Owns what was answered to which key, for a day. Nothing here commits: the answer is kept exactly if what the request did
is, and whoever sends it again meanwhile waits for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squorflow.postgres.queries import load
from squorflow.workflow.transitions import clean, to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What was answered before under this key; `same` says whether it was asked the same."""

    answer: dict[str, Any]
    same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request of somebody under a key of their choice; `content` is all that makes it another request."""

    actor: str
    key: str
    content: Mapping[str, Any]

    def begin(self, connection: Connection) -> Earlier | None:
        """Return what was answered before; `None`: it is new, carry it out and `finish` it in this transaction."""
        fingerprint = hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).digest()
        queries = load("requests")
        if connection.execute(queries["begin_request"], {**self._name, "fingerprint": fingerprint}).first():
            return None
        row = connection.execute(queries["get_request"], self._name).one()
        return Earlier(answer=row.answer, same=bytes(row.fingerprint) == fingerprint)

    def finish(self, connection: Connection, answer: Mapping[str, Any]) -> None:
        """Keep what is answered."""
        connection.execute(load("requests")["finish_request"], {**self._name, "answer": to_json(answer)})

    @property
    def _name(self) -> dict[str, str]:
        return {"actor": clean(self.actor), "key": clean(self.key)}
