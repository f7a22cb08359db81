"""Every page in both of Airflow's modes, on a desk and on a phone: readable by everybody, silent, and shut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from support.api_server import ApiServer
from support.browsing import Opener, Told
from support.site import RUN_ID, Site

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
NOBODY = "0193a8c4-7a10-7cc3-9d1e-6f2b8a4c5e01"

PAGES = {
    "overview": "/squorflow/overview",
    "quarter of an hour": "/squorflow/overview?time_range=15m",
    "list": "/squorflow/workflows",
    "filtered list": "/squorflow/workflows?state=failed&state=suspended&stage=enrichment&text=",
    "list of nothing": "/squorflow/workflows?text=nowhere",
    "by failure": "/squorflow/workflows?group=true",
    "scored product": "/squorflow/workflows/{scored}",
    "retrying product": "/squorflow/workflows/{retrying}",
    "suspended product": "/squorflow/workflows/{suspended}",
    "hostile product": "/squorflow/workflows/{hostile}",
    "search": "/squorflow/search?q=o",
    "search for nothing": "/squorflow/search?q=nowhere",
    "search without words": "/squorflow/search",
    "run": f"/squorflow/run?dag_id=product_workflow&run_id={RUN_ID.replace('+', '%2B')}",
    "run of another DAG": "/squorflow/run?dag_id=other&run_id=other",
    "task": f"/squorflow/task?dag_id=product_workflow&run_id={RUN_ID.replace('+', '%2B')}&map_index=3",
}


def address(name: str, site: Site) -> str:
    return PAGES[name].format(
        scored=site.scored[0], retrying=site.retrying, suspended=site.suspended, hostile=site.hostile
    )


def violations(page: Page) -> list[tuple[str, str, str]]:
    """Return what axe-core finds that is serious or critical."""
    found: dict[str, Any] = page.evaluate(f"async () => {{ {AXE}; return await axe.run(document); }}")
    return [
        (one["id"], one["help"], one["nodes"][0]["html"][:200])
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_readable_by_everybody_in_both_modes(open_page: Opener, site: Site, name: str) -> None:
    page = open_page(address(name, site))
    assert page.locator("main").inner_text().strip()
    for mode in ("light", "dark"):
        page.emulate_media(color_scheme=mode)  # type: ignore[arg-type]
        expect(page.locator("html.dark")).to_have_count(1 if mode == "dark" else 0)
        assert violations(page) == [], mode


@pytest.mark.parametrize(
    "name", ["overview", "list", "by failure", "scored product", "hostile product", "search", "run"]
)
def test_a_page_fits_a_phone(open_page: Opener, site: Site, name: str) -> None:
    page = open_page(address(name, site), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_workflow_that_does_not_exist_has_a_page_that_says_so(open_page: Opener, told: Told) -> None:
    told.expected.append("404")
    page = open_page(f"/squorflow/workflows/{NOBODY}")
    assert "does not exist" in page.locator("main").inner_text()
    assert violations(page) == []


def test_a_filter_that_makes_no_sense_has_a_page_that_says_so(open_page: Opener, told: Told) -> None:
    told.expected.append("422")
    page = open_page("/squorflow/workflows?state=broken")
    assert "state" in page.locator("main").inner_text()


def test_who_is_not_signed_in_is_shown_where(server: ApiServer) -> None:
    answer = server.anonymous().get("/squorflow/overview")
    assert answer.status_code == 401
    assert "/auth/login?next=/squorflow/overview" in answer.text


def test_every_answer_forbids_the_browser_what_is_not_ours(server: ApiServer, site: Site) -> None:
    client = server.as_("viewer")
    for path in (
        address("overview", site),
        f"/squorflow/workflows/{NOBODY}",
        "/squorflow/nowhere",
        "/squorflow/icon.svg",
    ):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_a_name_from_a_crawled_page_is_text_and_nothing_else(open_page: Opener, site: Site) -> None:
    from support.site import HOSTILE_NAME

    for path in (
        address("hostile product", site),
        "/squorflow/workflows?brand=%22%3E%3Csvg+onload%3Dalert%281%29%3E",
        "/squorflow/search?q=oats",
    ):
        page = open_page(path)
        assert "<img src=x" in page.locator("main").inner_text()
        assert page.locator("main img[src=x], main script, main svg[onload]").count() == 0
        assert "owned" not in page.title().partition("·")[0].replace(HOSTILE_NAME, "")


def test_the_picture_of_a_product_is_sent_as_a_picture_only(server: ApiServer, site: Site, open_page: Opener) -> None:
    page = open_page(address("hostile product", site))
    picture = page.locator("img.product-picture")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    headers = server.as_("viewer").get(picture.get_attribute("src") or "").headers
    assert headers["content-type"].startswith("image/")
    assert "script-src 'self'" in headers["content-security-policy"]
    assert server.as_("viewer").get(f"/squorflow/products/{NOBODY}/images/{'0' * 64}").status_code == 404
