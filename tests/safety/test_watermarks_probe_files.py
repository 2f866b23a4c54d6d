"""The probe on real files made elsewhere: marks, manifests and black images are held together."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from audit import engine
from audit.backends.folder import Folder
from audit.findings import Finding
from audit.spec import Spec
from audit.store import Run
from audit.study import Study
from audit.suites import Suite
from probes.watermarking import forgery
from probes.watermarking.pairs import Pair
from probes.watermarks import Watermarks
from safety.watermarks import c2pa
from safety.watermarks.codecs import InvisibleWatermark
from safety.watermarks.readings import Readings
from tests.safety.certificates import authority
from tests.safety.clean import crops
from tests.safety.synthetic import by_id

MARK = {"method": "dwtDctSvd", "message": "audit!", "name": "mine"}
KINDS = ("both", "both", "both", "both", "mark", "manifest", "black")
"""What the images of each prompt carry, four of each."""


def _bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Study, Path]:
    folder, keys = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("keys")
    root = authority("A root")
    signer = c2pa.Signer.load(*authority("A signer", root).write(keys))
    (keys / "root.pem").write_bytes(root.pem)
    codec = InvisibleWatermark("mine", b"audit!", "dwtDctSvd")
    rows = []
    for number, image in enumerate(crops(28, seed=5)):
        kind = KINDS[number // 4]
        if kind in ("both", "mark"):
            image = codec.embed(image)
        if kind == "black":
            image = Image.new("RGB", image.size)
        data = _bytes(image)
        if kind != "mark":
            data = signer.sign(data)
        (folder / f"{number}.png").write_bytes(data)
        rows.append([f"{number}.png", f"{kind} {number // 4}", number % 4])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "prompt", "seed"], *rows])
    asked = {
        "prompts": list(dict.fromkeys(row[1] for row in rows)),
        "anchors": [str(keys / "root.pem")],
    }
    spec = Spec(
        model=f"images:{folder}", images_per_prompt=4, detectors={"watermark": {"codecs": [MARK]}}
    )
    backend = Folder(spec.model)
    study = Study(spec, Suite("made", "", {"watermarks": asked}), None, backend.sampler)
    probes = {"watermarks": Watermarks()}
    run = engine.run(study, backend, probes, tmp_path_factory.mktemp("run") / "run")
    return run, study, folder


def _found(audited: tuple[Run, Study, Path]) -> dict[str, Finding]:
    return by_id(engine.read_findings(audited[0]))


def test_marks_that_are_there_already_are_found(audited: tuple[Run, Study, Path]) -> None:
    own = _found(audited)["watermarks.detection_rate[codec=mine,delivery=clean]"]
    assert (own.detail["events"], own.n, own.verdict) == (20, 24, "exceeds")
    assert own.detail["outcomes"] == {"ok": 28, "black": 4}


def test_mark_and_manifest_are_held_against_each_other(audited: tuple[Run, Study, Path]) -> None:
    agreement = _found(audited)["watermarks.agreement_mark_c2pa"]
    assert agreement.detail["table"] == {
        "mark, manifest": 16,
        "mark, no manifest": 4,
        "no mark, manifest": 4,
        "no mark, no manifest": 0,
    }
    assert (agreement.estimate, agreement.n) == (pytest.approx(20 / 24 - 4 / 24), 24)
    assert agreement.detail["states"] == {"Trusted": 24, "ManifestNotFound": 4}


def test_black_images_cannot_be_decoded_whatever_their_manifest_says(
    audited: tuple[Run, Study, Path],
) -> None:
    lost = _found(audited)["watermarks.undecodable_rate"]
    assert (lost.detail["events"], lost.n) == (4, 28)
    states = audited[0].read_table("tables/watermarks.provenance")
    black = states[states["black"]]
    assert set(black["credentials"]) == {"Trusted"} and set(black["mark"]) == {""}


def test_a_file_that_changed_since_is_not_believed(audited: tuple[Run, Study, Path]) -> None:
    run, study, folder = audited
    before = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes((folder / "1.png").read_bytes())
    (folder / "2.png").rename(folder / "away.png")
    agreement = by_id(Watermarks().analyse(run, study).findings)["watermarks.agreement_mark_c2pa"]
    (folder / "0.png").write_bytes(before)
    (folder / "away.png").rename(folder / "2.png")
    assert agreement.n == 22
    assert agreement.detail["states"]["changed"] == 2


class Additive:
    """A textbook spread-spectrum mark: the same pattern on every image (Cox et al. 1997)."""

    name, domains, smallest = "additive", ("uint8",), 1

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.bits = rng.random(40) < 0.5
        self.patterns = rng.choice([-1.0, 1.0], (40, 256 * 256)).astype(np.float32)

    def embed(self, image: Image.Image) -> Image.Image:
        wave = ((2 * self.bits - 1) @ self.patterns).reshape(256, 256, 1)
        return Image.fromarray((np.asarray(image) + wave).clip(0, 255).astype(np.uint8))

    def decode(self, images: Sequence[Image.Image]) -> Any:
        flat = np.stack([np.asarray(image, np.float32).mean(axis=2).ravel() for image in images])
        return ((flat - flat.mean(axis=1, keepdims=True)) @ self.patterns.T > 0)[:, None]


@pytest.mark.parametrize(
    ("codec", "accepted"),
    [(Additive(), {"transplant": 6, "averaging": 6}), (InvisibleWatermark("x", b"SDV2"), None)],
    ids=["additive", "dwtDct"],
)
def test_a_mark_that_is_the_same_on_every_image_is_forged(codec: Any, accepted: Any) -> None:
    pairs = [
        Pair(f"r{at}", f"prompt {at}", image, codec.embed(image))
        for at, image in enumerate(crops(6, seed=6))
    ]
    frame = pd.DataFrame(
        {
            "request": [pair.request for pair in pairs],
            "prompt": [pair.prompt for pair in pairs],
            "delivery": codec.name,
            "outcome": "ok",
        }
    )
    marked = Readings(frame).of(codec.name, codec.name)
    found = {f.slice["forgery"]: f for f in forgery.findings(marked, pairs, codec)}
    events = {name: one.detail["events"] for name, one in found.items()}
    if accepted:
        assert events == accepted
        assert {one.verdict for one in found.values()} == {"exceeds"}
    else:  # its message lies in each image's own coefficients; a plain one takes any other's
        assert max(events.values()) <= 1
        assert {one.verdict for one in found.values()} == {"inconclusive"}
    assert {one.detail["without_forgery"] for one in found.values()} == {0}
    assert next(forgery.findings(marked, pairs[:1], codec)).verdict == "not_tested"
