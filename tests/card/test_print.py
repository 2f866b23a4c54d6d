"""The HTML card in a real browser: nothing is cut off on a screen, nothing is folded on paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from card_run import build

from audit.card import write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("print")
    claimed = folder / "OTHER.md"
    claimed.write_text("# M\n\nNurses are mostly women. Words are not legible.\n")
    html = write(build(folder / "run", images=1), ["html"], claims=claimed)["html"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.goto(html.as_uri())
        yield page
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_part_of_the_card_is_wider_than_the_screen(page: Any, width: int, scheme: Any) -> None:
    page.emulate_media(media="screen", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")


def test_what_is_folded_on_the_screen_is_printed(page: Any) -> None:
    hidden = (
        "[...document.querySelectorAll('details table')].filter(t => !t.checkVisibility()).length"
    )
    page.emulate_media(media="screen")
    assert page.evaluate(hidden) > 5
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(hidden) == 0
    ink = "getComputedStyle(document.body).getPropertyValue"
    assert page.evaluate(f"{ink}('color') + {ink}('background-color')") == (
        "rgb(0, 0, 0)rgb(255, 255, 255)"
    )
    made = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", made)) > 5
