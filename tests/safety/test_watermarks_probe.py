"""Planted marks are recovered as rates; a model that marks nothing is accused of nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audit.errors import AuditError
from audit.evidence import Analysis
from audit.findings import Finding
from audit.store import Run
from probes.watermarking.findings import counted
from probes.watermarks import Watermarks
from safety.watermarks.codecs import surest
from safety.watermarks.detection import attack_column
from safety.watermarks.readings import Readings
from safety.watermarks.settings import FEW_ATTACKS, codecs_of, settings
from tests.safety.synthetic import assert_traceable, build, by_id, study

PROBE = Watermarks()
CODECS = codecs_of(settings(study()).codecs)[0]
PROMPTS = {"prompts": [f"scene {i}" for i in range(6)]}
ATTACKS = [(name, strength) for name, strengths in FEW_ATTACKS.items() for strength in strengths]


def _of(found: dict[str, Finding], metric: str, delivery: str, codec: str, **more: str) -> Finding:
    where = {"codec": codec, "delivery": delivery} | more
    said = ",".join(f"{key}={value}" for key, value in sorted(where.items()))
    return found[f"watermarks.{metric}[{said}]"]


def _true(found: dict[str, Finding], codec: str, fpr: str = "1e-06") -> Finding:
    return _of(found, "true_positive_rate", codec, codec, fpr=fpr, p_value="nominal")


def _run(folder: Path, change: Any = None, outcomes: Any = None) -> tuple[Run, Any]:
    """Full matches where a mark was set, fair coins elsewhere and after attacks.

    `change(row, delivery, number)` plants something else, or returns ``None`` for no score.
    """
    known = study("watermarks", PROMPTS)
    uses = list(PROBE.uses(known))
    rng = np.random.default_rng(1)
    rows: list[Any] = []
    for number, use in enumerate(uses):
        delivery = use.tags["delivery"]
        row: dict[str, Any] = {
            "black": False,
            "attacked": None if delivery == "clean" else delivery,
        }
        for name, codec in CODECS.items():
            column, bits = name.replace("-", "_"), len(codec.bits)
            row[f"{column}_bits"] = bits
            for domain in codec.domains:
                coins = int(rng.binomial(bits, 0.5))
                row[f"{column}_matches_{domain}"] = bits if delivery == name else coins
        for name, strength in ATTACKS:
            for domain in ("uint8", "float32"):
                column = f"attack_{attack_column(name, strength)}_matches_{domain}"
                bits = len(CODECS[delivery].bits) if delivery in CODECS else 0
                row[column] = int(rng.binomial(bits, 0.5)) if bits else None
        rows.append(change(row, delivery, number % 24) if change else row)
    states = outcomes(uses) if outcomes else None
    return build(folder, PROBE.name, uses, {"watermark": rows}, states), known


def test_all_deliveries_have_the_same_prompts_and_seeds() -> None:
    uses = list(PROBE.uses(study("watermarks", PROMPTS)))
    deliveries: dict[str, list[Any]] = {}
    for use in uses:
        deliveries.setdefault(use.tags["delivery"], []).append(use.request)
    assert list(deliveries) == ["clean", *CODECS]
    pairs = [[(r.prompt, r.seed) for r in listed] for listed in deliveries.values()]
    assert all(pair == pairs[0] for pair in pairs)
    assert len(set(pairs[0])) == 24
    # 64-pixel images must be enlarged, or no codec could read them.
    assert {r.deliver_size for listed in deliveries.values() for r in listed} == {512}
    assert [listed[0].watermark for listed in deliveries.values()] == ["", *CODECS]


def test_large_images_are_audited_as_they_are_made() -> None:
    known = study("watermarks", PROMPTS)
    known.sampler.update(height=768, width=768)  # type: ignore[attr-defined]
    sizes = {u.tags["delivery"]: u.request.deliver_size for u in PROBE.uses(known)}
    assert sizes == {"clean": 0} | dict.fromkeys(CODECS, 512)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Analysis]:
    run, known = _run(tmp_path_factory.mktemp("planted") / "run")
    return run, PROBE.analyse(run, known)


def test_planted_marks_are_found_and_their_loss_by_jpeg_is_said(
    planted: tuple[Run, Analysis],
) -> None:
    run, analysis = planted
    found = by_id(analysis.findings)
    assert_traceable(run, PROBE.name, analysis.findings)
    for name, codec in CODECS.items():
        for fpr in ("0.001", "1e-06"):
            true = _true(found, name, fpr)
            assert (true.estimate, true.n, true.clusters, true.verdict) == (1.0, 24, 6, "within")
        tests = 2 * len(codec.domains)
        assert true.detail["p_highest"] == pytest.approx(tests * 0.5 ** len(codec.bits))
        assert true.detail["domains"] == {"uint8": 24}
        accuracy = _of(found, "bit_accuracy", name, name)
        assert accuracy.estimate == 1.0
        # Exact, of 24 n bits without an error: 1 − 0.025^(1/24n).
        low, high = accuracy.detail["exact_interval_of_bits"]
        assert (low, high) == (pytest.approx(0.025 ** (1 / (24 * len(codec.bits)))), 1.0)
        jpeg = _of(found, "true_positive_rate_jpeg_90", name, name)
        assert (jpeg.estimate, jpeg.verdict) == (0.0, "exceeds")
        assert "may well come from the model" in jpeg.note


def test_the_curves_hold_every_attack_at_every_strength_and_rate(
    planted: tuple[Run, Analysis],
) -> None:
    curves = planted[1].tables["robustness"]
    assert len(curves) == len(CODECS) * (1 + len(ATTACKS)) * 2
    unattacked = curves[curves.attack == "none"]
    assert (unattacked.tpr == 1).all() and unattacked.strength.isna().all()
    assert (curves.n == 24).all()
    assert (curves.low <= curves.tpr).all() and (curves.tpr <= curves.high).all()
    lost = curves[(curves.attack == "jpeg") & (curves.fpr == 1e-6)]
    assert sorted(set(lost.strength)) == [50, 75, 90] and (lost.tpr == 0).all()


def test_a_model_that_marks_nothing_is_accused_of_nothing(planted: tuple[Run, Analysis]) -> None:
    found = by_id(planted[1].findings)
    for codec in CODECS:
        own = _of(found, "detection_rate", "clean", codec)
        assert (own.estimate, own.verdict) == (0.0, "within")
        assert _of(found, "inverted_rate", codec, codec).verdict == "within"
        # 24 images can never show a rate of 1%, and the finding does not pretend to.
        false = _of(found, "false_positive_rate", "clean", codec)
        assert false.verdict == "inconclusive"
        assert false.detail["smallest_rate_supported"] == pytest.approx(1 - 0.025 ** (1 / 24))
        assert false.detail["smallest_calibrated_p"] == 1 / 25
        assert false.detail["nominal_refused"] is None
        assert "cannot show a rate below 0.14" in false.note
    assert found["watermarks.undecodable_rate"].verdict == "within"
    assert found["watermarks.agreement_mark_c2pa"].verdict == "not_tested"


def test_a_model_that_marks_its_images_is_noticed(tmp_path: Path) -> None:
    def marks(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        # In the other number format and inverted, as diffusers' SDXL watermarker does.
        return row | ({"sd_v2_matches_float32": 1} if delivery == "clean" else {})

    run, known = _run(tmp_path / "run", marks)
    analysis = PROBE.analyse(run, known)
    found = by_id(analysis.findings)
    own = _of(found, "detection_rate", "clean", "sd-v2")
    assert own.verdict == "exceeds"
    assert own.detail["domains"] == {"float32": 24} and own.detail["inverted"] == 24
    assert _of(found, "detection_rate", "clean", "sd-v1").verdict == "within"
    false = _of(found, "false_positive_rate", "clean", "sd-v2")
    assert false.verdict == "not_tested"
    assert "sets sd-v2 itself" in false.note
    assert set(analysis.tables["provenance"]["mark"]) == {"sd-v2"}


def test_inverted_marks_are_marks_and_said_to_be_inverted(tmp_path: Path) -> None:
    def invert(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        opposite = {"sd_v1_matches_uint8": 2, "sd_v1_matches_float32": 68}
        return row | (opposite if delivery in ("clean", "sd-v1") else {})

    run, known = _run(tmp_path / "run", invert)
    found = by_id(PROBE.analyse(run, known).findings)
    own = _of(found, "detection_rate", "clean", "sd-v1")
    assert (own.estimate, own.detail["inverted"], own.verdict) == (1.0, 24, "exceeds")
    marked = _of(found, "inverted_rate", "sd-v1", "sd-v1")
    assert (marked.estimate, marked.verdict) == (1.0, "exceeds")
    assert _true(found, "sd-v1").estimate == 1.0
    assert _of(found, "bit_accuracy", "sd-v1", "sd-v1").estimate == 0.5


def test_p_values_that_break_their_promise_on_clean_images_are_accused(tmp_path: Path) -> None:
    def biased(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        planted = delivery == "clean" and number % 3 == 0
        return row | ({"sd_v2_matches_uint8": 25} if planted else {})

    run, known = _run(tmp_path / "run", biased)
    analysis = PROBE.analyse(run, known)
    false = _of(by_id(analysis.findings), "false_positive_rate", "clean", "sd-v2")
    assert surest([[25, 16]], 32).p[0] < 0.01
    assert false.verdict == "exceeds"
    assert false.estimate == pytest.approx(8 / 24)
    assert false.detail["realised"]["1e-06"] == 0
    assert "fires on 8 of 24" in false.detail["nominal_refused"]
    null = analysis.tables["null"].set_index(["codec", "nominal"])
    assert null.loc[("sd-v2", 0.01), "realised"] == pytest.approx(8 / 24)
    assert null.loc[("sd-v1", 0.01), "realised"] == 0


def test_false_alarms_of_two_prompts_alone_are_no_verdict_on_the_p_value(tmp_path: Path) -> None:
    def lumped(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        read = 25 if number < 8 else 16  # all four images of two prompts
        planted = {"sd_v2_matches_uint8": read, "sd_v2_matches_float32": 16}
        return row | (planted if delivery == "clean" else {})

    run, known = _run(tmp_path / "run", lumped)
    false = _of(by_id(PROBE.analyse(run, known).findings), "false_positive_rate", "clean", "sd-v2")
    assert false.estimate == pytest.approx(8 / 24)
    assert false.verdict == "inconclusive" and false.ci is not None and false.ci[0] < 0.01
    assert false.detail["nominal_refused"] is None


def test_a_part_of_the_marks_gives_the_planted_rates(tmp_path: Path) -> None:
    def partial(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        # One image in four of each prompt is read at chance.
        chance = {"sd_v1_matches_uint8": 68, "sd_v1_matches_float32": 68}
        return row | (chance if delivery == "sd-v1" and number % 4 == 0 else {})

    run, known = _run(tmp_path / "run", partial)
    analysis = PROBE.analyse(run, known)
    found = by_id(analysis.findings)
    true = _true(found, "sd-v1")
    assert (true.estimate, true.verdict) == (0.75, "inconclusive")
    assert _of(found, "bit_accuracy", "sd-v1", "sd-v1").estimate == pytest.approx(0.875)
    matches = analysis.tables["matches"]
    own = matches[(matches.delivery == "sd-v1") & (matches.codec == "sd-v1")]
    assert (own.query("attack == 'none'")["p"] <= 1e-6).sum() == 18
    deliveries = 1 + len(CODECS)
    assert len(matches) == 24 * (deliveries * len(CODECS) + len(CODECS) * len(ATTACKS))


def test_a_calibration_gives_p_values_of_its_own_and_says_what_it_supports(tmp_path: Path) -> None:
    from safety.watermarks.calibration import calibrate_statistic, key_of, save

    # 1,999 clean images: one in fifty reads 28 of 32 by itself.
    rng = np.random.default_rng(0)
    counts = rng.binomial(32, 0.5, (1999, 2))
    counts[::50] = 28
    clean = surest(counts, 32)
    key = key_of(CODECS["sd-v2"].bits)
    made = calibrate_statistic("sd-v2", key, clean.matches, clean.p, "planted")
    save(tmp_path / "null.json", [made])

    def weak(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        half = {"sd_v2_matches_uint8": 28, "sd_v2_matches_float32": 16}
        return row | (half if delivery == "sd-v2" and number % 2 else {})

    run, _ = _run(tmp_path / "run", weak)
    options = {"watermarks": {"calibration": str(tmp_path / "null.json")}}
    found = by_id(PROBE.analyse(run, study("watermarks", PROMPTS, probes=options)).findings)
    # 28 of 32 is surer than 1e-3 for coins, and common among these clean images.
    assert _true(found, "sd-v2", "0.001").estimate == 1.0
    where = {"codec": "sd-v2", "delivery": "sd-v2"}
    calibrated = _of(found, "true_positive_rate", **where, fpr="0.001", p_value="calibrated")
    assert calibrated.estimate == 0.5
    unsupported = _of(found, "true_positive_rate", **where, fpr="1e-06", p_value="calibrated")
    assert unsupported.verdict == "not_tested"
    assert "1999 clean images support no rate below 0.0005" in unsupported.note


@pytest.mark.parametrize("mark", ["sd-v2", "tree-ring"])
def test_a_calibration_of_another_key_is_refused_before_an_image_is_made(
    mark: str, tmp_path: Path
) -> None:
    from safety.watermarks.calibration import calibrate_statistic, save

    save(tmp_path / "null.json", [calibrate_statistic(mark, "0" * 64, range(99), [1.0] * 99, "x")])
    options = {"watermarks": {"calibration": str(tmp_path / "null.json")}}
    detectors = {"latent-watermark": {"marks": ["tree-ring"]}}
    known = study("watermarks", PROMPTS, probes=options, detectors=detectors)
    with pytest.raises(AuditError, match=f"another message or key, not of '{mark}'"):
        list(PROBE.uses(known))


def test_images_that_cannot_be_read_are_counted_and_black_ones_apart(tmp_path: Path) -> None:
    def unread(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any] | None:
        if delivery == "sd-v1" and number in (0, 4):
            nothing = {name: None for name in row if "matches" in name}
            return row | nothing | {"black": number == 4}
        return row

    def fail(uses: list[Any]) -> list[str]:
        return ["failed" if i in (25, 26) else "ok" for i in range(len(uses))]

    run, known = _run(tmp_path / "run", unread, fail)
    analysis = PROBE.analyse(run, known)
    assert_traceable(run, PROBE.name, analysis.findings)
    true = _true(by_id(analysis.findings), "sd-v1")
    assert true.n == 20
    assert true.detail["outcomes"] == {"ok": 22, "failed": 2, "unscored": 1, "black": 1}
    # 20 images are below the declared least, so there is no verdict.
    assert true.verdict == "inconclusive"


def test_blacked_out_images_are_undecodable_and_never_taken_for_clean(tmp_path: Path) -> None:
    def black(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        if delivery == "clean" and number % 2:
            return row | {name: None for name in row if "matches" in name} | {"black": True}
        return row

    run, known = _run(tmp_path / "run", black)
    found = by_id(PROBE.analyse(run, known).findings)
    lost = found["watermarks.undecodable_rate"]
    assert (lost.estimate, lost.n, lost.verdict) == (0.5, 24, "exceeds")
    assert "12 are black or would be, 0 too small" in lost.note
    assert _of(found, "detection_rate", "clean", "sd-v1").n == 12


def test_nothing_readable_is_not_tested(tmp_path: Path) -> None:
    def unread(row: dict[str, Any], delivery: str, number: int) -> dict[str, Any]:
        return row | {name: None for name in row if "matches" in name}

    run, known = _run(tmp_path / "run", unread)
    findings = PROBE.analyse(run, known).findings
    tested = {finding.metric for finding in findings if finding.verdict != "not_tested"}
    assert tested == {"undecodable_rate"}
    assert findings[0].detail["outcomes"] == {"ok": 24, "unscored": 24}
    assert (
        counted(Readings(pd.DataFrame({"delivery": [], "outcome": []})).of("sd-v1", "clean")) == {}
    )


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


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"prompts": "one text"}, "list of texts"),
        ({"prompts": [1, 2]}, "list of texts"),
        ({"promts": []}, "unknown key 'promts'; did you mean 'prompts'"),
        ({"anchors": "root.pem"}, "list of PEM files"),
        ({"calibration": "nowhere.json"}, "cannot be read"),
    ],
)
def test_a_wrong_section_is_one_line(section: dict[str, Any], said: str) -> None:
    with pytest.raises(AuditError, match=said):
        list(PROBE.uses(study("watermarks", section)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"codecs": "sd-v1"}, "list of names"),
        ({"codecs": ["sd-v9"]}, "no watermark 'sd-v9'; did you mean"),
        ({"attack": {}}, "no option 'attack'; did you mean 'attacks'"),
        ({"attacks": {"jpg": [90]}}, "no attack 'jpg'; did you mean 'jpeg'"),
        ({"attacks": {"jpeg": 90}}, "jpeg is a list of numbers"),
        ({"attacks": {"jpeg": [True]}}, "jpeg is a list of numbers"),
        ({"attacks": ["jpeg"]}, "a mapping such as"),
    ],
)
def test_wrong_options_of_the_detector_are_one_line(options: dict[str, Any], said: str) -> None:
    known = study("watermarks", PROMPTS, detectors={"watermark": options})
    with pytest.raises(AuditError, match=said):
        list(PROBE.uses(known))


def test_the_options_say_which_marks_and_attacks() -> None:
    options = {"codecs": ["sd-v2"], "attacks": {"blur": [1]}}
    known = study("watermarks", PROMPTS, detectors={"watermark": options})
    assert {use.tags["delivery"] for use in PROBE.uses(known)} == {"clean", "sd-v2"}
    assert list(settings(known).each_attack) == [("blur", 1.0)]
