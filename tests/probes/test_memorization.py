"""Planted copies are found where they are, and nobody else is accused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from audit import suites
from audit.evidence import Analysis, select, table
from audit.findings import Finding
from audit.retrieval import EmbeddingFolder, Neighbours, open_index
from audit.retrieval.build import build
from audit.spec import Spec
from audit.store import Run
from audit.study import Study
from probes.memorization import Memorization
from probes.memorizing import prompts, signals
from probes.memorizing.originals import Originals
from probes.memorizing.settings import Settings
from tests.probes.copying import copying_run, write_index
from tests.synthetic import study, write_run


def analysed(run: Run, options: dict, **more) -> Analysis:
    return Memorization().analyse(run, study({}, memorization=options | more))


def of(analysis: Analysis, metric: str) -> list[Finding]:
    return [f for f in analysis.findings if f.metric == metric]


def rates(analysis: Analysis) -> dict[int, Finding]:
    return {f.slice["duplicates"]: f for f in of(analysis, "copy_rate")}


def shares(analysis: Analysis, kind: str) -> dict[int, Finding]:
    found = [f for f in of(analysis, "memorized_share") if f.slice["kind"] == kind]
    return {f.slice["duplicates"]: f for f in found}


def test_copies_are_found_by_number_of_training_copies(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 1: 0.0, 300: 1.0, 1000: 1.0})
    analysis = analysed(run, options)
    found = rates(analysis)
    assert {k: f.estimate for k, f in found.items()} == {0: 0, 1: 0, 300: 1, 1000: 1}
    assert found[1000].verdict == found[300].verdict == "exceeds"
    assert found[0].verdict != "exceeds" != found[1].verdict
    assert found[1000].detail["of_the_captions_own_image"] == found[1000].n == 24
    assert {k: f.estimate for k, f in shares(analysis, "verbatim").items()} == {
        0: 0,
        1: 0,
        300: 1,
        1000: 1,
    }
    pairs = analysis.tables["neighbours"]
    copied = pairs[pairs.copied]
    assert (copied.matched == copied.target).all() and (copied.distance < 0.06).all()
    assert all(run.image_path(match).is_file() for match in copied.match)
    assert analysis.tables["duplication"].captions_verbatim.tolist() == [0, 0, 12, 12]


def test_each_finding_selects_the_images_it_counts(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    rows = table(run, "memorization")
    for finding in analysed(run, options).findings:
        if finding.estimate is not None:
            assert len(select(rows, finding.evidence)) == finding.n, finding.id


def test_half_copies_are_half(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 0.5})
    low, high = rates(analysed(run, options))[300].ci
    assert low < 0.5 < high


def test_a_template_is_told_from_a_verbatim_copy(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0}, seeds=4, template=True)
    analysis = analysed(run, options)
    assert shares(analysis, "verbatim")[300].estimate == 0
    assert shares(analysis, "template")[300].estimate == 1
    # Fresh noise agrees in no tenth of the pixels, so there is nothing to calibrate on.
    assert "published (Webster 2023" in shares(analysis, "template")[300].note
    pairs = analysis.tables["neighbours"]
    shown = pairs[pairs.kind == "template"]
    assert len(shown) == 48 and (shown.matched == shown.target).all()
    assert shown["mask"].between(0.45, 0.65).all()


def test_a_threshold_says_which_negatives_it_is_calibrated_on(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    analysis = analysed(run, options, fpr=0.02)
    note = rates(analysis)[300].note
    assert "false-positive rate 0.02" in note
    assert "12 captions never trained on, source: list" in note
    detected = [*of(analysis, "detection_auc"), *of(analysis, "detection_tpr")]
    for finding in (f for f in detected if f.slice["signal"] != signals.WITHOUT):
        assert "12 negatives (captions never trained on; source: list)" in finding.note


def test_a_copy_is_never_farther_than_the_published_threshold(tmp_path: Path):
    # Fresh noise is so uniformly far away that anything nearer would be beyond chance.
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    analysis = analysed(run, options, fpr=0.1)
    assert set(analysis.tables["neighbours"].threshold) == {0.15}
    assert "stricter than a false-positive rate 0.1" in rates(analysis)[300].note


def test_without_negatives_the_published_threshold_holds(tmp_path: Path):
    run, options = copying_run(tmp_path, {300: 1.0})
    analysis = analysed(run, options)
    assert set(analysis.tables["neighbours"].threshold) == {0.15}
    assert "published (Carlini et al. 2023" in rates(analysis)[300].note
    assert rates(analysis)[300].verdict == "exceeds"
    assert {f.verdict for f in of(analysis, "detection_auc")} == {"not_tested"}


def test_each_signal_has_its_row_and_the_weak_ones_say_so(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    analysis = analysed(run, options)
    areas = {f.slice["signal"]: f for f in of(analysis, "detection_auc")}
    assert (
        areas["text noise, first step"].estimate > 0.95
        and areas["text noise, first step"].verdict == "exceeds"
    )
    assert areas["text noise, all steps"].verdict == "inconclusive"
    for name in ("tiled ℓ2 between seeds", "MS-SSIM between seeds", "ℓ2 to the match", "combined"):
        assert areas[name].estimate == 1 and areas[name].clusters == 24
    combined = next(f for f in of(analysis, "detection_tpr") if f.slice["signal"] == "combined")
    assert combined.estimate == 1 and combined.detail["false_positives"] == 0
    listed = analysis.tables["signals"]
    missing = areas.pop(signals.WITHOUT)
    assert set(areas) == set(listed.signal)
    # Those of which there is no value are named, with what they need.
    assert missing.verdict == "not_tested"
    assert "copy model (needs the detector copy-embedding" in missing.note
    everything = {signal.name for signal in (*signals.KNOWN, signals.COMBINED)}
    assert set(areas) | {name for name in everything if name in missing.note} == everything
    assert (listed.memorized == 12).all() and (listed.negatives == 12).all()


def test_without_training_images_similarity_alone_accuses_nobody(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    analysis = analysed(run, {"index": options["index"]})
    assert [f.verdict for f in of(analysis, "copy_rate")] == ["not_tested"]
    assert not of(analysis, "memorized_share")
    pairs = analysis.tables["neighbours"]
    assert pairs.copied.sum() == 0
    assert pairs.nearest.notna().all() and pairs.similarity.notna().all()


def test_a_web_index_lists_addresses_and_fetches_nothing(tmp_path: Path):
    run, _ = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    index = write_index(
        tmp_path / "web",
        np.random.default_rng(0).normal(size=(5, 8)),
        url=[f"https://example.org/{n}.jpg" for n in range(5)],
        caption=[f"c{n}" for n in range(5)],
    )
    analysis = analysed(run, {"index": str(index), "images": str(tmp_path)})
    assert "cannot be read" in of(analysis, "copy_rate")[0].note
    pairs = analysis.tables["neighbours"]
    assert pairs.nearest_url.str.startswith("https://example.org/").all()
    assert pairs.match.isna().all()


def test_approximate_scores_give_candidates_and_no_verdict(tmp_path: Path, monkeypatch):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    index = open_index(options["index"])
    search = index.search

    def approximate(queries: np.ndarray, k: int) -> Neighbours:
        found = search(queries, k)
        return Neighbours(found.ids, found.scores, exact=False)

    monkeypatch.setattr(index, "search", approximate)
    monkeypatch.setattr(prompts, "index_of", lambda asked: index)
    analysis = analysed(run, options)
    assert [f.verdict for f in of(analysis, "copy_rate")] == ["not_tested"]
    assert "approximate" in of(analysis, "copy_rate")[0].note
    assert analysis.tables["neighbours"].copied.sum() == 0
    assert "CLIP similarity" not in {f.slice["signal"] for f in of(analysis, "detection_auc")}
    missing = next(f for f in of(analysis, "detection_auc") if f.slice["signal"] == signals.WITHOUT)
    assert "CLIP similarity (needs an index with exact scores)" in missing.note
    assert "text noise, first step" in {f.slice["signal"] for f in of(analysis, "detection_auc")}


def test_what_was_not_compared_is_said(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    (Path(options["images"]) / "12.png").unlink()
    listed = tmp_path / "out.txt"
    listed.write_text("0\n1\n")
    analysis = analysed(run, options | {"exclude": str(listed)})
    for finding in of(analysis, "copy_rate") + of(analysis, "memorized_share"):
        assert "rows of the index that were not compared: 2 (exclusion list)" in finding.note
    # Both seeds of that caption had this training image alone to be compared with, or none.
    analysed_again = analysed(run, {**options, "neighbours": 1})
    counted = sum(f.n for f in of(analysed_again, "copy_rate"))
    pairs = analysed_again.tables["neighbours"]
    assert counted == pairs.distance.notna().sum() < len(pairs)
    said = of(analysed_again, "copy_rate")[0].note
    assert f"{len(pairs) - counted} of the {len(pairs)} images are not counted" in said


def test_a_faiss_index_elsewhere_is_scored_by_the_folder_that_is_named(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    plain = analysed(run, options)
    folder = EmbeddingFolder(Path(options["index"]))
    build(folder, tmp_path / "ivf", flat_up_to=0)
    index = str(tmp_path / "ivf/image.index")
    # Its own scores are approximate, and no verdict is based on them.
    alone = analysed(run, options | {"index": index})
    assert [f.verdict for f in of(alone, "copy_rate")] == ["not_tested"]
    scored = analysed(run, options | {"index": index, "embeddings": options["index"]})
    assert [(f.estimate, f.n) for f in of(scored, "copy_rate")] == [
        (f.estimate, f.n) for f in of(plain, "copy_rate")
    ]


def test_ten_seeds_alike_are_an_extraction_without_the_training_set(tmp_path: Path):
    run, _ = copying_run(tmp_path, {0: 0.0, 300: 1.0}, seeds=10, captions=6)
    (finding,) = of(analysed(run, {}), "clique_share")
    assert finding.estimate == 0.5 and finding.clusters == 12
    few, _ = copying_run(tmp_path / "few", {300: 1.0}, seeds=2)
    assert not of(analysed(few, {}), "clique_share")


def test_an_image_path_does_not_leave_its_folder(tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images/open.png")
    originals = Originals(str(tmp_path / "images"))
    assert originals("../secret.png") is None
    assert originals("open.png") is not None


class CellMeans(torch.nn.Module):
    """A 16×16 grid of mean colours, as a copy model."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 16).flatten(1)


def test_a_copy_model_of_the_user_compares_with_the_match(tmp_path: Path):
    run, options = copying_run(tmp_path, {0: 0.0, 300: 1.0})
    torch.jit.trace(CellMeans(), torch.zeros(1, 3, 320, 320)).save(tmp_path / "copy.pt")
    model = {"model": str(tmp_path / "copy.pt"), "preset": "square-320", "allow_code": True}
    asked = Study(
        Spec(probes={"memorization": options}, detectors={"copy-embedding": model}),
        suites.Suite("planted", "", {}),
        None,
    )
    from audit.detectors.copy_embedding import CopyEmbedding

    detector, records = CopyEmbedding(asked), run.read_table("records")
    scores = pd.DataFrame(
        {
            "request": records.request,
            "embedding": detector.embed([run.load_image(i) for i in records.image]).tolist(),
            "preset": detector.preset,
        }
    )
    run.write_part("detections/copy-embedding", 0, scores)
    run.write_json("detectors.json", {"copy-embedding": dict(detector.describe())})
    analysis = Memorization().analyse(run, asked)
    pairs = analysis.tables["neighbours"]
    assert (
        pairs[pairs.copied].copy_similarity.min() > 0.9 > pairs[~pairs.copied].copy_similarity.max()
    )
    assert set(pairs.copy_embedding_preset) == {"square-320"}
    assert "copy model" in set(analysis.tables["signals"].signal)


def test_the_phantoms_index_says_how_often_the_match_was_trained_on(tmp_path: Path):
    from audit.detectors.clip import Clip
    from audit.phantom import corpus

    suite = suites.Suite("p", "", {"detectors": {"clip": {"model": "phantom"}}})
    folder = suites.datasets() / "phantom_corpus"
    options = {"index": str(folder), "images": "phantom", "memorized_from": 300}
    asked = Study(Spec(probes={"memorization": options}), suite, None)
    clip = Clip(asked)
    copied, never = corpus.load("phantom").named(1000)[:3], corpus.load("phantom").named(0)[:12]
    others = corpus.load("phantom").named(0)[12:36]
    rows, pictures = [], []
    for number, item in enumerate([*copied, *never]):
        for index in range(2):
            # A name that it was never trained on it draws as somebody else.
            drawn = item if item.copies else others[2 * (number - len(copied)) + index]
            pictures.append(drawn.draw())
            rows.append(
                {
                    "text": item.captions[0],
                    "source": "list",
                    "arm": "base",
                    "index": index,
                    "duplicates": item.copies,
                    "band": item.copies,
                    "target": item.id,
                    "url": None,
                    "memorized": None,
                }
            )
    embeddings = pd.DataFrame({"embedding": clip.encode_images(pictures).tolist()})
    run = write_run(tmp_path / "run", "memorization", pd.DataFrame(rows), {"clip": embeddings})
    records = run.read_table("records").assign(image=[run.save_image(p) for p in pictures])
    run.write_part("records", 0, records)
    run.write_json("detectors.json", {"clip": dict(clip.describe())})
    analysis = Memorization().analyse(run, asked)
    pairs = analysis.tables["neighbours"]
    assert (pairs[pairs.duplicates == 1000].match_duplicates == 1000).all()
    assert (pairs[pairs.duplicates == 1000].caption_similarity > 0.999).all()
    assert (pairs[pairs.duplicates == 1000].matched == pairs.target[pairs.duplicates == 1000]).all()
    assert pairs[pairs.duplicates == 0].copied.sum() == 0
    assert rates(analysis)[1000].detail["rows_of_the_match"] == 1000


def test_the_most_repeated_captions_of_the_phantoms_corpus_are_those_that_were_planted():
    folder = suites.datasets() / "phantom_corpus"
    asked = Settings(index=str(folder), most_duplicated=18)
    found = prompts.asked_captions(asked)
    planted = pd.read_csv(folder / "captions.csv")
    planted = planted[planted.duplicates >= 300]
    assert {(c.text, c.target, c.duplicates) for c in found} == set(
        planted[["caption", "image_path", "duplicates"]].itertuples(index=False, name=None)
    )
