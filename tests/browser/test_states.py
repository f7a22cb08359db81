"""Pages with nothing to show, pages on their way, and pages whose database is away."""

from __future__ import annotations

from playwright.sync_api import expect

from support.api_server import ApiServer
from support.browsing import PATIENCE, Opener, Told
from support.outages import emptied, renamed
from support.site import Site

REMEMBER_LOADING = """new MutationObserver(() => sessionStorage.setItem("was", document.documentElement.className))
    .observe(document.documentElement, { attributes: true })"""


def test_an_empty_database_is_shown_as_one_and_the_first_workflow_comes_by_itself(
    server: ApiServer, site: Site, open_page: Opener
) -> None:
    from support import workflows

    with emptied(server):
        for path, words in {
            "overview": "No workflows yet",
            "workflows": "No workflows yet",
            "workflows?group=true": "No failures here",
            "workflows?state=failed": "Nothing matches",
            "search": "What are you looking for?",
            "search?q=oats": "Nothing found",
            "run?dag_id=product_workflow&run_id=r": "This run has claimed no products",
        }.items():
            page = open_page(f"/squorflow/{path}")
            expect(page.locator(".nothing-title").first).to_have_text(words)
            page.context.close()
        page = open_page("/squorflow/workflows")
        expect(page.locator("#pulse")).to_have_attribute("data-pulse", "live", timeout=PATIENCE)
        (workflow_id,) = workflows.enqueue(server.database)
        expect(page.locator(f"#w-{workflow_id} .state")).to_have_text("queued", timeout=PATIENCE)
        page.context.close()


def test_a_page_on_its_way_is_announced(site: Site, open_page: Opener) -> None:
    page = open_page("/squorflow/overview")
    page.evaluate(REMEMBER_LOADING)
    page.get_by_role("link", name="Search").click()
    expect(page.locator("h1")).to_have_text("Search", timeout=PATIENCE)
    assert page.evaluate("sessionStorage.getItem('was')") == "is-loading"
    expect(page.locator("html.is-loading")).to_have_count(0)


def test_a_page_without_its_database_says_so_and_comes_back_by_itself(
    server: ApiServer, site: Site, open_page: Opener, told: Told
) -> None:
    told.expected.append("503")
    with renamed(server):
        page = open_page("/squorflow/workflows?state=failed")
        expect(page.locator("main")).to_contain_text("The database cannot be reached at the moment.")
        expect(page.get_by_role("link", name="Try again")).to_be_visible()
    expect(page.locator("#rows tbody tr").first).to_be_visible(timeout=PATIENCE)
    assert page.url.endswith("/squorflow/workflows?state=failed")


def test_an_open_page_whose_database_goes_away_keeps_its_figures_is_marked_as_stale_and_recovers(
    server: ApiServer, site: Site, open_page: Opener, told: Told
) -> None:
    told.expected.append("503")
    page = open_page("/squorflow/overview")
    pulse = page.locator("#pulse")
    expect(pulse).to_have_attribute("data-pulse", "live", timeout=PATIENCE)
    figures = page.locator(".legend").inner_text()
    with renamed(server):
        expect(pulse).to_have_attribute("data-pulse", "stale", timeout=2 * PATIENCE)
        assert page.locator(".legend").inner_text() == figures
    expect(pulse).to_have_attribute("data-pulse", "live", timeout=2 * PATIENCE)
