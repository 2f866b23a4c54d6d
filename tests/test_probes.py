"""Planted effects are found in direction and size; where nothing is planted nothing is accused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from audit.errors import AuditError
from probes.demographics import Demographics
from probes.languages import Languages
from probes.memorization import Memorization
from tests.synthetic import study, write_run
from tests.test_retrieval import make as make_embeddings


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
