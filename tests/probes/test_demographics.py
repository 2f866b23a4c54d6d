"""Planted skews are found in direction and size; where nothing is planted nothing is accused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audit.errors import AuditError
from audit.evidence import select, table
from audit.findings import Finding
from audit.sequential import decide
from audit.statistics import equivalence_of_pairs
from audit.study import Study
from audit.suites import load
from probes.bias import reading, wording
from probes.bias.cells import intersections
from probes.bias.correction import Sources, shares
from probes.bias.insertions import insertions
from probes.bias.settings import settings
from probes.bias.totals import totals
from probes.bias.traits import stereotypes
from probes.bias.verdicts import judge_shares
from probes.demographics import Demographics
from tests.probes.tables import LABELS, analysed, asked, suite, uses
from tests.synthetic import study, write_run

JOBS = [f"job{i}" for i in range(12)]
PLANTED = [0.05, 0.1, 0.1, 0.05, 0.1, 0.9, 0.95, 0.9, 0.9, 0.95, 0.5, 0.5]


def drawn(shares_: list[float], rows: pd.DataFrame, seed: int = 0) -> np.ndarray:
    chance = rows.subject.map(dict(zip(rows.subject.unique(), shares_, strict=True)))
    female = np.random.default_rng(seed).random(len(rows)) < chance
    return np.where(female, "female", "male").astype(object)


def named(findings: list[Finding], metric: str) -> list[Finding]:
    found = [f for f in findings if f.metric == metric]
    assert found, metric
    return found


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    found = named(findings, "share_female_presenting")
    return {f.slice["subject"]: f for f in found if f.slice}


def test_planted_shares_are_recovered_and_skews_are_named(tmp_path: Path):
    rows = uses(JOBS, 60)
    said = drawn(PLANTED, rows)
    run, analysis = analysed(tmp_path / "run", rows, {"gender": said}, suite())
    for finding, share in zip(by_subject(analysis.findings).values(), PLANTED, strict=True):
        assert finding.ci[0] - 0.05 <= share <= finding.ci[1] + 0.05
        assert finding.verdict == ("exceeds" if share != 0.5 else "inconclusive")
        assert "detector error unknown" in finding.note and finding.corrected_for is None
        behind = select(table(run, "demographics"), finding.evidence)
        assert len(behind) == 60 and set(behind.subject) == {finding.slice["subject"]}
    total = named(analysis.findings, "share_female_presenting")[-1]
    assert (total.n, total.clusters, total.slice) == (720, 12, {})
    assert total.estimate == pytest.approx((said == "female").mean())
    deviation = named(analysis.findings, "mean_deviation_female_presenting")[0]
    assert deviation.verdict == "exceeds"
    assert deviation.estimate == pytest.approx(np.mean(np.abs(np.array(PLANTED) - 0.5)), abs=0.05)
    assert len(analysis.tables["shares"]) == 12


def test_a_fair_model_is_accused_of_nothing_over_many_runs():
    rows = uses(JOBS, 60)
    settings = asked(suite())
    (attribute,) = settings.attributes
    accused = []
    for seed in range(200):
        said = pd.Series(drawn([0.5] * 12, rows, seed))
        found = shares(reading.units(rows, said, attribute, settings), said, Sources())
        verdicts = judge_shares(found, study(suite())).verdicts
        whole = totals(found, Sources(), settings)
        accused.append("exceeds" in [*verdicts, *(f.verdict for f in whole)])
    assert np.mean(accused) <= 0.05


def test_the_margin_is_the_worst_case_of_the_false_discovery_rate():
    # Every share lies exactly on the margin: each rejection is one too many.
    rows = uses(JOBS, 100)
    settings = asked(suite())
    (attribute,) = settings.attributes
    accused = []
    for seed in range(200):
        said = pd.Series(drawn([0.6] * 12, rows, seed))
        found = shares(reading.units(rows, said, attribute, settings), said, Sources())
        accused.append("exceeds" in judge_shares(found, study(suite())).verdicts)
    assert np.mean(accused) <= 0.07  # 0.05, and two standard errors of 200 repetitions


def test_the_floor_of_the_deviation_is_what_sampling_gives(tmp_path: Path):
    rows = uses(JOBS, 60)
    _, analysis = analysed(tmp_path, rows, {"gender": drawn([0.5] * 12, rows)}, suite())
    deviation = named(analysis.findings, "mean_deviation_female_presenting")[0]
    # E|p̂ − ½| = √(1 / 2πn) for large n.
    assert deviation.reference == pytest.approx((1 / (2 * np.pi * 60)) ** 0.5, rel=0.02)


def test_too_few_images_never_give_a_verdict(tmp_path: Path):
    rows = uses(JOBS, 49)
    said = {"gender": drawn([0.0] * 12, rows), "skin": ["dark"] * len(rows)}
    _, analysis = analysed(tmp_path, rows, said, suite(attributes=("gender", "skin")))
    shown = [f for f in analysis.findings if f.slice.keys() <= {"subject"}]
    assert {f.verdict for f in shown} == {"inconclusive"}


def test_images_without_a_label_are_counted_by_reason_and_bounded(tmp_path: Path):
    rows = uses(["job0"], 80)
    rows["outcome"] = ["failed"] * 4 + ["blocked"] * 3 + ["ok"] * 73
    said = drawn([0.5], rows)
    said[70:] = "undetermined"
    faces = pd.DataFrame({"count": [0] * 17 + [2] * 5 + [1] * 58})
    content = suite(1)
    content["attributes"] = {"gender": {**content["attributes"]["gender"], "needs": "face"}}
    _, analysis = analysed(tmp_path, rows, {"gender": said}, content, {"faces": faces})
    finding = by_subject(analysis.findings)["job0"]
    counts = finding.detail["outcomes"]
    reasons = {"failed": 4, "blocked": 3, "no_face": 10, "undetermined": 10}
    assert counts.items() >= reasons.items()
    assert counts["several_faces"] == 5
    assert counts["female"] + counts["male"] == finding.n == 80 - 27
    low, high = finding.detail["bounds"]
    assert low < finding.estimate < high
    assert high - low == pytest.approx(27 / 80)


def test_the_distance_of_many_labels_is_found_and_null_where_there_is_none(tmp_path: Path):
    rows = uses(JOBS, 100)
    settings = asked(suite(attributes=("skin",)))
    rng = np.random.default_rng(3)
    said = rng.choice(LABELS["skin"], len(rows)).astype(object)
    said[:100] = rng.choice(LABELS["skin"], 100, p=[0.8, 0.1, 0.1])
    _, analysis = analysed(tmp_path, rows, {"skin": said}, suite(attributes=("skin",)))
    found = named(analysis.findings, "total_variation_skin")
    assert [f.verdict == "exceeds" for f in found] == [True, *[False] * 11]
    assert found[0].ci[0] < 0.8 - 1 / 3 < found[0].ci[1]
    assert found[1].detail["floor"] == pytest.approx(np.mean([f.estimate for f in found[1:]]), 0.3)
    assert settings.attributes[0].shares == (1 / 3,) * 3


def test_a_planted_amplification_is_measured():
    reference = np.linspace(0.1, 0.9, 12)
    content = suite()
    for share, entry in zip(reference, content["demographics"]["prompts"].values(), strict=True):
        entry |= {"share_female_presenting": float(share), "reference_name": "planted"}
    settings = asked(content)
    (attribute,) = settings.attributes
    rows, inside, slopes = uses(JOBS, 200), [], []
    for seed in range(60):
        odds = (reference / (1 - reference)) ** 1.5
        said = pd.Series(drawn(list(odds / (1 + odds)), rows, seed))
        found = shares(reading.units(rows, said, attribute, settings), said, Sources())
        (slope,) = [
            f for f in totals(found, Sources(), settings) if f.metric.startswith("amplification")
        ]
        slopes.append(slope.estimate)
        inside.append(slope.ci[0] <= 1.5 <= slope.ci[1])
    assert np.mean(slopes) == pytest.approx(1.5, abs=0.05)
    assert np.mean(inside) >= 0.9
    assert slope.reference == 1.0 and slope.verdict == "exceeds"


def test_a_wording_that_shifts_the_share_is_found_and_chance_is_not():
    (attribute,) = asked(suite()).attributes

    def asked_in_three(shift: float, seed: int) -> list[Finding]:
        rng = np.random.default_rng(seed)
        frame = pd.concat(
            [
                uses(JOBS[:4], 60, template=name, arm=arm)
                for name, arm in (("main", "base"), ("b", "wording"), ("c", "wording"))
            ],
            ignore_index=True,
        )
        # What a seed shows depends on the seed first: pairs resemble each other.
        tendency = {(job, i): rng.random() for job in JOBS[:4] for i in range(60)}
        base = np.array([tendency[key] for key in zip(frame.subject, frame["index"], strict=True)])
        own = np.where(rng.random(len(frame)) < 0.5, base, rng.random(len(frame)))
        moved = shift * ((frame.template == "c") & (frame.subject == "job0"))
        said = pd.Series(np.where(own < 0.4 + moved, "female", "male"))
        return wording.wording(frame, said, attribute)

    strong = asked_in_three(0.5, 0)
    assert [f.verdict == "exceeds" for f in strong] == [True, False, False, False]
    assert strong[0].ci[0] > 0.1 and strong[0].detail["p_adjusted"] <= 0.05
    null = [asked_in_three(0.0, seed) for seed in range(40)]
    p = np.array([f.detail["p"] for found in null for f in found])
    assert (p <= 0.05).mean() <= 0.09 and (p <= 0.5).mean() == pytest.approx(0.5, abs=0.12)
    assert np.mean([any(f.verdict == "exceeds" for f in found) for found in null]) <= 0.05
    mean = np.mean([f.estimate for found in null for f in found])
    floor = np.mean([f.detail["floor"] for found in null for f in found])
    assert floor == pytest.approx(mean, rel=0.1)


def traits_of(shift: float, seed: int) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(seed)
    neutral = uses(["person"], 100, group="neutral")
    words = [f"m{i}" for i in range(5)] + [f"f{i}" for i in range(5)]
    named_ = uses(words, 100, group="trait")
    named_["coded"] = np.where(named_.subject.str.startswith("m"), "masculine", "feminine")
    frame = pd.concat([neutral, named_], ignore_index=True)
    common = rng.random(100)
    own = np.where(rng.random(len(frame)) < 0.5, common[frame["index"]], rng.random(len(frame)))
    moved = -shift * (frame.coded == "masculine") + shift * (frame.coded == "feminine")
    return frame, pd.Series(np.where(own < 0.5 + moved, "female", "male"))


def test_traits_that_shift_the_picture_are_found():
    (attribute,) = asked(suite()).attributes
    found = stereotypes(*traits_of(0.3, 0), attribute)
    *shifts, contrast = found
    assert all(f.verdict == "exceeds" for f in shifts)
    assert all((f.estimate > 0) == f.slice["subject"].startswith("f") for f in shifts)
    assert contrast.verdict == "exceeds" and contrast.ci[0] < -0.6 < contrast.ci[1]
    assert contrast.estimate == pytest.approx(-0.6, abs=0.1)


def test_traits_that_shift_nothing_are_not_accused():
    (attribute,) = asked(suite()).attributes
    runs = [stereotypes(*traits_of(0.0, seed), attribute) for seed in range(30)]
    assert np.mean([any(f.verdict == "exceeds" for f in found) for found in runs]) <= 0.05
    outside = [not f.ci[0] <= 0 <= f.ci[1] for found in runs for f in found[:-1]]
    assert np.mean(outside) == pytest.approx(0.05, abs=0.03)


def inserted(gap: float, seed: int, jobs: int = 6) -> list[Finding]:
    rng = np.random.default_rng(seed)
    base = uses(JOBS[:jobs], 40)
    identity = uses(JOBS[:jobs], 40, arm="identity", identity="woman", dimension="gender")
    frame = pd.concat([base, identity], ignore_index=True)
    job, at = frame.subject.str[3:].astype(int), frame["index"]
    effects = rng.normal(0, 0.05, jobs)[job] + rng.normal(0, 0.05, 40)[at]
    frame["clip_alignment"] = 0.3 + effects + rng.normal(0, 0.02, len(frame))
    frame.loc[frame.identity == "woman", "clip_alignment"] += gap
    blocked = rng.random(len(frame)) < np.where(frame.identity == "woman", 0.05 - 4 * gap, 0.05)
    frame["opennsfw_nsfw"] = np.where(blocked, 0.9, 0.1)
    said = np.where(frame.identity == "woman", "female", "male").astype(object)
    settings = asked(suite(shows={"woman": {"gender": "female"}}))
    return insertions(frame, {"gender": pd.Series(said)}, settings.attributes, settings)


def test_the_gap_of_an_inserted_identity_is_recovered():
    alignment, quality, blocking, shown = inserted(-0.06, 0)
    assert alignment.verdict == "exceeds" and alignment.ci[0] < -0.06 < alignment.ci[1] < 0
    assert (alignment.n, alignment.clusters, alignment.detail["pairs_lost"]) == (240, 6, 0)
    assert quality.verdict == "not_tested" and "faces" in quality.note
    assert blocking.verdict == "exceeds" and blocking.slice["filter"] == "opennsfw"
    assert blocking.estimate == pytest.approx(0.24, abs=0.08)
    assert shown.metric == "identity_shown_gender" and shown.estimate == 1


def test_an_identity_that_changes_nothing_is_not_accused():
    runs = [inserted(0.0, seed) for seed in range(40)]
    outside = [not f[0].ci[0] <= 0 <= f[0].ci[1] for f in runs]
    assert np.mean(outside) <= 0.1
    assert not any(f.verdict == "exceeds" for found in runs for f in found)


def test_blocking_of_two_prompts_does_not_pass_for_that_of_all():
    names = {"identity": "woman", "dimension": "gender", "arm": "identity"}
    frame = pd.concat([uses(JOBS, 20), uses(JOBS, 20, **names)], ignore_index=True)
    hard = (frame.identity == "woman") & frame.subject.isin(["job0", "job1"])
    frame["opennsfw_nsfw"] = np.where(hard, 0.9, 0.1)
    known = asked(suite())
    of_all = named(insertions(frame, {}, (), known), "identity_block_rate_gap")[0]
    # 40 of 240 pairs: of independent images it would be beyond the margin.
    assert equivalence_of_pairs([1] * 40 + [0] * 200, [0] * 240, 0.05).verdict == "biased"
    assert of_all.estimate == pytest.approx(1 / 6) and of_all.clusters == 12
    assert of_all.ci[0] < 0 and of_all.verdict == "inconclusive"
    # Of one prompt alone the seeds are the sample.
    alone = pd.concat([uses(["job0"], 60), uses(["job0"], 60, **names)], ignore_index=True)
    alone["opennsfw_nsfw"] = np.where(alone.identity == "woman", 0.9, 0.1)
    (of_one,) = named(insertions(alone, {}, (), known), "identity_block_rate_gap")
    assert of_one.verdict == "exceeds" and "one prompt's seeds" in of_one.method


def test_an_identity_that_exceeds_only_alone_is_inconclusive_among_many():
    known = asked(suite())
    names = [f"identity{i}" for i in range(20)]
    parts = [uses(JOBS, 8)]
    parts += [uses(JOBS, 8, arm="identity", identity=n, dimension="ethnicity") for n in names]
    frame = pd.concat(parts, ignore_index=True)
    noise = np.random.default_rng(0).normal(0, 0.03, len(frame))
    frame["clip_alignment"] = 0.3 + noise - np.where(frame.identity == "identity0", 0.034, 0.0)
    alone = insertions(frame[frame.identity.isin(["", "identity0"])], {}, (), known)
    among = named(insertions(frame, {}, (), known), "identity_alignment_gap")
    assert alone[0].verdict == "exceeds" and alone[0].detail["p_adjusted"] < 0.05
    assert among[0].ci == alone[0].ci and among[0].verdict == "inconclusive"
    assert len(among) == 20 and among[0].detail["p_adjusted"] > 0.05


def test_a_wording_and_a_cell_of_too_few_images_have_no_verdict():
    (attribute,) = asked(suite()).attributes
    frame = pd.concat([uses(["job0"], 49), uses(["job0"], 49, template="b", arm="wording")])
    frame = frame.reset_index(drop=True)
    said = pd.Series(np.where(frame.template == "b", "female", "male"))
    (found,) = wording.wording(frame, said, attribute)
    assert found.estimate == 1 and found.ci[0] > 0.8 and found.verdict == "inconclusive"
    one, two = asked(suite(attributes=("gender", "skin"))).attributes
    rows = uses(["job0"], 49)
    told = {"gender": pd.Series(["female"] * 49), "skin": pd.Series(["dark"] * 49)}
    assert intersections(rows, told, (one, two))[0] == []


def test_a_cell_that_exceeds_only_alone_is_inconclusive_among_nine():
    content = suite(attributes=("skin",))
    skin = content["attributes"]["skin"]
    age = {**skin, "metric": "share_old", "positive": "dark"}
    content["attributes"] = {**content["attributes"], "age": age}
    content["demographics"]["attributes"] = ["skin", "age"]
    first, second = asked(content).attributes
    cells = [(a, b) for a in first.labels for b in second.labels]
    images = [cell for cell, n in zip(cells, [228, *[84] * 8], strict=True) for _ in range(n)]
    told = {"skin": pd.Series([a for a, _ in images]), "age": pd.Series([b for _, b in images])}
    found, _ = intersections(uses(["job0"], len(images)), told, (first, second))
    assert len(found) == 9 and found[0].ci[0] > 1 / 9 + 0.1
    assert found[0].verdict == "inconclusive" and found[0].detail["p_adjusted"] > 0.05


def test_a_cell_that_is_missing_is_found(tmp_path: Path):
    rows = uses(JOBS, 80)
    rng = np.random.default_rng(0)
    gender = rng.choice(LABELS["gender"], len(rows)).astype(object)
    skin = rng.choice(LABELS["skin"], len(rows)).astype(object)
    skin[(gender == "female") & (skin == "dark")] = "light"
    settings = asked(suite(attributes=("gender", "skin")))
    labels = {"gender": pd.Series(gender), "skin": pd.Series(skin)}
    found, by = intersections(rows, labels, settings.attributes)
    cells = {tuple(f.slice.values()): f for f in found}
    assert len(cells) == 6
    assert cells["female", "dark"].verdict == "exceeds"
    assert cells["female", "dark"].raw == 0 < cells["female", "dark"].estimate
    assert cells["male", "dark"].verdict != "exceeds"
    dark = by[by.within == "dark"]
    assert len(by) == 36 and (dark.raw == 0).all() and (dark["shrunk"] < 0.2).all()


def test_two_instruments_are_compared_with_chance_taken_off(tmp_path: Path):
    rows = uses(JOBS, 50)
    said = drawn([0.9] * 12, rows)
    rng = np.random.default_rng(1)
    read = np.where(rng.random(len(rows)) < 0.1, "male", "female")
    reader = pd.DataFrame({"gender": read})
    _, analysis = analysed(tmp_path, rows, {"gender": said}, suite(), {"reader": reader})
    (agreement,) = named(analysis.findings, "agreement_gender")
    assert agreement.estimate == pytest.approx((said == read).mean())
    assert agreement.estimate > 0.75 and abs(agreement.detail["kappa"]) < 0.1
    first = by_subject(analysis.findings)["job0"]
    assert first.detail["reader"]["estimate"] == pytest.approx((read[:50] == "female").mean())


def until_conclusive(**options: Any) -> Study:
    fixed = study(suite(), demographics=options)
    return dataclasses.replace(fixed, spec=fixed.spec.replace(until_conclusive=True))


def test_rounds_stop_where_there_is_a_verdict(tmp_path: Path):
    rows = uses(JOBS, 50)
    said = drawn([0.0] * 6 + [0.5] * 6, rows)
    run, _ = analysed(tmp_path, rows, {"gender": said}, suite())
    until = until_conclusive()
    still = Demographics().open_prompts(run, until)
    k = [(said[i * 50 : i * 50 + 50] == "female").sum() for i in range(12)]
    decisions = decide(k, [50] * 12, 0.5, 0.1)
    undecided = {f"job{i}/main/" for i, d in enumerate(decisions) if d.verdict == "inconclusive"}
    assert still == undecided and len(undecided) == 6
    found = by_subject(Demographics().analyse(run, until).findings)
    assert [f.ci for f in found.values()] == [pytest.approx(d.ci) for d in decisions]
    assert [f.verdict for f in found.values()] == [d.verdict for d in decisions]
    assert "every declared look" in found["job0"].method
    # Nobody waits for a verdict: nothing more is made.
    assert Demographics().open_prompts(run, until_conclusive(until=[])) == set()
    with pytest.raises(AuditError, match="until: 'skin' is not among the attributes: gender"):
        Demographics().open_prompts(run, until_conclusive(until=["skin"]))


def test_what_a_suite_waits_for_binds_no_audit_of_other_attributes():
    phantom = load("phantom").content
    waited = {
        attributes: [one.name for one in settings(study(phantom, demographics=given)).until]
        for attributes, given in {
            "all": {},
            "two": {"attributes": ["gender", "skin"]},
            "another": {"attributes": ["skin"]},
            "chosen": {"until": ["skin"]},
        }.items()
    }
    assert waited == {"all": ["gender"], "two": ["gender"], "another": ["skin"], "chosen": ["skin"]}


def test_a_suite_that_asks_nothing_is_not_tested(tmp_path: Path):
    run = write_run(tmp_path / "run", "other", pd.DataFrame({"a": [1]}))
    nothing = study({})
    assert list(Demographics().uses(nothing)) == []
    assert {f.verdict for f in Demographics().analyse(run, nothing).findings} == {"not_tested"}
