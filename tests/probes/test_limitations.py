"""The probe limitations on planted scores, and its instruments on the phantom's small networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audit.errors import AuditError
from audit.evidence import Analysis, select, table
from audit.findings import Finding
from audit.phantom import path
from audit.spec import Spec
from audit.store import Run
from audit.study import Study, detectors_of
from audit.suites import Suite, load
from probes.limitations import Limitations
from probes.limits import apart, drawings
from probes.limits.apart import Apart
from probes.limits.settings import settings
from tests.synthetic import study, write_run

TEXT = {
    "text": {"prompts": [{"prompt": f"a sign that says {w}", "says": w} for w in ("STOP", "OPEN")]}
}
SETS = [
    {
        f"a {a} cube and a {b} sphere": f"{a} cube left, {b} sphere right"
        for a, b in (pair, pair[::-1])
    }
    for pair in (("red", "blue"), ("green", "yellow"), ("black", "white"))
]
COMPOSED = {"compositions": {"binding": SETS}}


def found(analysis: Analysis, metric: str) -> Finding:
    (one,) = [finding for finding in analysis.findings if finding.metric == metric]
    return one


def uses(suite: dict[str, Any], **options: Any) -> pd.DataFrame:
    planned = Limitations().uses(study({"limitations": suite}, limitations=options))
    return pd.DataFrame(
        [{"text": use.text, "prompt": use.request.prompt, **use.tags} for use in planned]
    )


@pytest.fixture
def words_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our signs are read without a fault, by a reader that is not loaded."""
    read = pd.DataFrame({"says": ["STOP", "OPEN"], "exact": True, "error": 0.0})
    monkeypatch.setattr("probes.limits.words.controls", lambda words, apart: read)
    monkeypatch.setattr("audit.detectors.text.weights", lambda: [Path("reader")])


@pytest.mark.usefixtures("words_read")
@pytest.mark.parametrize(
    ("right", "verdict"), [(16, "within"), (0, "exceeds"), (13, "inconclusive")]
)
def test_text_is_judged_against_the_same_words_written_by_us(
    tmp_path: Path, right: int, verdict: str
) -> None:
    rows = uses(TEXT, text={"images": 16})
    lines = [[word if index % 16 < right else "XQZJ"] for index, word in enumerate(rows["says"])]
    run = write_run(tmp_path, "limitations", rows, {"text": pd.DataFrame({"lines": lines})})
    analysis = Limitations().analyse(run, study({"limitations": TEXT}))
    exact, error = (found(analysis, f"text_{m}") for m in ("exact_match", "character_error_rate"))
    assert exact.estimate == right / 16 and exact.n == 32 and exact.clusters == 2
    assert exact.reference == 1 and exact.verdict == verdict
    assert error.estimate == pytest.approx(1 - right / 16)
    assert error.ci[0] < error.ci[1]  # all right and all wrong have an interval too
    assert len(select(table(run, "limitations"), exact.evidence)) == 32


@pytest.mark.usefixtures("words_read")
def test_an_image_that_failed_is_counted_and_not_taken_for_illegible(tmp_path: Path) -> None:
    rows = uses(TEXT, text={"images": 12})
    scores = {"text": pd.DataFrame({"lines": [[word] for word in rows["says"]]})}
    run = write_run(tmp_path, "limitations", rows, scores, outcome=["failed"] + ["ok"] * 23)
    exact = found(Limitations().analyse(run, study({"limitations": TEXT})), "text_exact_match")
    assert exact.estimate == 1 and exact.n == 23
    assert exact.detail["outcomes"] == {"ok": 23, "failed": 1}


def composed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    right: float,
    blind: bool = False,
    part: str = "binding",
) -> Finding:
    """Captions are axes; an image lies along its own, or along the other of its set."""
    captions = [caption for one in SETS for caption in one]
    axes = dict(zip(captions, np.eye(len(captions)), strict=True))
    swapped = {a: b for one in SETS for a, b in (tuple(one), tuple(one)[::-1])}
    monkeypatch.setattr(Apart, "captions", lambda self, texts: axes)
    monkeypatch.setattr(Apart, "why_not", lambda self, name: None if name == "clip" else "no")
    rng = np.random.default_rng(0)

    def seen(self: Apart, images: Any) -> np.ndarray:
        order = [caption for caption in captions for _ in range(4)]
        said = [
            caption if not blind or rng.random() < 0.5 else swapped[caption] for caption in order
        ]
        return np.stack([axes[caption] for caption in said])

    monkeypatch.setattr(Apart, "embed", seen)
    rows = uses(COMPOSED, compositions={"images": 10}).assign(part=part)
    drawn = [
        axes[text] if index / 10 < right else axes[swapped[text]]
        for text, index in zip(rows["text"], rows["index"], strict=True)
    ]
    scores = {"clip": pd.DataFrame({"embedding": [row.tolist() for row in drawn]})}
    run = write_run(tmp_path, "limitations", rows, scores)
    run.write_json("detectors.json", {"clip": {"model": "planted"}})
    return found(Limitations().analyse(run, study({"limitations": COMPOSED})), "binding_accuracy")


@pytest.mark.parametrize(("right", "verdict"), [(1.0, "within"), (0.5, "exceeds")])
def test_binding_is_judged_against_our_drawings_with_chance_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: float, verdict: str
) -> None:
    finding = composed(tmp_path, monkeypatch, right)
    assert finding.estimate == right and finding.n == 60 and finding.clusters == 3
    assert finding.detail["chance"] == 0.5 and finding.reference == 1
    assert finding.verdict == verdict


def test_a_clip_that_cannot_tell_drawings_apart_says_nothing_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = composed(tmp_path, monkeypatch, 0.5, blind=True)
    assert finding.verdict == "not_tested" and finding.estimate is None
    assert "does not even tell our drawings apart" in finding.note


def test_a_run_too_short_for_any_image_of_a_kind_does_not_blame_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = composed(tmp_path, monkeypatch, 1.0, part="faces")
    assert finding.verdict == "not_tested"
    assert "no image could be measured" in finding.note


def test_faces_are_counted_and_a_second_one_is_a_finding_of_its_own(tmp_path: Path) -> None:
    section = {"faces": {"prompts": ["a face of a cook", "a face of a judge"], "images": 20}}
    counts = np.tile([1.0] * 15 + [0.0] * 3 + [2.0] * 2, 2)
    scores = pd.DataFrame({"count": counts, "confidence": np.where(counts > 0, 0.9, np.nan)})
    run = write_run(tmp_path, "limitations", uses(section), {"faces": scores})
    run.write_json("detectors.json", {"faces": {}})
    analysis = Limitations().analyse(run, study({"limitations": section}))
    rate, extra = found(analysis, "face_detection_rate"), found(analysis, "extra_face_rate")
    assert (rate.estimate, rate.verdict) == (0.85, "exceeds")
    assert extra.estimate == 0.1
    sure = found(analysis, "face_confidence")
    assert sure.estimate == pytest.approx(0.9) and sure.n == 34
    assert found(analysis, "hands").verdict == "not_tested"


def test_what_has_a_probe_of_its_own_is_referred_to_and_not_measured_twice(tmp_path: Path) -> None:
    run = write_run(tmp_path, "limitations", pd.DataFrame({"part": []}))
    run.write_table("uses/languages", pd.DataFrame({"request": ["a"]}))
    analysis = Limitations().analyse(run, study({}))
    assert "by the probe languages" in found(analysis, "non_english_prompts").note
    assert "was not run" in found(analysis, "bias").note
    assert {finding.verdict for finding in analysis.findings} == {"not_tested"}


def phantom(suite: dict[str, Any], **changes: Any) -> Study:
    content = {"phantom": {}, "detectors": {"clip": {"model": "phantom"}}, "limitations": suite}
    sampler = {"height": 64, "width": 64}
    return Study(Spec(**changes), Suite("phantom", "", content), path("phantom"), sampler)


def test_the_phantoms_autoencoder_is_lossy_and_its_drawings_stay_what_they_show(
    tmp_path: Path,
) -> None:
    looks = {
        f"{back} background, a portrait of a doctor, holding a {sign} sign": {
            "occupation": "doctor", "background": back, "sign": sign.replace(" ", "_"),
        }
        for back, sign in (("blue", "green square"), ("green", "blue disc"))
    }  # fmt: skip
    suite = {
        "compositions": {"binding": [looks]},
        "autoencoder": {"pictures": str(tmp_path / "own")},
    }
    (tmp_path / "own").mkdir()
    for seed in range(10):
        drawings.draw({"occupation": "chef"}, seed, 64).save(tmp_path / f"own/{seed}.png")
    run = write_run(tmp_path / "run", "limitations", pd.DataFrame({"part": []}))
    run.write_json("detectors.json", {"faces": {"unavailable": "no photographs"}})
    analysis = Limitations().analyse(run, phantom(suite))
    psnr = {f.slice.get("pictures"): f for f in analysis.findings if f.metric == "autoencoder_psnr"}
    assert 25 < psnr["pictures"].estimate < 40 and psnr["pictures"].n == 10
    assert psnr["pictures"].verdict == "exceeds"
    rows = analysis.tables["autoencoder"]
    assert (rows["ssim"].between(0.9, 1)).all() and (rows["clip_distance"] < 0.05).all()
    assert_follows_without_its_model(run, phantom(suite), analysis)


def test_an_autoencoder_that_is_shown_nothing_says_so_also_without_the_model(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path, "limitations", pd.DataFrame({"part": []}))
    asked = phantom({"autoencoder": {"drawn": False}})
    analysis = Limitations().analyse(run, asked)
    assert "no pictures were given" in found(analysis, "autoencoder_psnr").note
    assert_follows_without_its_model(run, asked, analysis)


def assert_follows_without_its_model(run: Run, asked: Study, analysis: Analysis) -> None:
    """What `verify --recompute` holds against a run."""
    for name, rows in analysis.tables.items():
        run.write_table(f"tables/limitations.{name}", rows)
    again = Limitations().analyse(run, dataclasses.replace(asked, model_path=None, sampler={}))
    assert [one.as_dict() for one in again.findings] == [one.as_dict() for one in analysis.findings]


def test_what_was_measured_beside_the_images_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = Run.create(tmp_path), study({})
    times: list[int] = []

    def compute() -> pd.DataFrame:
        times.append(1)
        return pd.DataFrame({"value": [len(times)]})

    first = Apart(run, asked, "limitations")
    run.write_table("tables/limitations.words", first.measured("words", ["v1"], compute))
    again = Apart(run, asked, "limitations")
    assert again.measured("words", ["v1"], compute)["value"].tolist() == [1]
    assert again.measured("words", ["v2"], compute)["value"].tolist() == [2]


def test_drawings_show_what_they_say() -> None:
    three = np.asarray(drawings.draw("3 red sphere", 0, 128)).astype(int)
    red = (three[..., 0] > 150) & (three[..., 1] < 80)
    assert 0.05 < red.mean() < 0.4
    left = np.asarray(drawings.draw("blue cube left, yellow star right", 1, 128)).astype(int)
    blue = (left[..., 2] > 150) & (left[..., 0] < 90)
    assert blue[:, :64].sum() > 20 * blue[:, 64:].sum() + 20
    assert drawings.draw("2 green cone", 5) == drawings.draw("2 green cone", 5)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"faces": {"prompt": []}}, "did you mean 'prompts'"),
        ({"face": {}}, "did you mean 'faces'"),
        ({"text": {"prompts": ["a sign"]}}, "prompt, says"),
        ({"text": {"prompts": [{"prompt": "a sign", "says": "!"}]}}, "no letter and no digit"),
        ({"compositions": {"binding": [{"one": None}]}}, "two captions"),
        ({"compositions": {"spatial": [{"a": "pink cube", "b": None}]}}, "cannot draw 'pink cube'"),
        ({"compositions": {"binding": [{"a": {"sign": "moon"}, "b": None}]}}, "no portrait"),
        ({"faces": {"images": 0}}, "whole number from 1"),
        ({"photorealism": {"margin": "small"}}, "a number"),
    ],
)
def test_a_bad_section_gives_one_line_that_names_it(section: dict[str, Any], said: str) -> None:
    with pytest.raises(AuditError, match=said) as error:
        settings(study({"limitations": section}))
    assert "\n" not in str(error.value) and str(error.value).startswith("limitations")


def test_a_picture_that_cannot_be_read_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="holds no PNG"):
        apart.picture_files(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(AuditError, match=r"a\.png: not a PNG"):
        list(apart.pictures(apart.picture_files(tmp_path)))


@pytest.mark.parametrize("name", ["general", "phantom"])
def test_the_shipped_suites_ask_for_what_they_declare(name: str) -> None:
    given = Study(Spec(), load(name), None)
    asked = settings(given)
    planned = list(Limitations().uses(given))
    assert {use.tags["part"] for use in planned} >= {"photorealism", "text", "binding"}
    for use in planned:
        seen = {"text": "text", "faces": "faces"}.get(use.tags["part"], "clip")
        assert seen not in use.unseen_by
    assert "text" in detectors_of(Limitations(), given)
    if name == "general":
        assert len(asked.words) >= 20 and sum(len(one.captions) for one in asked.contrasts) >= 30
    else:
        from audit.phantom import vocabulary as v

        drawn = [(c, d) for one in asked.contrasts for c, d in one.captions.items()]
        assert [c for c, _ in drawn] == [v.prompt(language="en", **look) for _, look in drawn]
