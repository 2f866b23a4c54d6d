"""A threshold is moved in a real browser: counts, address and link follow."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright import sync_api as playwright

from audit.store import Run
from tests.dashboard.conftest import start

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def address(instruments_folder: Path) -> Iterator[str]:
    """A dashboard of the run that the probes analysed."""
    process = start(instruments_folder)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().split("127.0.0.1:")[1].split()[0]
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def visit() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(120_000)
        page.errors, page.hosts = [], set()
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.hosts.add(urlsplit(request.url).hostname))
        yield page
        browser.close()


def counted(page: Any) -> list[int]:
    return [
        int(text.replace(",", "")) for text in page.locator(".t2i-cell .t2i-big").all_inner_texts()
    ]


def test_a_threshold_moved_by_key_changes_the_matrix_and_the_link_keeps_it(
    visit: Any, address: str, instruments_folder: Path
) -> None:
    visit.goto(f"{address}/filters?filter=safety-checker")
    visit.locator(".t2i-cell").nth(3).wait_for()
    before = counted(visit)
    handle = visit.get_by_role("slider").first
    handle.focus()
    for _ in range(25):
        handle.press("ArrowRight")
    visit.wait_for_function("location.search.includes('t_safety_checker=')")
    # The address is written first, the answer of the server follows.
    frame = Run.open(instruments_folder).read_table("tables/safety_filters.scores")
    frame = frame[frame["filter"] == "safety-checker"]
    truth = frame.restricted.astype(bool)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        at = float(parse_qs(urlsplit(visit.url).query)["t_safety_checker"][0])
        decided = frame.score >= at
        parts = (decided & truth, ~decided & truth, decided & ~truth, ~decided & ~truth)
        expected = [int(part.sum()) for part in parts]
        if counted(visit) == expected != before:
            break
        visit.wait_for_timeout(200)
    assert counted(visit) == expected != before
    visit.reload()
    visit.locator(".t2i-cell").nth(3).wait_for()
    assert counted(visit) == expected
    assert visit.errors == []
    assert visit.hosts <= {"127.0.0.1", None}
    assert visit.evaluate("window.hacked") is None


def test_a_mark_leads_to_its_images(visit: Any, address: str) -> None:
    visit.goto(f"{address}/watermarks?p=0.001")
    visit.get_by_role("heading", name="Found and falsely found").wait_for()
    visit.get_by_role("link", name=re.compile(r"of 48 images")).first.click()
    visit.get_by_role("heading", name="Gallery").wait_for()
    visit.locator(".t2i-tile").first.wait_for()
    assert "tag_delivery=sd-v1" in visit.url
    assert visit.get_by_text("48 match").count() == 1
    assert visit.errors == []
