"""Pages that move by themselves, and say when they no longer do."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Page, expect

from support import workflows
from support.api_server import ApiServer
from support.browsing import PATIENCE, Opener, Told
from support.site import Site
from support.workflows import rows

CANCEL = "UPDATE processing_queue SET workflow_state = 'cancelled' WHERE queue_id = :id"
LOOKS_ANYWAY_SECONDS = 30
"""How often a page looks without being told; what is seen earlier, the server's events brought."""


def connected(page: Page) -> None:
    expect(page.locator("#pulse")).to_have_attribute("data-pulse", "live", timeout=PATIENCE)


def test_a_transition_made_in_the_database_shows_by_itself(
    server: ApiServer, open_page: Opener, record_property: pytest.RecordProperty
) -> None:
    (workflow_id,) = workflows.enqueue(server.database)
    page = open_page("/squorflow/overview")
    connected(page)
    figure = page.locator(".legend a", has_text="cancelled").locator("b")
    before = int(figure.inner_text().replace(",", ""))
    rows(server.database, CANCEL, id=workflow_id)
    began = time.monotonic()
    expect(figure).to_have_text(str(before + 1), timeout=1000 * LOOKS_ANYWAY_SECONDS - 5000)
    record_property("seconds_until_shown", round(time.monotonic() - began, 2))


def test_the_page_of_a_workflow_follows_it(server: ApiServer, open_page: Opener) -> None:
    (workflow_id,) = workflows.enqueue(server.database)
    page = open_page(f"/squorflow/workflows/{workflow_id}")
    connected(page)
    expect(page.locator("h1")).to_be_visible()
    rows(server.database, CANCEL, id=workflow_id)
    expect(page.locator(".product-line .state")).to_have_text("cancelled", timeout=1000 * LOOKS_ANYWAY_SECONDS - 5000)
    expect(page.locator("[data-act]")).to_have_count(0)


def test_a_row_that_is_ticked_stays_so_while_the_list_moves(server: ApiServer, open_page: Opener) -> None:
    first, second = workflows.enqueue(server.database, count=2)
    page = open_page("/squorflow/workflows")
    connected(page)
    page.locator(f"#w-{first} .tick-one").check()
    rows(server.database, CANCEL, id=second)
    expect(page.locator(f"#w-{second} .state")).to_have_text("cancelled", timeout=1000 * LOOKS_ANYWAY_SECONDS - 5000)
    expect(page.locator(f"#w-{first} .tick-one")).to_be_checked()


def test_without_events_a_page_asks_by_itself_and_says_so(
    server: ApiServer, site: Site, open_page: Opener, told: Told
) -> None:
    told.expected.append("Failed to load resource")
    page = open_page("/squorflow/search")
    page.route("**/stream", lambda route: route.abort())
    page.goto(f"{server.airflow.address}/squorflow/overview")
    expect(page.locator("#pulse")).to_have_attribute("data-pulse", "polling", timeout=PATIENCE)
    with page.expect_response(lambda answer: answer.url.endswith("/squorflow/overview")) as asked:
        pass
    assert asked.value.request.headers["hx-request"] == "true"
    assert "<html" not in asked.value.text()


def test_a_page_whose_server_is_away_keeps_its_figures_and_is_marked_as_stale(
    site: Site, open_page: Opener, told: Told
) -> None:
    told.expected += ["Failed to load resource", "Failed to fetch", "fetch"]
    page = open_page("/squorflow/overview")
    connected(page)
    figures = page.locator(".figures").inner_text()
    page.context.set_offline(True)
    page.clock.install()
    page.clock.fast_forward(90_000)
    page.clock.run_for(3_000)
    expect(page.locator("#pulse")).to_have_attribute("data-pulse", "stale", timeout=PATIENCE)
    expect(page.locator("#pulse")).to_contain_text("Stale since")
    assert page.locator(".figures").inner_text() == figures
