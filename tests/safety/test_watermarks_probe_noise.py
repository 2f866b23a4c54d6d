"""Marks of the initial noise in a run: asked for, made by the phantom, inverted and found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import engine
from audit.backends import open_backend
from audit.errors import AuditError
from audit.spec import Spec
from audit.store import Run
from audit.study import Study, detectors_of
from audit.suites import Suite
from probes.watermarks import Watermarks
from safety.watermarks.latent_detection import LatentWatermarkDetector
from tests.safety.synthetic import assert_traceable, build, by_id, study

PROBE = Watermarks()
MARKS = ["tree-ring", "gaussian-shading"]
PROMPTS = {"prompts": [f"scene {i}" for i in range(6)]}


def _asked(marks: Any = MARKS, **more: Any) -> Study:
    options = {"watermark": {"codecs": ["sd-v2"]}, "latent-watermark": {"marks": marks, **more}}
    return study("watermarks", PROMPTS, detectors=options)


def test_noise_marks_are_made_at_the_models_own_size_beside_unmarked_twins() -> None:
    deliveries: dict[str, list[Any]] = {}
    for use in PROBE.uses(_asked()):
        deliveries.setdefault(use.tags["delivery"], []).append(use)
    assert list(deliveries) == ["clean", "sd-v2", "unmarked", *MARKS]
    for name in ("unmarked", *MARKS):
        uses = deliveries[name]
        assert {use.request.deliver_size for use in uses} == {0}
        assert {use.request.watermark for use in uses} == {"" if name == "unmarked" else name}
        assert {use.unseen_by for use in uses} == {("watermark",)}
    assert {use.unseen_by for use in deliveries["clean"]} == {("latent-watermark",)}
    assert detectors_of(PROBE, _asked()) == ("watermark", "latent-watermark")
    assert detectors_of(PROBE, study("watermarks", PROMPTS)) == ("watermark",)


def test_planted_statistics_give_the_planted_rates(tmp_path: Path) -> None:
    attacks = {"jpeg": [50], "img2img": [0.3]}
    known, rng = _asked(["tree-ring"], attacks=attacks), np.random.default_rng(0)
    uses = list(PROBE.uses(known))
    # A uniform p-value where nothing is set; where it is, 18 of 24 at 1e-8 and 6 at 1e-4.
    rows = [
        {
            "tree_ring_statistic": -np.log10(rng.random())
            if use.tags["delivery"] == "unmarked"
            else 8.0 if number % 4 else 4.0
        }
        if use.tags["delivery"] in ("unmarked", "tree-ring")
        else None
        for number, use in enumerate(uses)
    ]  # fmt: skip
    for row, use in zip(rows, uses, strict=True):
        if row is not None:
            own = use.tags["delivery"] == "tree-ring"
            row |= {"black": False, "attacked": "tree-ring" if own else None}
            row |= {"attack_jpeg_50_statistic": 7.0 if own else None}
            row |= {"attack_img2img_0_3_statistic": 0.5 if own else None}
    # One image of the marked ones is black: nothing was read from it.
    last = max(at for at, use in enumerate(uses) if use.tags["delivery"] == "tree-ring")
    rows[last] = dict.fromkeys(rows[last] or {}) | {"black": True, "attacked": "tree-ring"}
    run = build(tmp_path / "run", PROBE.name, uses, {
        "latent-watermark": rows,
        "watermark": [{"sd_v2_bits": 32, "sd_v2_matches_uint8": 16, "black": False} for _ in uses],
    })  # fmt: skip
    analysis = PROBE.analyse(run, known)
    assert_traceable(run, PROBE.name, analysis.findings)
    found = by_id(analysis.findings)
    where = (
        "watermarks.true_positive_rate[codec=tree-ring,delivery=tree-ring,fpr={},p_value=nominal]"
    )
    assert found[where.format("0.001")].estimate == 1.0
    # 17 of 23: one of the 18 that were surer is black.
    strict = found[where.format("1e-06")]
    assert (strict.estimate, strict.n) == (pytest.approx(17 / 23), 23)
    assert strict.detail["outcomes"] == {"ok": 24, "black": 1}
    after = "watermarks.true_positive_rate_{}[codec=tree-ring,delivery=tree-ring]"
    assert found[after.format("jpeg_50")].estimate == 1.0
    redrawn = found[after.format("img2img_0_3")]
    assert (redrawn.estimate, redrawn.n, redrawn.verdict) == (0.0, 23, "exceeds")
    curves = analysis.tables["robustness"].query("codec == 'tree-ring' and fpr == 1e-6")
    assert curves.set_index("attack").tpr.round(2).to_dict() == {
        "none": 0.74,
        "jpeg": 1.0,
        "img2img": 0.0,
    }
    assert set(analysis.tables["null"]["codec"]) >= {"tree-ring"}
    false = found["watermarks.false_positive_rate[codec=tree-ring,delivery=unmarked]"]
    assert false.n == 24 and false.verdict == "inconclusive"
    assert false.detail["nominal_refused"] is None


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two prompts, two seeds, ten steps, and no other marks: those are tested elsewhere."""
    spec = Spec(
        model="phantom",
        device="cpu",
        backend={"mode": "fast"},
        images_per_prompt=2,
        batch_size=4,
        detectors={
            "watermark": {"codecs": []},
            "latent-watermark": {
                "marks": MARKS,
                "steps": 10,
                "attacks": {"jpeg": [50], "img2img": [0.8]},
            },
        },
    )
    backend = open_backend(spec.model, "cpu", spec.dtype, spec.backend)
    prompts = {"prompts": ["a portrait of a doctor", "a portrait of a farmer"]}
    known = Study(
        spec,
        Suite("made", "", {"watermarks": prompts}),
        backend.model_path,
        {**backend.sampler, "steps": 10},
    )
    return engine.run(known, backend, {PROBE.name: PROBE}, tmp_path_factory.mktemp("r") / "run")


@pytest.mark.parametrize("mark", MARKS)
def test_on_the_phantom_marked_images_are_found_and_unmarked_ones_are_not(
    audited: Run, mark: str
) -> None:
    found = by_id(engine.read_findings(audited))
    where = f"codec={mark},delivery={mark},fpr=0.001,p_value=nominal"
    true = found[f"watermarks.true_positive_rate[{where}]"]
    assert (true.estimate, true.n) == (1.0, 4)
    false = found[f"watermarks.false_positive_rate[codec={mark},delivery=unmarked]"]
    assert (false.estimate, false.n) == (0.0, 4)
    after = f"[codec={mark},delivery={mark}]"
    jpeg, redrawn = (
        found[f"watermarks.true_positive_rate_{name}{after}"] for name in ("jpeg_50", "img2img_0_8")
    )
    # Most of the noise is another's once the model has drawn the image anew.
    assert jpeg.n == redrawn.n == 4 and redrawn.estimate == 0.0
    assert redrawn.detail["p_lowest"] > true.detail["p_highest"]
    described = audited.read_json("detectors.json")["latent-watermark"]
    assert described["inversion_steps"] == 10 and len(described["marks"][mark]["key_sha256"]) == 64


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"marks": ["tree-rings"]}, "no 'tree-rings'; did you mean 'tree-ring'"),
        ({"marks": "zeros"}, "marks is a list of"),
        ({"mark": []}, "no option 'mark'; did you mean 'marks'"),
        ({"marks": MARKS, "attacks": {"img2im": [0.1]}}, "no attack 'img2im'; did you mean"),
        ({"marks": MARKS, "attacks": {"vae": 1}}, "latent-watermark.attacks.vae is a list of"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], said: str) -> None:
    known = study("watermarks", PROMPTS, detectors={"latent-watermark": options})
    with pytest.raises(AuditError, match=said):
        list(PROBE.uses(known))


def test_without_the_model_nothing_is_read_and_it_is_said() -> None:
    reason = LatentWatermarkDetector.unavailable(_asked())
    assert reason is not None and "not on this machine" in reason
