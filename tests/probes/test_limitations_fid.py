"""FID on Inception of the exact form with random weights: as torch-fidelity's, and what is planted.

What the features mean is the real weights' business; that the same pictures give the same number is
not."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch_fidelity
from PIL import Image, ImageOps

from audit.errors import AuditError
from audit.findings import Finding
from audit.statistics import frechet
from audit.store import SCHEMA_VERSION, Run
from audit.study import Study
from probes.limitations import Limitations
from probes.limits import apart, fid
from probes.limits.drawings import draw
from tests.synthetic import study, write_run

PROMPTS = ("a red cube", "a blue sphere", "a green cone", "a yellow star")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """He et al.'s initial weights, which keep the layers' variance, in torch-fidelity's form."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    class Fresh(theirs.FeatureExtractorInceptionV3):
        def load_state_dict(self, *given: Any, **more: Any) -> None:
            """Keeps what it was made with."""

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(theirs, "load_state_dict_from_url", lambda *given, **more: {})
        network = Fresh("fresh", ["2048"])
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def _scene(prompt: str, seed: int) -> Image.Image:
    return draw(prompt.removeprefix("a "), seed, 64)


def _pictures(folder: Path, count: int, start: int) -> Path:
    folder.mkdir()
    for number in range(count):
        _scene(PROMPTS[number % 4], start + number).save(folder / f"{number:03}.png")
    return folder


def _asked(weights: Path | None, **reference: Any) -> Study:
    section = {
        "photorealism": {"prompts": list(PROMPTS), "images": 2, "reference": reference},
        "fid": {"weights": str(weights)} if weights else {},
    }
    return study({"limitations": section})


def _run(folder: Path, given: Study, disturb: Any = None) -> Run:
    uses = list(Limitations().uses(given))
    rows = pd.DataFrame([{"text": u.text, "prompt": u.request.prompt, **u.tags} for u in uses])
    store = Run.create(folder)
    store.write_json("run.json", {"schema_version": SCHEMA_VERSION})  # before it has images
    drawn = [_scene(use.request.prompt, 500 + i) for i, use in enumerate(uses)]
    digests = [store.save_image(disturb(image) if disturb else image) for image in drawn]
    run = write_run(folder, "limitations", rows, image=digests)
    run.write_json("detectors.json", {"clip": {"unavailable": "no CLIP here"}})
    return run


def _found(run: Run, given: Study) -> Finding:
    analysis = Limitations().analyse(run, given)
    for name, frame in analysis.tables.items():
        run.write_table(f"tables/limitations.{name}", frame)
    (one,) = [finding for finding in analysis.findings if finding.metric == fid.METRIC]
    return one


def test_it_is_the_value_of_torch_fidelity_itself(weights: Path, tmp_path: Path) -> None:
    one, two = _pictures(tmp_path / "a", 6, 0), _pictures(tmp_path / "b", 7, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch_fidelity.calculate_metrics(
            input1=str(one), input2=str(two), fid=True, cuda=False, cache=False, verbose=False,
            feature_extractor_weights_path=str(weights), batch_size=4,
        )["frechet_inception_distance"]  # fmt: skip
    inception = fid.Inception(weights)
    x, y = (
        inception.features(image for _, image in apart.pictures(apart.picture_files(folder)))
        for folder in (one, two)
    )
    assert x[0].shape == (2048,) and np.std(x) > 0
    assert frechet(x, y).estimate == pytest.approx(theirs, rel=1e-3)


def test_pictures_of_the_reference_are_nearer_than_disturbed_ones(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fid, "LEAST", 8)
    given = _asked(weights, images=str(_pictures(tmp_path / "reference", 16, 0)))
    run = _run(tmp_path / "near", given)
    near = _found(run, given)
    far_run = _run(tmp_path / "far", given, ImageOps.invert)
    far_run.write_table(
        "tables/limitations.inception_reference",
        run.read_table("tables/limitations.inception_reference"),
    )
    far = _found(far_run, given)
    assert (near.n, near.clusters, near.detail["reference_pictures"]) == (8, 4, 16)
    assert near.estimate is not None and near.ci is not None and far.estimate is not None
    assert 0 <= near.ci[0] < near.estimate < near.ci[1]
    # What a random sample of the reference itself has at this n is not 0.
    assert near.reference is not None and near.reference == far.reference > 0
    assert far.estimate > 2 * near.reference > 2 * near.estimate, (near, far)
    assert "biased upward" in near.note and "of 8 images" in near.note
    # What was measured is not measured again, and needs no network.
    monkeypatch.setattr(fid, "Inception", None)
    assert _found(run, given).as_dict() == near.as_dict()


def test_the_level_of_another_sample_needs_as_many_others() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 5))
    assert fid.alike(rows, 31) is None
    level = fid.alike(rows, 30)
    assert level is not None and 0 < level < frechet(rows[:30] + 1, rows[30:]).estimate


def test_without_what_it_needs_it_is_not_tested_and_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _pictures(tmp_path / "reference", 9, 0)
    (tmp_path / "file.pth").write_bytes(b"weights")
    for given, said in (
        (_asked(None, images=str(folder)), "name the file, as in probes"),
        (_asked(tmp_path / "file.pth", index="somewhere"), "pictures themselves"),
        (_asked(tmp_path / "file.pth", images=str(folder)), "needs 2,049 images and there are 8"),
    ):
        found = _found(_run(tmp_path / said[:9], given), given)
        assert (found.verdict, found.estimate) == ("not_tested", None) and said in found.note
    monkeypatch.setattr(fid, "LEAST", 9)
    given = _asked(tmp_path / "file.pth", images=str(folder))
    assert "9 images and there are 8" in _found(_run(tmp_path / "few", given), given).note


def test_weights_that_are_none_are_refused_before_images_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _asked(tmp_path / "none.pth", images=str(tmp_path))
    with pytest.raises(AuditError, match=r"fid\.weights: no file .*none\.pth"):
        list(Limitations().uses(given))
    (tmp_path / "none.pth").write_bytes(b"weights")
    monkeypatch.setattr(fid, "find_spec", lambda name: None)
    with pytest.raises(AuditError, match=r"t2i-audit\[fid\]"):
        list(Limitations().uses(given))


class _Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, (_Hostile.mark,)

    mark = ""


def test_a_file_of_weights_runs_no_code_and_another_networks_is_named(tmp_path: Path) -> None:
    _Hostile.mark = str(tmp_path / "ran")
    torch.save({"fc.weight": _Hostile()}, tmp_path / "hostile.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(AuditError):
        fid.Inception(tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(AuditError, match="does not hold the weights of torch-fidelity"):
        fid.Inception(tmp_path / "other.pth")
