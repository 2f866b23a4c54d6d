"""Planted effects are found in direction and size; where nothing is planted nothing is accused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from audit.errors import AuditError
from audit.evidence import select, table
from audit.findings import Finding
from probes.demographics import Demographics
from probes.languages import Languages
from probes.memorization import Memorization
from tests.synthetic import study, write_run
from tests.test_retrieval import make as make_embeddings

PROMPTS = {f"job{i}": {"text": f"a job{i}"} for i in range(12)}
SUITE = {
    "attributes": {
        "gender": {
            "metric": "share_female_presenting",
            "positive": "female",
            "named": "female-presenting",
            "reference": 0.5,
            "reference_name": "parity",
            "margin": 0.1,
            "labels": {"female": "a woman", "male": "a man"},
        }
    },
    "demographics": {"attributes": ["gender"], "prompts": PROMPTS},
    "languages": {
        "reference": "en",
        "margin": 0.02,
        "prompts": {name: {"en": name, "tr": f"{name} tr", "sw": f"{name} sw"} for name in PROMPTS},
    },
}


def demographics(path: Path, shares, n: int = 60, seed: int = 0, unsure: float = 0.0, failed=0):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame([{"occupation": job, "index": i} for job in PROMPTS for i in range(n)])
    share = dict(zip(PROMPTS, shares, strict=True))
    female = rng.random(len(rows)) < rows.occupation.map(share)
    margin = np.where(rng.random(len(rows)) < unsure, 0.001, 0.05)
    clip = pd.DataFrame(
        {
            "embedding": [[1.0]] * len(rows),
            "gender_female": 0.2 + np.where(female, margin, 0),
            "gender_male": 0.2 + np.where(female, 0, margin),
        }
    )
    outcome = ["failed" if row["index"] < failed else "ok" for row in rows.to_dict("records")]
    run = write_run(path, "demographics", rows, {"clip": clip}, outcome=outcome)
    return run, female, Demographics().analyse(run, study(SUITE)).findings


def by_job(findings: list[Finding]) -> dict[str, Finding]:
    return {
        f.slice["occupation"]: f
        for f in findings
        if f.metric == "share_female_presenting" and f.slice
    }


def test_planted_shares_are_recovered_and_skews_are_named(tmp_path: Path):
    shares = [0.05, 0.1, 0.1, 0.05, 0.1, 0.9, 0.95, 0.9, 0.9, 0.95, 0.5, 0.5]
    run, female, findings = demographics(tmp_path / "run", shares)
    jobs = by_job(findings)
    for (job, finding), share in zip(jobs.items(), shares, strict=True):
        assert finding.ci[0] - 0.05 <= share <= finding.ci[1] + 0.05
        assert finding.verdict == ("exceeds" if share != 0.5 else "inconclusive"), job
        behind = select(table(run, "demographics"), finding.evidence)
        assert len(behind) == 60 and set(behind.occupation) == {job}
    total = next(f for f in findings if f.metric == "share_female_presenting" and not f.slice)
    assert (total.n, total.clusters) == (720, 12)
    assert total.estimate == pytest.approx(female.mean())
    deviation = next(f for f in findings if f.metric == "mean_deviation_female_presenting")
    assert deviation.verdict == "exceeds"
    assert deviation.estimate == pytest.approx(np.mean(np.abs(np.array(shares) - 0.5)), abs=0.05)


def test_a_fair_model_is_accused_of_nothing_over_many_runs(tmp_path: Path):
    accused = []
    for seed in range(40):
        _, _, findings = demographics(tmp_path / f"{seed}", [0.5] * 12, seed=seed)
        accused.append(any(f.verdict == "exceeds" for f in findings))
    assert np.mean(accused) <= 0.1


def test_the_floor_of_the_deviation_is_what_sampling_gives(tmp_path: Path):
    _, _, findings = demographics(tmp_path / "run", [0.5] * 12)
    deviation = next(f for f in findings if f.metric == "mean_deviation_female_presenting")
    # E|p̂ − ½| = √(1 / 2πn) for large n.
    assert deviation.reference == pytest.approx((1 / (2 * np.pi * 60)) ** 0.5, rel=0.02)


def test_too_few_images_never_give_a_verdict(tmp_path: Path):
    _, _, findings = demographics(tmp_path / "run", [0.0] * 12, n=49)
    assert {f.verdict for f in findings} == {"inconclusive"}


def test_undetermined_and_failed_images_are_counted_and_bounded(tmp_path: Path):
    _, _, findings = demographics(tmp_path / "run", [0.5] * 12, n=80, unsure=0.25, failed=4)
    for finding in by_job(findings).values():
        counts = finding.detail["outcomes"]
        assert sum(counts.values()) == 80
        assert counts["missing"] == 4
        assert finding.n == 80 - 4 - counts["undetermined"]
        low, high = finding.detail["bounds"]
        assert low < finding.estimate < high
        assert high - low == pytest.approx((4 + counts["undetermined"]) / 80)


def languages(path: Path, gaps: dict[str, float], seed: int = 0, failed: int = 0):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        [
            {"key": job, "language": language, "index": i}
            for job in PROMPTS
            for language in gaps
            for i in range(8)
        ]
    )
    noise = {(job, i): rng.normal(0, 0.05) for job in PROMPTS for i in range(8)}
    shared = np.array([noise[job, i] for job, i in zip(rows.key, rows["index"], strict=True)])
    clip = pd.DataFrame(
        {
            "alignment": 0.3 + shared + rows.language.map(gaps) + rng.normal(0, 0.02, len(rows)),
            "embedding": [[1.0]] * len(rows),
        }
    )
    outcome = np.where(np.arange(len(rows)) < failed, "failed", "ok").tolist()
    run = write_run(path, "languages", rows, {"clip": clip}, outcome=outcome)
    return Languages().analyse(run, study(SUITE))


def test_the_starved_language_is_worse_and_the_one_at_parity_is_not(tmp_path: Path):
    analysis = languages(tmp_path / "run", {"en": 0.0, "tr": 0.0, "sw": -0.08})
    gaps = {f.slice["language"]: f for f in analysis.findings}
    assert gaps["sw"].verdict == "exceeds"
    assert gaps["sw"].ci[0] < -0.08 < gaps["sw"].ci[1] < 0
    assert gaps["tr"].verdict == "within"
    assert gaps["tr"].ci[1] - gaps["tr"].ci[0] < 0.02  # the pairs share their noise
    assert analysis.tables["alignment"].language.tolist() == ["tr", "sw"]


def test_a_lost_image_loses_its_pair_and_is_counted(tmp_path: Path):
    gaps = languages(tmp_path / "run", {"en": 0.0, "tr": 0.0}, failed=8).findings
    assert (gaps[0].n, gaps[0].detail["pairs_lost"]) == (96 - 8, 8)


def memorization(path: Path, copying: dict[int, float], negatives: bool = True):
    """Training images of flat noise; a copying caption gives its own back, blurred a little."""
    rng = np.random.default_rng(0)
    images = path / "training"
    images.mkdir(parents=True)
    bands = [k for k in copying if k > 0 or negatives]
    captions = [(k, f"caption {k} {i}") for k in bands for i in range(12)]
    originals, embeddings = {}, []
    for number, _ in enumerate(captions):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
        originals[number] = pixels
        embeddings.append(rng.normal(size=8))
    make_embeddings(path / "index", [np.array(embeddings)])
    metadata = path / "index/metadata/metadata_0.parquet"
    pd.read_parquet(metadata).assign(
        image_path=[f"{n}.png" for n in range(len(captions))]
    ).to_parquet(metadata)
    rows, vectors, made = [], [], []
    for number, (k, caption) in enumerate(captions):
        for index in range(2):
            copies = rng.random() < copying[k]
            rows.append(
                {"duplicates": k, "target": f"{number}.png", "index": index, "text": caption}
            )
            vectors.append(embeddings[number] if copies else rng.normal(size=8))
            pixels = originals[number].astype(int) + rng.integers(-9, 9, (8, 8, 3))
            fresh = rng.integers(0, 255, (8, 8, 3))
            made.append(
                Image.fromarray(np.clip(pixels if copies else fresh, 0, 255).astype(np.uint8))
            )
    clip = pd.DataFrame({"embedding": [list(v / np.linalg.norm(v)) for v in vectors]})
    magnitude = [10.0 + 5 * (row["duplicates"] >= 300) + rng.normal() for row in rows]
    run = write_run(
        path / "run",
        "memorization",
        pd.DataFrame(rows),
        {"clip": clip},
        text_noise_magnitude=magnitude,
        text_noise_first=[10.0 + rng.normal() for _ in rows],
    )
    records = run.read_table("records").assign(image=[run.save_image(image) for image in made])
    run.write_part("records", 0, records)
    options = {"index": str(path / "index"), "images": str(images), "memorized_from": 300}
    return run, Memorization().analyse(run, study({}, memorization=options))


def test_copies_are_found_by_number_of_training_copies(tmp_path: Path):
    run, analysis = memorization(tmp_path, {0: 0.0, 1: 0.0, 300: 1.0, 1000: 1.0})
    rates = {f.slice["duplicates"]: f for f in analysis.findings if f.metric == "copy_rate"}
    assert {k: f.estimate for k, f in rates.items()} == {0: 0, 1: 0, 300: 1, 1000: 1}
    assert rates[1000].verdict == rates[300].verdict == "exceeds"
    assert rates[0].verdict != "exceeds" != rates[1].verdict
    pairs = analysis.tables["neighbours"]
    copied = pairs[pairs.copied]
    assert (copied.matched == copied.target).all() and (copied.distance < 0.05).all()
    assert all(run.image_path(match).is_file() for match in copied.match)
    first, whole = (f for f in analysis.findings if f.metric == "detection_auc")
    assert whole.estimate > 0.95 and whole.verdict == "exceeds" and whole.clusters == 36
    assert first.verdict == "inconclusive" and first.ci[0] < 0.5 < first.ci[1]


def test_half_copies_are_half(tmp_path: Path):
    _, analysis = memorization(tmp_path, {0: 0.0, 300: 0.5})
    rate = next(f for f in analysis.findings if f.slice.get("duplicates") == 300)
    assert rate.ci[0] < 0.5 < rate.ci[1]


def test_without_negatives_the_published_threshold_holds(tmp_path: Path):
    _, analysis = memorization(tmp_path, {300: 1.0}, negatives=False)
    assert set(analysis.tables["neighbours"].threshold) == {0.15}
    assert [f.verdict for f in analysis.findings] == ["not_tested", "not_tested", "exceeds"]


def test_without_training_images_similarity_alone_accuses_nobody(tmp_path: Path):
    run, _ = memorization(tmp_path, {0: 0.0, 300: 1.0})
    options = {"index": str(tmp_path / "index")}
    analysis = Memorization().analyse(run, study({}, memorization=options))
    assert [f.verdict for f in analysis.findings if f.metric == "copy_rate"] == ["not_tested"]
    assert analysis.tables["neighbours"].copied.sum() == 0


def test_an_image_path_does_not_leave_its_folder(tmp_path: Path):
    from probes.memorization import _original

    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    assert _original("../secret.png", tmp_path / "images") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("caption,image_path\na,b\n", "captions.csv:1: no column 'duplicates'"),
        ("caption,image_path,duplicates\na,b,1\nc,d,many\n", "captions.csv:3: caption or number"),
        ("caption,image_path,duplicates\n,b,1\n", "captions.csv:2: caption or number"),
    ],
)
def test_a_wrong_line_of_captions_is_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "captions.csv").write_text(text)
    options = {"captions": str(tmp_path / "captions.csv")}
    with pytest.raises(AuditError, match=message):
        list(Memorization().uses(study({}, memorization=options)))


@pytest.mark.parametrize("probe", [Demographics, Languages, Memorization])
def test_a_suite_that_asks_nothing_is_not_tested(tmp_path: Path, probe):
    run = write_run(tmp_path / "run", "other", pd.DataFrame({"a": [1]}))
    nothing = study({})
    assert list(probe().uses(nothing)) == []
    assert {f.verdict for f in probe().analyse(run, nothing).findings} == {"not_tested"}
