"""Two people label by keyboard in a real browser, and a finding changes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright

from audit import engine
from audit.labels import Labels
from audit.recompute import DOCUMENT, PROBE
from audit.reopened import attributes_of, study_of
from audit.store import Run
from audit.verify import problems
from probes.demographics import Demographics
from tests.dashboard import labelled_run
from tests.dashboard.conftest import start
from tests.dashboard.test_dashboard_browser import CHROMIUM, FLAGS
from tests.dashboard.test_dashboard_theme import PRIMARY, channels, on_primary

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture
def labelled(tmp_path: Path) -> Run:
    """A run with findings; anna has labelled 21 of the 60 images of each job already."""
    run = labelled_run.build(tmp_path / "run", images=60)
    engine.analyse(run, study_of(run), {PROBE: Demographics()})
    labelled_run.label_some(run, 21)
    return run


@pytest.fixture
def address(labelled: Run) -> Iterator[str]:
    process = start(labelled.path)
    try:
        assert process.stdout is not None
        yield "http://127.0.0.1:" + process.stdout.readline().split("127.0.0.1:")[1].split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def image(page: Any, before: str | None = None) -> str:
    """The image to label, once it is another one than `before`."""
    page.wait_for_function(
        "before => { const i = document.querySelector('.t2i-review img');"
        "return i && i.complete && i.naturalWidth > 0 && i.getAttribute('src') !== before }",
        arg=before,
    )
    return str(page.locator(".t2i-review img").get_attribute("src"))


def begin(browser: Any, address: str, name: str) -> Any:
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{address}/review?overlap=100+%25")
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    image(page)
    page.get_by_role("button", name="female").wait_for()
    page.locator("h1").click()  # out of the text field: there, digits are text
    return page


def test_two_raters_label_by_keyboard_and_a_finding_is_recomputed(
    labelled: Run, address: str
) -> None:
    labels = Labels(labelled, attributes_of(labelled, PROBE))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        ben, cleo = (begin(browser, address, name) for name in ("ben", "cleo"))
        # They agree with anna and nearly with each other: labels that raters contest are not used.
        keys = {"female": "1", "male": "2"}
        true = labelled_run.truth(labelled).true
        shots: dict[str, list[str]] = {"ben": [], "cleo": []}
        for _ in range(4):
            for name, page in (("ben", ben), ("cleo", cleo)):
                now = image(page)
                shots[name].append(now.split("/")[3].split("?")[0])
                page.keyboard.press(keys[true[shots[name][-1]]])
                image(page, now)
        assert shots["ben"] == shots["cleo"]
        for name in shots:
            found = {row.image: row.label for row in labels.current("gender", name)}
            assert found == {i: true[i] for i in shots[name]}
        # An arrow passes an image by and comes back, U takes the last label away.
        now = image(ben)
        ben.keyboard.press("ArrowRight")
        later = image(ben, now)
        ben.keyboard.press("ArrowLeft")
        assert image(ben, later) == now
        ben.keyboard.press("u")
        assert shots["ben"][3] in image(ben, now)
        assert len(labels.current("gender", "ben")) == 3
        # A digit in the reason is text.
        reason = ben.get_by_label("Reason (optional)")
        playwright.expect(reason).to_have_count(1)  # the page before is still fading
        reason.fill("")
        reason.press_sequentially("1 of 2")
        ben.keyboard.press("Enter")
        ben.locator("h1").click()
        now = image(ben)
        ben.keyboard.press("3")
        image(ben, now)
        last = labels.last("ben", "gender")
        assert last is not None and (last.label, last.reason) == ("undetermined", "1 of 2")
        assert ben.evaluate("window.hacked") is None
        # A link opens the same image of the same queue.
        ben.goto(ben.url)
        image(ben)
        ben.get_by_text("Findings", exact=True).click()
        recompute = ben.get_by_role("button", name="Recompute findings with labels")
        recompute.wait_for()
        for scheme in ("light", "dark"):
            ben.emulate_media(color_scheme=scheme)
            ground = f"rgb{channels(PRIMARY[scheme])}"
            playwright.expect(recompute).to_have_css("background-color", ground)
            playwright.expect(recompute).to_have_css("color", f"rgb{channels(on_primary(scheme))}")
        recompute.click()
        ben.get_by_role("heading", name="Before and after").wait_for()
        ben.get_by_text("by anna, ben, cleo").wait_for()
        ben.locator(".t2i-afters tbody tr").nth(3).wait_for()
        browser.close()
    document = labelled.read_json(DOCUMENT)
    assert document["labels"]["count"] == 63 + 8
    assert problems(labelled)[0] == []
