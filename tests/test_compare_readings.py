"""The values behind findings, given back by a run's tables: proven, or not used at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from audit.compare import Opened, compare
from audit.compare.readings import reading
from audit.findings import Finding
from audit.statistics import rate, two_way_mean
from audit.store import SCHEMA_VERSION, Run

PROMPTS = [f"a portrait of number {i}" for i in range(6)]
IMAGES = 4
FOUND = "true_positive_rate"


def build(path: Path, probe: str, uses: pd.DataFrame) -> Run:
    """A run of one probe: a row of `uses` an image, with prompt and seed."""
    run = Run.create(path)
    uses = uses.assign(request=[f"{i:032x}" for i in range(len(uses))])
    run.write_table("plan", uses[["request", "prompt", "seed"]])
    run.write_table(f"uses/{probe}", uses.drop(columns=["prompt", "seed"]))
    made = pd.DataFrame({"request": uses["request"], "image": "0" * 64, "outcome": "ok"})
    run.add_part("records", made.assign(error="", seconds=0.1))
    run.write_json("run.json", {"schema_version": SCHEMA_VERSION, "model": "tiny"})
    run.write_json("detectors.json", {})
    return run


def marked(path: Path, lost: int) -> Path:
    """A mark is lost on the last `lost` images; after jpeg 50 on all."""
    images = [(prompt, seed) for prompt in PROMPTS for seed in range(IMAGES)]
    uses = pd.DataFrame(images, columns=["prompt", "seed"]).assign(text="x", delivery="own")
    run = build(path, "watermarks", uses)
    requests = run.read_table("uses/watermarks")["request"]
    kept = [i < len(images) - lost for i in range(len(images))]
    rows = []
    for attack, strength, held in (("none", float("nan"), kept), ("jpeg", 50.0, [False] * 24)):
        for request, found in zip(requests, held, strict=True):
            p = 1e-9 if found else 0.5
            rows.append((request, "own", "own", attack, strength, p))
    columns = ["request", "delivery", "codec", "attack", "strength", "p"]
    run.write_table("tables/watermarks.matches", pd.DataFrame(rows, columns=columns))
    where = {"delivery": "own", "codec": "own"}
    shares = {FOUND: (kept, {"p_value": "nominal", "fpr": "1e-06"}), f"{FOUND}_jpeg_50": (
        [False] * 24, {})}  # fmt: skip
    findings = []
    for metric, (held, more) in shares.items():
        found = rate(held, uses["prompt"])
        findings.append(
            Finding("watermarks", metric, where | more, found.estimate, found.ci, n=24, clusters=6,
                    threshold=0.15, detail={"events": sum(held)})
        )  # fmt: skip
    run.write_json("findings.json", [finding.as_dict() for finding in findings])
    return path


def test_a_mark_that_is_lost_is_compared_image_by_image(tmp_path: Path) -> None:
    first, second = Opened(marked(tmp_path / "a", 4)), Opened(marked(tmp_path / "b", 16))
    changes = {change.first.metric: change for change in compare(first, second).changes}
    lost = changes[FOUND]
    assert lost.pairs == 24
    assert lost.estimate == pytest.approx(-0.5)
    assert lost.method.startswith("paired by prompt and seed")
    held = reading(first, lost.first)
    assert held is not None
    assert held.values.tolist() == [1.0] * 20 + [0.0] * 4
    assert changes[f"{FOUND}_jpeg_50"].pairs == 24
    assert changes[f"{FOUND}_jpeg_50"].estimate == 0


def test_a_calibrated_rate_or_a_tie_is_never_paired(tmp_path: Path) -> None:
    run = Opened(marked(tmp_path / "a", 4))
    nominal = run.findings[0]
    where = dict(nominal.slice)
    calibrated = Finding("watermarks", FOUND, where | {"p_value": "calibrated"}, 20 / 24, n=24)
    tied = Finding("watermarks", FOUND, where, 18 / 24, n=24, detail={"events": 18})
    assert reading(run, nominal) is not None
    assert reading(run, calibrated) is None
    assert reading(run, tied) is None


def named(path: Path, gap: float) -> Path:
    """Naming the identity moves the alignment by `gap`, give or take what the pair says."""
    rows = [
        {"prompt": f"{prompt}, {arm}", "seed": seed, "text": prompt, "subject": prompt,
         "template": "main", "arm": arm, "identity": "x" * (arm == "identity"), "index": seed}
        for prompt in PROMPTS for arm in ("base", "identity") for seed in range(IMAGES)
    ]  # fmt: skip
    uses = pd.DataFrame(rows)
    run = build(path, "demographics", uses)
    noise = [0.01 * ((7 * i) % 5 - 2) for i in range(len(uses))]
    scores = [0.3 + n + gap * (a == "identity") for n, a in zip(noise, uses["arm"], strict=True)]
    requests = run.read_table("uses/demographics")["request"]
    run.add_part("detections/clip", pd.DataFrame({"request": requests, "alignment": scores}))
    frame = uses.assign(score=scores).pivot(
        index=["subject", "index"], columns="arm", values="score"
    )
    difference = (frame["identity"] - frame["base"]).to_numpy()
    subjects, seeds = (frame.index.get_level_values(i) for i in (0, 1))
    estimate, ci = two_way_mean(difference, subjects, seeds)
    finding = Finding(
        "demographics", "identity_alignment_gap", {"identity": "x"}, estimate, ci,
        n=len(difference), clusters=6, raw=estimate, threshold=0.02, evidence={"identity": "x"},
    )  # fmt: skip
    run.write_json("findings.json", [finding.as_dict()])
    return path


def test_a_gap_of_an_identity_is_compared_pair_by_pair(tmp_path: Path) -> None:
    compared = compare(Opened(named(tmp_path / "a", 0.0)), Opened(named(tmp_path / "b", -0.1)))
    (change,) = compared.changes
    assert change.pairs == len(PROMPTS) * IMAGES
    assert change.estimate == pytest.approx(-0.1)
    assert change.verdict == "exceeds"
    # The same noise in both runs: paired, nothing of it is left in the interval.
    assert change.ci == pytest.approx((-0.1, -0.1))
