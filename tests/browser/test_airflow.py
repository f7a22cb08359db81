"""The pages inside Airflow's own: where it offers them, whose colours they take, and how they lead back."""

from __future__ import annotations

from playwright.sync_api import FrameLocator, Page, expect

from support.api_server import ApiServer
from support.browsing import PATIENCE, Opener, Told
from support.site import INDEX, OWNER, RUN_PAGE, Site
from support.workflows import value


def frame(page: Page) -> FrameLocator:
    return page.frame_locator("iframe")


def test_airflows_navigation_leads_to_the_workflows_and_its_address_carries_the_filter(
    server: ApiServer, site: Site, open_page: Opener
) -> None:
    page = open_page("/")
    page.get_by_role("link", name="Workflows").click()
    frame(page).get_by_role("link", name="Workflows").click()
    frame(page).locator(".chip", has_text="failed").click()
    frame(page).locator(".filters button").click()
    page.wait_for_url("**/plugin/workflows/squorflow/workflows?state=failed**")
    again = open_page(page.url.removeprefix(server.airflow.address))
    expect(frame(again).locator("input[value=failed]")).to_be_checked()


def test_airflows_menu_of_documents_leads_to_the_description_of_the_api(site: Site, open_page: Opener) -> None:
    page = open_page("/")
    page.get_by_role("button", name="Docs").click()
    page.get_by_role("menuitem", name="Workflow API").click()
    expect(frame(page).get_by_role("heading", name="squorflow workflow API")).to_be_visible(timeout=PATIENCE)


def test_the_page_takes_airflows_colours_also_when_they_change(site: Site, open_page: Opener) -> None:
    page = open_page("/plugin/workflows")
    expect(frame(page).locator("html:not(.dark)")).to_have_count(1)
    page.evaluate("localStorage.setItem('theme', 'dark')")
    expect(frame(page).locator("html.dark")).to_have_count(1)


def test_the_run_has_a_tab_with_its_products(run: str, site: Site, open_page: Opener) -> None:
    page = open_page(RUN_PAGE)
    page.get_by_role("link", name="Products").click()
    expect(frame(page).locator("#rows tbody tr")).to_have_count(len(site.scored), timeout=PATIENCE)
    expect(frame(page).locator(".tabs")).to_have_count(0)


def test_the_task_of_a_product_has_a_tab_with_that_product(
    server: ApiServer, run: str, site: Site, open_page: Opener
) -> None:
    claimed = "SELECT workflow_id FROM run_claim_item WHERE owner = :owner AND map_index = :index"
    product = value(server.database, claimed, owner=OWNER, index=INDEX)
    page = open_page(f"{RUN_PAGE}/tasks/product.scoring/mapped/{INDEX}")
    page.get_by_role("link", name="Workflow", exact=True).click()
    shown = frame(page).locator(f"[data-workflow='{product}']")
    expect(shown.locator(".product-line .state")).to_have_text("completed", timeout=PATIENCE)
    expect(frame(page).locator(".top-title")).to_have_text("Workflow of this task")


def test_a_task_has_a_tab_with_its_workflow_that_leads_to_the_log(
    run: str, site: Site, open_page: Opener, told: Told
) -> None:
    told.expected.append("404")  # Airflow's page of a task that this run, which nobody schedules, does not have
    page = open_page(f"{RUN_PAGE}/tasks/pull/plugin/workflow")
    expect(frame(page).locator("#rows tbody tr")).to_have_count(len(site.scored), timeout=PATIENCE)
    frame(page).locator("#rows .name a").first.click()
    frame(page).locator(".trail-actor a[data-airflow]").first.click()
    page.wait_for_url(f"**{RUN_PAGE}/tasks/product.notification/mapped/**try_number=1**")
