"""The pictures of the documentation: `make screenshots` keeps them, every other run only takes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from support.api_server import ApiServer
from support.browsing import PATIENCE, Opener
from support.site import INDEX, RUN_PAGE, Site

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the pictures go: `SQUORFLOW_SCREENSHOTS`, or nowhere that stays."""
    wanted = os.environ.get("SQUORFLOW_SCREENSHOTS")
    place = ROOT / wanted if wanted else tmp_path
    place.mkdir(parents=True, exist_ok=True)
    return place


def keep(page: Page, place: Path) -> None:
    """Take a picture and keep it small."""
    page.mouse.move(1, 1)
    page.screenshot(path=place)
    with Image.open(place) as taken:
        assert len(taken.getcolors(1 << 24) or ()) > 50, "the picture is empty"
        taken.convert("RGB").save(place, optimize=True)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_overview_inside_airflow(site: Site, open_page: Opener, folder: Path, mode: str) -> None:
    page = open_page("/plugin/workflows", mode=mode)
    page.set_viewport_size({"width": 1280, "height": 900})
    shown = page.frame_locator("iframe")
    expect(shown.locator(".chart canvas").last).to_be_visible(timeout=PATIENCE)
    expect(shown.locator("#pulse")).to_have_attribute("data-pulse", "live", timeout=PATIENCE)
    keep(page, folder / f"overview-{mode}.png")


def test_the_tabs_inside_airflow(run: str, site: Site, open_page: Opener, folder: Path) -> None:
    for name, path, there in (
        ("run", f"{RUN_PAGE}/plugin/products", "#rows tbody tr"),
        ("task", f"{RUN_PAGE}/tasks/product.scoring/mapped/{INDEX}/plugin/workflow", ".product-line"),
    ):
        page = open_page(path)
        page.set_viewport_size({"width": 1280, "height": 900})
        expect(page.frame_locator("iframe").locator(there).first).to_be_visible(timeout=PATIENCE)
        keep(page, folder / f"{name}.png")


def test_the_other_pages(server: ApiServer, site: Site, open_page: Opener, folder: Path) -> None:
    with server.database.begin() as connection:
        from support.workflows import value

        scored = value(connection, "SELECT workflow_id FROM processing_queue WHERE product_name = 'Rainbow Cherry'")
    for name, path in {
        "workflows": "/squorflow/workflows?state=failed&state=retrying&state=suspended&state=waiting&state=processing",
        "failures": "/squorflow/workflows?group=true",
        "product": f"/squorflow/workflows/{scored}",
        "retry": f"/squorflow/workflows/{site.retrying}",
        "search": "/squorflow/search?q=s",
    }.items():
        page = open_page(path)
        page.set_viewport_size({"width": 1280, "height": 900})
        expect(page.locator("#pulse")).to_have_attribute("data-pulse", "live", timeout=PATIENCE)
        if name == "product":
            page.locator("#c-safety summary").click()
            picture = page.locator("img.product-picture")
            assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        keep(page, folder / f"{name}.png")


def test_the_overview_on_a_phone(site: Site, open_page: Opener, folder: Path) -> None:
    page = open_page("/squorflow/overview", mode="dark", width=390)
    expect(page.locator("#pulse")).to_have_attribute("data-pulse", "live", timeout=PATIENCE)
    keep(page, folder / "phone.png")
