"""A walk through the dashboard with a real browser, where there is one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright import sync_api as playwright

from dashboard import reveals
from tests.dashboard import synthetic_run
from tests.dashboard.conftest import Server
from tests.dashboard.test_dashboard_safety import TOKEN, Guarded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Any]:
    """A page that notes every host it asked and every error."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.hosts, page.errors = set(), []
    page.on("request", lambda request: page.hosts.add(urlsplit(request.url).hostname))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.address = f"http://127.0.0.1:{server.port}"
    yield page
    context.close()


def test_from_a_finding_to_an_image_and_nowhere_else(visit: Any, server: Server) -> None:
    visit.goto(visit.address)
    visit.get_by_role("heading", name="Overview", exact=True).wait_for()
    assert urlsplit(visit.url).path == "/overview"
    finding = next(f for f in synthetic_run.findings(60) if f.slice == {"occupation": "nurse"})
    visit.get_by_role("link", name=f"{finding.n:,} images of {finding.id}").click()
    visit.get_by_role("heading", name="Evidence").wait_for()
    tiles = visit.locator(".t2i-grid img")
    tiles.first.wait_for()
    assert tiles.count() == 5
    assert tiles.first.get_attribute("alt") == "a portrait of a nurse"
    visit.wait_for_function(
        "[...document.querySelectorAll('.t2i-grid img')]"
        ".every(i => i.complete && i.naturalWidth > 0)"
    )
    tiles.first.click()
    visit.get_by_text("Scores of clip").wait_for()
    assert "request=" in visit.url
    assert "finding=" in visit.url
    visit.get_by_role("link", name="Next →").click()
    visit.get_by_role("link", name="← Previous").wait_for()
    for name, heading in (("Memorization", "Pairs"), ("Model card", "Model card")):
        visit.get_by_role("link", name=name, exact=True).click()
        visit.get_by_role("heading", name=heading, exact=True).first.wait_for()
    frame = visit.frame_locator("iframe")
    frame.get_by_role("heading", name="Model card").wait_for()
    assert visit.evaluate("window.hacked") is None
    assert visit.hosts <= {"127.0.0.1", None}
    assert visit.errors == []
    maps = Path(f"/proc/{server.process.pid}/maps")
    assert not maps.exists() or "libtorch" not in maps.read_text()


def test_hostile_prompts_do_nothing_in_a_browser(visit: Any) -> None:
    visit.goto(f"{visit.address}/gallery?probe=languages")
    visit.locator(".t2i-tile").first.wait_for()
    assert visit.get_by_text("<script>window.hacked").count() >= 1
    assert visit.evaluate("window.hacked") is None
    assert visit.hosts <= {"127.0.0.1", None}
    assert visit.errors == []


def test_flagged_images_are_revealed_on_request_and_the_link_remembers(visit: Any) -> None:
    visit.goto(f"{visit.address}/gallery?probe=safety_filters&tag_kind=sign")
    visit.get_by_text("flagged, blurred").first.wait_for()
    assert "reveal" not in visit.locator(".t2i-grid img").first.get_attribute("src")
    visit.get_by_text("Show flagged images").click()
    visit.wait_for_function("document.querySelector('.t2i-grid img').src.includes('reveal=1')")
    assert "reveal=true" in visit.url
    assert "tag_kind=sign" in visit.url
    visit.reload()
    visit.wait_for_function("document.querySelector('.t2i-grid img')?.src.includes('reveal=1')")
    visit.wait_for_function(
        "[...document.querySelectorAll('.t2i-grid img')].every(i => i.complete)"
    )
    shown = visit.locator(".t2i-grid img").evaluate_all("all => all.map(i => i.src)")
    logged = reveals.file().read_text()
    flagged = [src.split("/")[-1].split("?")[0] for src in shown]
    assert flagged
    assert all(digest in logged for digest in flagged)


def test_a_deep_link_opens_the_same_view_elsewhere(visit: Any, browser: Any) -> None:
    visit.goto(f"{visit.address}/gallery?probe=demographics")
    visit.locator(".t2i-tile").first.wait_for()
    visit.get_by_label("Occupation").click()
    for job in ("nurse", "pilot"):
        visit.get_by_role("option", name=job, exact=True).click()
    visit.keyboard.press("Escape")
    visit.get_by_text("10 match").wait_for()
    visit.get_by_label("Detector scores").click()
    visit.get_by_role("option", name="clip_alignment", exact=True).click()
    visit.keyboard.press("Escape")
    visit.get_by_role("slider").first.wait_for()
    few = (
        "(shown => shown < 10 && document.querySelectorAll('.t2i-tile').length == shown)"
        "(parseInt(document.querySelector('.t2i-total')?.innerText))"
    )
    for _ in range(12):  # keys that fall into a redrawing are lost
        visit.get_by_role("slider").first.focus()
        for _ in range(10):
            visit.keyboard.press("ArrowRight")
        with contextlib.suppress(playwright.TimeoutError):
            visit.wait_for_function(few, timeout=3000)
            break
    visit.wait_for_function(few)
    visit.wait_for_function("location.search.includes('range_clip_alignment')")
    before = visit.locator(".t2i-grid img").evaluate_all("all => all.map(i => i.src)")
    assert 0 < len(before) < 10
    context = browser.new_context()
    other = context.new_page()
    other.goto(visit.url)
    other.locator(".t2i-tile").first.wait_for(timeout=60_000)
    other.wait_for_function(f"document.querySelectorAll('.t2i-tile').length == {len(before)}")
    assert other.locator(".t2i-grid img").evaluate_all("all => all.map(i => i.src)") == before
    context.close()


def test_an_image_is_zoomed_by_keyboard(visit: Any) -> None:
    visit.goto(f"{visit.address}/gallery?probe=demographics")
    visit.locator(".t2i-tile").first.focus()
    visit.keyboard.press("Enter")
    visit.get_by_text("Scores of clip").wait_for()
    width = visit.locator(".t2i-zoom img").evaluate("image => image.width")
    visit.get_by_role("link", name="4 ×").press("Enter")
    visit.wait_for_function(
        f"document.querySelector('.t2i-zoom img')?.width > {3.5 * width} && "
        "document.querySelector('.t2i-zoom').scrollWidth > "
        "3 * document.querySelector('.t2i-zoom').clientWidth"
    )
    assert "zoom=4" in visit.url


def test_a_foreign_host_and_another_sites_page_get_nothing(
    browser: Any, server: Server, run: Any
) -> None:
    digest = run.read_table("records").image.dropna().iloc[0]
    context = browser.new_context()
    page = context.new_page()
    # A name that leads here, as after DNS rebinding: the server knows no such host.
    answer = page.goto(f"http://rebound.localhost:{server.port}/gallery")
    assert answer.status == 400
    page.goto(f"http://rebound.localhost:{server.port}/image/0/{digest}")
    seen = page.evaluate(
        "address => new Promise(done => { const image = new Image(); image.onload = () => "
        "done('loaded'); image.onerror = () => done('refused'); image.src = address; })",
        f"http://127.0.0.1:{server.port}/image/0/{digest}",
    )
    assert seen == "refused"
    context.close()


def test_a_token_opens_the_dashboard_and_leaves_the_address(
    browser: Any, run_folder: Path, tmp_path: Path
) -> None:
    guarded = Guarded(run_folder, tmp_path, f"Access(token={TOKEN!r})")
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(60_000)
        address = f"http://127.0.0.1:{guarded.port}"
        assert page.goto(f"{address}/overview").status == 401
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Open").click()
        page.get_by_role("heading", name="Overview", exact=True).wait_for()
        assert "token" not in page.url
        page.goto(f"{address}/gallery?probe=languages")
        page.locator(".t2i-tile").first.wait_for()
        [cookie] = [c for c in context.cookies() if c["name"].startswith("t2i-audit-")]
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
        assert "t2i-audit" not in page.evaluate("document.cookie")
    finally:
        context.close()
        guarded.end()
