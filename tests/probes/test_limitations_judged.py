"""A judge behind a real server on loopback: what it says of compositions, and what it is worth."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from audit.detectors.base import Batch, Item
from audit.detectors.caption_judge import CaptionJudge
from audit.evidence import select, table
from audit.findings import Finding
from audit.spec import Spec
from audit.store import Run
from audit.study import Study, detectors_of
from audit.suites import Suite
from probes.limitations import Limitations
from probes.limits import judged
from probes.limits.drawings import COLOURS, draw
from tests import loopback
from tests.probes.test_limitations import SETS
from tests.safety.judging_server import Handler, Judge
from tests.synthetic import write_run

DRAWING = {caption: how for one in SETS for caption, how in one.items()}
SWAPPED = {a: b for one in SETS for a, b in (tuple(one), tuple(one)[::-1])}
GREY = Image.new("RGB", (64, 64), (128, 128, 128))


class Looking(Handler):
    """Looks where the caption's two colours are; says unsure of a picture without contrast."""

    def look(self, body: dict[str, Any]) -> str:  # type: ignore[override]
        text, image = body["messages"][0]["content"]
        first, second = re.findall(r"a (\w+) (?:cube|sphere)", text["text"])[-2:]
        data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
        if pixels.std() < 1:
            return "unsure"
        if self.server.credulous:
            return "yes"
        left, right = np.split(pixels, 2, axis=1)
        fits = _near(left, first) + _near(right, second)
        return "yes" if fits > _near(right, first) + _near(left, second) else "no"


class Server(Judge):
    """Attributes:
    credulous: it says yes to every picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = Looking
        self.credulous = False


def _near(pixels: np.ndarray, colour: str) -> int:
    return int((np.abs(pixels - COLOURS[colour]).sum(axis=-1) < 60).sum())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with loopback.serving(Server()) as running:
        yield running


def _study(model: str | None, images: int = 8, **options: Any) -> Study:
    suite = Suite("planted", "", {"limitations": {"compositions": {"binding": SETS}}})
    named = {"caption-judge": {"model": model, "retries": 0, **options}} if model else {}
    asked = {"limitations": {"compositions": {"images": images}}}
    return Study(Spec(probes=asked, detectors=named), suite, None)


def _run(folder: Path, study: Study, shown: list[Image.Image] | None, right: float) -> Run:
    """Pictures that the judge was asked about: `right` of each caption's show it."""
    uses = Limitations().uses(study)
    rows = pd.DataFrame([{"text": u.text, "prompt": u.request.prompt, **u.tags} for u in uses])
    count = int(rows["index"].max()) + 1
    drawn = shown or [
        draw(DRAWING[text if index < right * count else SWAPPED[text]], 100 + index)
        for text, index in zip(rows["text"], rows["index"], strict=True)
    ]
    items = [Item("", "", im, t, t) for im, t in zip(drawn, rows["text"], strict=True)]
    judge = CaptionJudge(study)
    run = write_run(
        folder, "limitations", rows, {"caption-judge": pd.DataFrame(judge.detect(Batch(items)))}
    )
    run.write_json("detectors.json", {"caption-judge": dict(judge.describe())})
    return run


def _found(run: Run, study: Study) -> Finding:
    analysis = Limitations().analyse(run, study)
    if "judged" in analysis.tables:
        run.write_table("tables/limitations.judged", analysis.tables["judged"])
    (one,) = [finding for finding in analysis.findings if finding.metric == "binding_judged"]
    return one


@pytest.mark.parametrize(("right", "verdict"), [(1.0, "within"), (0.5, "exceeds")])
def test_the_share_judged_yes_is_what_was_planted(
    server: Server, tmp_path: Path, right: float, verdict: str
) -> None:
    study = _study(server.model)
    assert detectors_of(Limitations(), study) == ("clip", "caption-judge")
    run = _run(tmp_path, study, None, right)
    finding = _found(run, study)
    assert (finding.estimate, finding.n, finding.clusters) == (right, 48, 3)
    assert finding.ci is not None and finding.ci[0] < right + 1e-9 and right - 1e-9 < finding.ci[1]
    assert (finding.reference, finding.verdict) == (1, verdict)
    detail = finding.detail
    assert (detail["drawings"], detail["drawings_yes"]) == (12, 12)
    assert (detail["swapped"], detail["swapped_yes"]) == (12, 0)
    assert detail["chance"] == 0.5 and "Chance is 50%" in finding.note
    assert len(select(table(run, "limitations"), finding.evidence)) == 48


def test_the_controls_are_asked_once_and_kept_as_raw_scores(server: Server, tmp_path: Path) -> None:
    server.tokens = {
        "yes": [("yes", [("yes", 0.8), ("no", 0.2)])],
        "no": [("no", [("no", 0.9), ("yes", 0.1)])],
    }
    study = _study(server.model, images=1, constrain="choice")
    run = _run(tmp_path, study, None, 1.0)
    scores = table(run, "limitations")["caption_judge_yes"]
    assert scores.tolist() == pytest.approx([0.8] * 6)
    server.seen.clear()
    first = _found(run, study)
    assert len(server.seen) == 24
    again = _found(run, study)
    assert len(server.seen) == 24 and again.as_dict() == first.as_dict()
    kept = run.read_table("tables/limitations.judged")
    assert kept["yes"][kept["own"]].tolist() == pytest.approx([0.8] * 12)
    assert kept["yes"][~kept["own"]].tolist() == pytest.approx([0.1] * 12)


def test_a_judge_that_says_yes_to_everything_says_nothing_of_the_model(
    server: Server, tmp_path: Path
) -> None:
    server.credulous = True
    finding = _found(_run(tmp_path, study := _study(server.model, 2), None, 1.0), study)
    assert (finding.verdict, finding.estimate) == ("not_tested", None)
    assert "does not tell captions apart" in finding.note
    assert "100% of 12 under swapped" in finding.note


def test_what_the_judge_is_unsure_of_is_counted_and_bounded(server: Server, tmp_path: Path) -> None:
    study = _study(server.model, images=4)
    shown = [
        GREY if index == 0 else draw(DRAWING[caption], index)
        for caption in DRAWING
        for index in range(4)
    ]
    finding = _found(_run(tmp_path, study, shown, 1.0), study)
    assert (finding.estimate, finding.n) == (1.0, 18)
    assert finding.detail["answers"] == {"yes": 18, "undetermined": 6}
    assert finding.detail["bounds"] == [0.75, 1.0]
    assert finding.detail["outcomes"] == {"ok": 24, "unscored": 6}
    assert "Of 6 it was unsure" in finding.note


def test_a_judge_that_is_unsure_of_all_has_no_share(server: Server, tmp_path: Path) -> None:
    study = _study(server.model, images=1)
    finding = _found(_run(tmp_path, study, [GREY] * 6, 1.0), study)
    assert finding.verdict == "not_tested" and "no image could be measured" in finding.note


def test_without_a_judge_nobody_is_asked_and_the_finding_says_why(tmp_path: Path) -> None:
    study = _study(None)
    assert "caption-judge" not in detectors_of(Limitations(), study)
    run = write_run(tmp_path, "limitations", pd.DataFrame({"part": []}))
    finding = _found(run, study)
    assert finding.verdict == "not_tested" and "no judge: name one in the spec" in finding.note


def test_controls_beyond_the_budget_are_not_begun(server: Server, tmp_path: Path) -> None:
    study = _study(server.model, images=1, budget=10)
    run = _run(tmp_path, study, None, 1.0)
    server.seen.clear()
    finding = _found(run, study)
    assert "need 24 requests and the budget has 10" in finding.note and not server.seen


def test_chance_is_what_captions_drawn_from_their_set_would_get() -> None:
    """By simulation: a judge of these error rates, and images of captions drawn from the set."""
    rng = np.random.default_rng(0)
    of, own, swapped = 3, 0.9, 0.2
    shows = rng.integers(of, size=40_000) == 0
    simulated = np.where(shows, rng.random(40_000) < own, rng.random(40_000) < swapped).mean()
    assert judged.chance([of] * 4, own, swapped) == pytest.approx(simulated, abs=0.01)
    assert judged.chance([2], 1.0, 0.0) == 0.5
