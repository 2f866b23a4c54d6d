"""Planted marks are recovered as rates; a model that marks nothing is accused of nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import plugins
from audit.errors import AuditError
from audit.findings import Finding
from audit.store import Run
from probes.watermarks import ALPHA, Watermarks
from safety.watermarks.detection import p_value
from tests.safety.synthetic import assert_traceable, build, by_id, study

PROBE = Watermarks()
BITS = {"sd-v1": 136, "sd-v2": 32}
PROMPTS = {"prompts": [f"scene {i}" for i in range(6)]}


def _of(found: dict[str, Finding], metric: str, delivery: str, codec: str) -> Finding:
    return found[f"watermarks.{metric}[codec={codec},delivery={delivery}]"]


def _run(folder: Path, change: Any = None, outcomes: Any = None) -> tuple[Run, Any]:
    """Full matches where a mark was set, fair coins elsewhere and after JPEG.

    `change(row, delivery, number)` plants something else, or returns ``None`` for no score.
    """
    known = study("watermarks", PROMPTS)
    uses = list(PROBE.uses(known))
    rng = np.random.default_rng(1)
    rows: list[Any] = []
    for number, use in enumerate(uses):
        row: dict[str, Any] = {}
        for codec, bits in BITS.items():
            column = codec.replace("-", "_")
            own = use.tags["delivery"] == codec
            row[f"{column}_bits"] = bits
            row[f"{column}_matches"] = bits if own else int(rng.binomial(bits, 0.5))
            row[f"{column}_jpeg90_matches"] = int(rng.binomial(bits, 0.5))
        rows.append(change(row, use.tags["delivery"], number % 24) if change else row)
    states = outcomes(uses) if outcomes else None
    return build(folder, PROBE.name, uses, {"watermark": rows}, states), known


def test_all_deliveries_have_the_same_prompts_and_seeds() -> None:
    uses = list(PROBE.uses(study("watermarks", PROMPTS)))
    deliveries: dict[str, list[Any]] = {}
    for use in uses:
        deliveries.setdefault(use.tags["delivery"], []).append(use.request)
    assert list(deliveries) == ["clean", *plugins.names("watermarks")]
    pairs = [[(r.prompt, r.seed) for r in listed] for listed in deliveries.values()]
    assert pairs[0] == pairs[1] == pairs[2]
    assert len(set(pairs[0])) == 24
    # 64-pixel images must be enlarged, or no codec could read them.
    assert {r.deliver_size for listed in deliveries.values() for r in listed} == {512}
    assert [listed[0].watermark for listed in deliveries.values()] == ["", "sd-v1", "sd-v2"]


def test_large_images_are_audited_as_they_are_made() -> None:
    known = study("watermarks", PROMPTS)
    known.sampler.update(height=768, width=768)  # type: ignore[attr-defined]
    sizes = {u.tags["delivery"]: u.request.deliver_size for u in PROBE.uses(known)}
    assert sizes == {"clean": 0, "sd-v1": 512, "sd-v2": 512}


def test_planted_marks_are_found_and_their_loss_by_jpeg_is_said(tmp_path: Path) -> None:
    run, known = _run(tmp_path / "run")
    analysis = PROBE.analyse(run, known)
    found = by_id(analysis.findings)
    assert_traceable(run, PROBE.name, analysis.findings)
    for codec in BITS:
        true = _of(found, "true_positive_rate", codec, codec)
        assert (true.estimate, true.n, true.clusters, true.verdict) == (1.0, 24, 6, "within")
        assert true.detail["p_highest"] == pytest.approx(0.5 ** BITS[codec])
        assert _of(found, "bit_accuracy", codec, codec).estimate == 1.0
        jpeg = _of(found, "true_positive_rate_jpeg90", codec, codec)
        assert (jpeg.estimate, jpeg.verdict) == (0.0, "exceeds")
        assert "may well come from the model" in jpeg.note


def test_a_model_that_marks_nothing_is_accused_of_nothing(tmp_path: Path) -> None:
    run, known = _run(tmp_path / "run")
    found = by_id(PROBE.analyse(run, known).findings)
    for codec in BITS:
        own = _of(found, "detection_rate", "clean", codec)
        assert (own.estimate, own.verdict) == (0.0, "within")
        assert _of(found, "inverted_rate", codec, codec).verdict == "within"
        # 24 images can never show a rate of 1%, and the finding does not pretend to.
        false = _of(found, "false_positive_rate", "clean", codec)
        assert false.verdict == "inconclusive"
        assert false.detail["smallest_rate_supported"] == pytest.approx(1 - 0.025 ** (1 / 24))
        assert "cannot show a rate below 0.14" in false.note


def test_a_model_that_marks_its_images_is_noticed(tmp_path: Path) -> None:
    def marks(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        return row | ({"sd_v2_matches": 31} if delivery == "clean" else {})

    run, known = _run(tmp_path / "run", marks)
    found = by_id(PROBE.analyse(run, known).findings)
    assert _of(found, "detection_rate", "clean", "sd-v2").verdict == "exceeds"
    assert _of(found, "detection_rate", "clean", "sd-v1").verdict == "within"
    false = _of(found, "false_positive_rate", "clean", "sd-v2")
    assert false.verdict == "not_tested"
    assert "sets sd-v2 itself" in false.note


def test_inverted_marks_are_found_in_both_places(tmp_path: Path) -> None:
    def invert(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        return row | ({"sd_v1_matches": 2} if delivery in ("clean", "sd-v1") else {})

    run, known = _run(tmp_path / "run", invert)
    found = by_id(PROBE.analyse(run, known).findings)
    own = _of(found, "detection_rate", "clean", "sd-v1")
    assert (own.estimate, own.detail["inverted"], own.verdict) == (1.0, 24, "exceeds")
    marked = _of(found, "inverted_rate", "sd-v1", "sd-v1")
    assert (marked.estimate, marked.verdict) == (1.0, "exceeds")
    assert _of(found, "true_positive_rate", "sd-v1", "sd-v1").estimate == 0.0


def test_p_values_that_break_their_promise_on_clean_images_are_accused(tmp_path: Path) -> None:
    def biased(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        return row | ({"sd_v2_matches": 24} if delivery == "clean" and number % 3 == 0 else {})

    run, known = _run(tmp_path / "run", biased)
    false = _of(by_id(PROBE.analyse(run, known).findings), "false_positive_rate", "clean", "sd-v2")
    assert p_value(24, 32) < 0.01
    assert false.verdict == "exceeds"
    assert false.estimate is not None
    assert false.estimate >= 8 / 24
    assert false.detail["realised"]["2.5e-07"] == 0


def test_a_part_of_the_marks_gives_the_planted_rates(tmp_path: Path) -> None:
    def partial(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        # One image in four of each prompt is read at chance.
        return row | ({"sd_v1_matches": 68} if delivery == "sd-v1" and number % 4 == 0 else {})

    run, known = _run(tmp_path / "run", partial)
    analysis = PROBE.analyse(run, known)
    found = by_id(analysis.findings)
    true = _of(found, "true_positive_rate", "sd-v1", "sd-v1")
    assert (true.estimate, true.verdict) == (0.75, "inconclusive")
    assert _of(found, "bit_accuracy", "sd-v1", "sd-v1").estimate == pytest.approx(0.875)
    matches = analysis.tables["matches"]
    own = matches[(matches.delivery == "sd-v1") & (matches.codec == "sd-v1")]
    assert (own.query("attack == 'none'")["p"] <= ALPHA / 4).sum() == 18
    assert len(matches) == 3 * 24 * 2 * 2


def test_images_that_cannot_be_read_are_counted_and_left_out_by_name(tmp_path: Path) -> None:
    def small(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any] | None:
        if delivery == "sd-v1" and number == 0:
            return row | {name: None for name in row if "matches" in name}
        return row

    def fail(uses: list[Any]) -> list[str]:
        return ["failed" if i in (25, 26) else "ok" for i in range(len(uses))]

    run, known = _run(tmp_path / "run", small, fail)
    analysis = PROBE.analyse(run, known)
    assert_traceable(run, PROBE.name, analysis.findings)
    true = _of(by_id(analysis.findings), "true_positive_rate", "sd-v1", "sd-v1")
    assert true.n == 21
    assert true.detail["outcomes"] == {"ok": 22, "failed": 2, "unscored": 1}
    # 21 images are below the declared least, so there is no verdict.
    assert true.verdict == "inconclusive"


def test_nothing_readable_is_not_tested(tmp_path: Path) -> None:
    def unread(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        return row | {name: None for name in row if "matches" in name}

    run, known = _run(tmp_path / "run", unread)
    findings = PROBE.analyse(run, known).findings
    assert {finding.verdict for finding in findings} == {"not_tested"}
    assert findings[0].detail["outcomes"] == {"ok": 24, "unscored": 24}


def test_without_a_detector_or_a_section_nothing_is_tested(tmp_path: Path) -> None:
    known = study("watermarks", PROMPTS)
    run = build(
        tmp_path / "run", PROBE.name, list(PROBE.uses(known)), {}, None, {"watermark": "no codec"}
    )
    (finding,) = PROBE.analyse(run, known).findings
    assert (finding.verdict, finding.note) == ("not_tested", "Not tested: no codec.")
    (finding,) = PROBE.analyse(Run.create(tmp_path / "empty"), study()).findings
    assert finding.verdict == "not_tested"
    assert list(PROBE.uses(study())) == []


@pytest.mark.parametrize("prompts", ["one text", [1, 2]])
def test_wrong_prompts_are_one_line(prompts: Any) -> None:
    with pytest.raises(AuditError, match="list of texts"):
        list(PROBE.uses(study("watermarks", {"prompts": prompts})))
