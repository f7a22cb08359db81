"""The policy catalogue in Postgres: which versions there are, and which one new scores are made with."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from squorflow.errors import SystemFault
from squorflow.postgres.queries import load
from squorflow.scoring.policy import Policy, default_policy, load_policies

if TYPE_CHECKING:
    from sqlalchemy import Connection


def install_policies(connection: Connection) -> None:
    """Publish the policies that ship with this version; activate the default one where no other is active."""
    queries = load("catalog")
    for policy in load_policies():
        connection.execute(
            queries["insert_policy"],
            {"policy": policy.name, "version": policy.version, "definition": policy.model_dump_json()},
        )
    default = default_policy()
    connection.execute(queries["activate_first"], {"policy": default.name, "version": default.version})


def get_active_policy(connection: Connection) -> Policy:
    """Return the policy that new scores are made with; raises `SystemFault` when there is none."""
    row = connection.execute(load("catalog")["get_active"]).one_or_none()
    if row is None:
        raise SystemFault("policy_catalog has no active policy: run `squorflow db upgrade`", code="no_policy")
    return _parse(json.dumps(row.definition, sort_keys=True))


@lru_cache(maxsize=4)
def _parse(definition: str) -> Policy:
    """Validate a definition once per process; a changed one is another key."""
    return Policy.model_validate_json(definition)
