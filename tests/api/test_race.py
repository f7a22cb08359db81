"""Fifty people at the same workflows at once: whoever was told that it was done finds it in the trail, nobody else."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx

from squorflow.states import WorkflowState
from squorflow.workflow import audit
from support.api_server import PREFIX, ApiServer
from support.workflows import reach, rows

CLIENTS = 50
ACTIONS = ("retry", "suspend", "retry", "suspend", "cancel")


def test_every_200_has_its_row_in_the_trail_and_every_409_has_none(server: ApiServer) -> None:
    with server.database.begin() as connection:
        ids = [reach(connection, state) for state in (WorkflowState.FAILED, WorkflowState.QUEUED)]
        ids += [reach(connection, WorkflowState.SUSPENDED) for _ in range(3)]
    token = server.token("op")
    limits = httpx.Limits(max_connections=CLIENTS)
    answers: list[tuple[UUID, str, str, int]] = []
    with httpx.Client(base_url=server.airflow.address, timeout=120, trust_env=False, limits=limits) as client:
        client.headers["Authorization"] = f"Bearer {token}"

        def work(number: int) -> None:
            for turn, action in enumerate(ACTIONS):
                workflow_id = ids[(number + turn) % len(ids)]
                # Cancelled for good it would be dull for the others.
                name = action if action != "cancel" or number >= CLIENTS - 2 else "suspend"
                reason = f"{name} {number}/{turn}"
                answer = client.post(f"{PREFIX}/{workflow_id}/{name}", json={"reason": reason})
                answers.append((workflow_id, name, reason, answer.status_code))

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(work, range(CLIENTS)))
    statuses = Counter(status for *_, status in answers)
    assert set(statuses) == {200, 409}, statuses
    trail = rows(
        server.database,
        "SELECT workflow_id, reason, to_state FROM workflow_transitions"
        " WHERE workflow_id = ANY(:ids) AND actor = 'api:op' ORDER BY sequence",
        ids=ids,
    )
    goal = {"retry": "queued", "suspend": "suspended", "cancel": "cancelled"}
    done = {(one.workflow_id, one.reason): one.to_state for one in trail}
    assert done == {
        (workflow_id, reason): goal[action] for workflow_id, action, reason, status in answers if status == 200
    }
    assert audit.verify(server.database).problems == ()
