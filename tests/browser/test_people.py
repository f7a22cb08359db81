"""What people may do, what they are asked, and what comes of it."""

from __future__ import annotations

import threading
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect

from squorflow.errors import ErrorCategory
from squorflow.workflow import audit, bulk
from support import workflows
from support.api_server import ApiServer
from support.browsing import PATIENCE, Opener, Told
from support.site import Site
from support.workflows import get_state, hold_one, rows

SUSPEND = "UPDATE processing_queue SET workflow_state = 'suspended' WHERE queue_id = :id"


def confirm(page: Page, reason: str) -> None:
    page.locator("#act-reason").fill(reason)
    page.locator("[data-act-go]").click()


def test_a_viewer_sees_no_button_that_writes_and_the_server_refuses_anyway(
    server: ApiServer, site: Site, open_page: Opener
) -> None:
    failed = site.failed[0]
    for path in (f"/squorflow/workflows/{failed}", "/squorflow/workflows", "/squorflow/workflows?group=true"):
        page = open_page(path, role="viewer")
        assert page.locator("main").inner_text().strip()
        assert page.locator("[data-act], [data-bulk], .tick, dialog").count() == 0
    client = server.by_cookie("viewer", Origin=server.airflow.address)
    assert client.post(f"/api/v1/workflow/{failed}/retry", json={"reason": "let me"}).status_code == 403
    refused = client.post("/api/v1/workflow/bulk/retry", json={"filter": {"state": ["failed"]}, "reason": "let me"})
    assert refused.status_code == 403
    assert get_state(server.database, failed) == "failed"


@pytest.mark.parametrize("state", ["failed", "suspended", "retrying", "completed", "processing"])
def test_only_what_the_state_allows_is_offered(site: Site, open_page: Opener, state: str) -> None:
    one = {
        "failed": site.failed[1],
        "suspended": site.suspended,
        "retrying": site.retrying,
        "completed": site.scored[0],
        "processing": site.processing,
    }[state]
    page = open_page(f"/squorflow/workflows/{one}")
    offered = [button.get_attribute("data-act") for button in page.locator("[data-act]").all()]
    assert (
        offered
        == {
            "failed": ["retry", "suspend", "cancel"],
            "suspended": ["retry", "cancel"],
            "retrying": ["retry", "suspend", "cancel"],
            "completed": [],
            "processing": ["suspend", "cancel"],
        }[state]
    )


def test_a_retry_asks_for_a_reason_and_lands_in_the_trail(server: ApiServer, site: Site, open_page: Opener) -> None:
    one = site.failed[2]
    page = open_page(f"/squorflow/workflows/{one}")
    page.locator("[data-act=retry]").click()
    confirm(page, "   ")
    expect(page.locator("[data-act-error]")).to_contain_text("why")
    assert get_state(server.database, one) == "failed"
    confirm(page, "the model is back")
    expect(page.locator(".product-line .state")).to_have_text("queued", timeout=PATIENCE)
    with server.database.begin() as connection:
        last = audit.list_history(connection, one)[-1]
    assert (last.actor, last.reason) == ("api:admin", "the model is back")


def test_a_refusal_is_told_where_the_button_was_pressed(server: ApiServer, open_page: Opener, told: Told) -> None:
    told.expected.append("409")
    held = hold_one(server.database)
    workflows.fail(server.database, held, action="fail")
    page = open_page(f"/squorflow/workflows/{held.workflow_id}")
    page.locator("[data-act=suspend]").click()
    rows(server.database, SUSPEND, id=held.workflow_id)
    confirm(page, "hold it")
    expect(page.locator("[data-act-error]")).to_contain_text("already")


def test_the_list_is_filtered_by_its_address(site: Site, open_page: Opener) -> None:
    page = open_page("/squorflow/workflows")
    page.locator(".chip", has_text="suspended").click()
    page.locator("select[name=error_category]").select_option("data")
    page.locator(".filters button").click()
    page.wait_for_url("**state=suspended**error_category=data**")
    assert {one.inner_text() for one in page.locator("#rows .state").all()} == {"suspended"}
    page.reload()
    assert page.locator("input[value=suspended]").is_checked()
    assert page.locator("select[name=error_category]").input_value() == "data"


def test_the_list_goes_on_page_by_page_without_a_gap(server: ApiServer, site: Site, open_page: Opener) -> None:
    seen: list[str] = []
    page = open_page("/squorflow/workflows?state=completed")
    total = int(page.locator("#count").get_attribute("data-total") or 0)
    while True:
        seen += [one.get_attribute("data-id") or "" for one in page.locator("#rows tbody tr").all()]
        following = page.locator(".pages a[rel=next]")
        if not following.count():
            break
        following.click()
        page.wait_for_url(f"**cursor={seen[-1]}**")
    assert len(seen) == len(set(seen)) == total


def test_some_are_chosen_and_suspended_by_keyboard(server: ApiServer, open_page: Opener) -> None:
    workflows.enqueue(server.database, count=3)
    page = open_page("/squorflow/workflows?state=queued")
    chosen = [UUID(row.get_attribute("data-id") or "") for row in page.locator("#rows tbody tr").all()[:3]]
    for key in ("j", "x", "j", "x"):
        page.keyboard.press(key)
    expect(page.locator("[data-selected]")).to_have_text("2")
    page.keyboard.press("s")
    expect(page.locator("[data-act-preview]")).to_contain_text("2 workflows")
    confirm(page, "looks odd")
    expect(page.locator("[data-act-count]")).to_have_text("Done: 2 of 2.", timeout=PATIENCE)
    assert [get_state(server.database, one) for one in chosen] == ["suspended", "suspended", "queued"]


def test_all_are_chosen_on_a_phone_too(site: Site, open_page: Opener) -> None:
    page = open_page("/squorflow/workflows?state=completed", width=390)
    page.locator("#tick-all").check()
    page.locator("[data-select-matching]").click()
    expect(page.locator("[data-selected]")).to_contain_text("All")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_500_failures_are_retried_at_once_and_the_two_that_cannot_are_named(
    server: ApiServer, open_page: Opener
) -> None:
    """The operation's run is started by Airflow's scheduler; here this test does what its one task does."""
    failed = _fail(server, count=500)
    page = open_page("/squorflow/workflows?state=failed&error_category=rate_limit")
    page.locator("#tick-all").check()
    page.locator("[data-select-matching]").click()
    page.locator("#selection [data-bulk=retry]").click()
    expect(page.locator("[data-act-preview]")).to_contain_text("500 workflows", timeout=PATIENCE)
    moved = failed[100], failed[300]
    with page.expect_response("**/bulk/retry") as begun:
        confirm(page, "the quota is back")
    operation_id = UUID(begun.value.json()["operation_id"])
    for one in moved:
        rows(server.database, SUSPEND, id=one)
    worker = threading.Thread(target=bulk.carry_out, args=(server.database, operation_id))
    worker.start()
    expect(page.locator("[data-act-count]")).to_have_text("Done: 498 of 500, 2 could not.", timeout=PATIENCE)
    worker.join()
    expect(page.locator("[data-act-failures] a")).to_have_count(len(moved), timeout=PATIENCE)
    listed = [one.get_attribute("href") or "" for one in page.locator("[data-act-failures] a").all()]
    assert {one.rpartition("/")[2] for one in listed} == {str(one) for one in moved}
    page.locator("[data-act-close]").click()
    expect(page.locator("#count")).to_contain_text("0 workflows", timeout=PATIENCE)
    states = {get_state(server.database, one) for one in failed if one not in moved}
    assert states == {"queued"}


def test_a_group_of_failures_is_acted_on_as_a_whole(server: ApiServer, open_page: Opener) -> None:
    failed = _fail(server, count=3, last_error="DataError: no <b>words</b> here", category=ErrorCategory.DATA)
    page = open_page("/squorflow/workflows?group=true")
    group = page.locator(".group", has_text="no <b>words</b> here")
    expect(group.locator(".group-count")).to_have_text("3")
    group.locator("[data-bulk=cancel]").click()
    expect(page.locator("[data-act-preview]")).to_contain_text("3 workflows", timeout=PATIENCE)
    with page.expect_response("**/bulk/cancel") as begun:
        confirm(page, "bad shop")
    bulk.carry_out(server.database, UUID(begun.value.json()["operation_id"]))
    expect(page.locator("[data-act-count]")).to_have_text("Done: 3 of 3.", timeout=PATIENCE)
    assert {get_state(server.database, one) for one in failed} == {"cancelled"}


def _fail(
    server: ApiServer,
    *,
    count: int,
    last_error: str = "RateLimitError: slow down",
    category: ErrorCategory = ErrorCategory.RATE_LIMIT,
) -> list[UUID]:
    """Fail workflows by legal steps, many at once."""
    from squorflow.workflow.transitions import transition

    ids = workflows.enqueue(server.database, count=count)
    with server.database.begin() as connection:
        for one in ids:
            for step in (workflows.WorkflowState.PROCESSING, workflows.WorkflowState.FAILED):
                transition(connection, one, step, actor=workflows.ACTOR, reason="it broke")
        rows(
            connection,
            "UPDATE processing_queue SET last_error = :error, error_category = :category WHERE queue_id = ANY(:ids)",
            error=last_error,
            category=category.value,
            ids=ids,
        )
    return ids
