"""One zoom for all images, in a real browser."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright import sync_api as playwright

from tests.dashboard import explorer_run
from tests.dashboard.test_dashboard_browser import FLAGS
from tests.dashboard.test_dashboard_side_by_side import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
BOXES = """() => [...document.querySelectorAll('.t2i-lens img')].map(image => {
    const own = image.getBoundingClientRect(), tile = image.parentElement.getBoundingClientRect();
    return [own.width / tile.width, (own.left - tile.left) / tile.width,
            (own.top - tile.top) / tile.height].map(v => +v.toFixed(2)).join(' ');
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("explored") / "first"
    explorer_run.build(folder)
    with serving(folder) as server, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.set_default_timeout(60_000)
        opened.hosts, opened.errors = set(), []
        opened.on("request", lambda request: opened.hosts.add(urlsplit(request.url).hostname))
        opened.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.address = f"http://127.0.0.1:{server.port}"
        yield opened
        browser.close()


def places(page: Any) -> set[str]:
    """Zoom and offset of every image, in parts of its tile."""
    return set(page.evaluate(BOXES))


def test_all_images_zoom_and_move_together_and_the_link_remembers(page: Any) -> None:
    page.goto(f"{page.address}/side_by_side?vary=Languages&of=nurse")
    page.locator(".t2i-lens img").nth(7).wait_for()
    assert places(page) == {"1 0 0"}
    page.get_by_role("button", name="Zoom in").click()
    assert places(page) == {"1.25 -0.13 -0.13"} or places(page) == {"1.25 -0.12 -0.12"}
    page.get_by_role("button", name="Whole image").click()
    box = page.locator(".t2i-lens").nth(2).bounding_box()
    corner = box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.25
    page.mouse.dblclick(*corner)  # the point that was clicked stays where it is
    assert places(page) == {"2 -0.75 -0.25"}
    page.mouse.move(*corner)
    page.mouse.down()
    page.mouse.move(corner[0] + box["width"] * 0.25, corner[1], steps=4)
    page.mouse.up()
    assert places(page) == {"2 -0.5 -0.25"}
    page.wait_for_function(r"/zoom=2_-0\.(49|5)/.test(location.search)")
    page.locator(".t2i-sheet").focus()
    page.keyboard.press("ArrowUp")
    assert places(page) == {"2 -0.5 -0.15"}
    page.wait_for_function(r"/zoom=2_-0\.(49|5)\d*_-0\.1/.test(location.search)")
    address = page.url
    assert "of=nurse" in address
    page.goto("about:blank")
    page.goto(address)
    page.locator(".t2i-lens img").nth(7).wait_for()
    page.wait_for_function("document.documentElement.classList.contains('t2i-zoomed')")
    assert places(page) == {"2 -0.5 -0.15"}
    sources = page.locator(".t2i-lens img").evaluate_all("all => all.map(i => i.src)")
    assert all("/image/" in source for source in sources)  # zoomed, thumbnails would not do
    assert page.errors == []
    assert page.hosts <= {"127.0.0.1", None, ""}


def test_a_row_of_the_forest_opens_its_prompt(page: Any) -> None:
    page.goto(f"{page.address}/bias?order=as+analysed")
    chart = page.locator("[data-testid=stVegaLiteChart]").first
    chart.wait_for()
    page.get_by_role("heading", name="One prompt").wait_for()
    page.wait_for_timeout(1000)
    # The judge's share alone exceeds: its mark is where its colour is highest, below the legend.
    drawn = np.asarray(Image.open(io.BytesIO(chart.screenshot())).convert("RGB"), int)
    coloured = np.abs(drawn - (0xD5, 0x5E, 0x00)).max(axis=2) < 12
    coloured[:60] = False
    x, y = int(coloured.sum(axis=0).argmax()), int(np.flatnonzero(coloured.any(axis=1)).mean())
    box = chart.bounding_box()
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_function("location.search.includes('prompt=judge')")
    page.get_by_text("female 46").wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.errors == []
