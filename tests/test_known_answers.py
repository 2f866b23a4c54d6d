"""The whole audit on models whose answers are known: the phantom, and its balanced twin."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit import engine
from audit.card import write
from audit.evidence import select, table
from audit.findings import Finding
from audit.phantom import truth
from audit.spec import Spec
from audit.store import Run
from audit.verify import problems


def audit(out: Path, **settings) -> Run:
    study, backend, probes = engine.prepare(Spec(**settings))
    return engine.run(study, backend, probes, out)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return audit(tmp_path_factory.mktemp("known") / "phantom", model="phantom")


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> Run:
    probes = {"demographics": {}, "languages": {}}
    return audit(tmp_path_factory.mktemp("known") / "null", model="null", probes=probes)


def found(run: Run, probe: str, metric: str) -> list[Finding]:
    findings = [f for f in engine.read_findings(run) if (f.probe, f.metric) == (probe, metric)]
    assert findings
    return findings


def planted(name: str = "phantom") -> dict:
    return truth(name)["planted"]["occupations"]


def test_every_strong_skew_is_found_in_its_direction(phantom: Run):
    for finding in found(phantom, "demographics", "share_female_presenting"):
        if not finding.slice:
            continue
        share = planted()[finding.slice["occupation"]]["female"]
        if abs(share - 0.5) >= 0.25:
            assert finding.verdict == "exceeds", finding
            assert (finding.estimate > 0.5) == (share > 0.5), finding


def test_clip_says_of_the_images_what_the_exact_reader_says(phantom: Run):
    # Its interval holds the sampling error alone: the detector's error comes on top.
    assert found(phantom, "demographics", "agreement_gender")[0].estimate > 0.9
    apart = [
        abs(finding.estimate - finding.detail["reader"]["estimate"])
        for finding in found(phantom, "demographics", "share_female_presenting")
        if finding.slice
    ]
    assert max(apart) <= 0.2
    assert sum(apart) / len(apart) <= 0.07


def test_shares_are_those_of_many_other_samples(phantom: Run):
    many = truth("phantom")["samples"]["demographics"]["3"]
    inside = []
    for finding in found(phantom, "demographics", "share_female_presenting"):
        if finding.slice:
            low, high = many[finding.slice["occupation"]]["female"]["ci95"]
            inside.append(finding.ci[0] <= high and low <= finding.ci[1])
    assert sum(inside) >= 0.8 * len(inside)


def test_the_attribute_balanced_on_purpose_is_not_accused(phantom: Run):
    verdicts = {f.verdict for f in found(phantom, "demographics", "share_glasses")}
    assert "exceeds" not in verdicts


def test_the_starved_language_is_worse_and_the_one_at_parity_is_not(phantom: Run):
    for metric in ("alignment_gap", "occupation_accuracy_gap"):
        gaps = {f.slice["language"]: f for f in found(phantom, "languages", metric)}
        assert gaps["sw"].verdict == "exceeds"
        assert gaps["sw"].ci[1] < 0
        assert gaps["tr"].verdict != "exceeds"


def test_what_was_repeated_comes_back_and_what_was_not_does_not(phantom: Run):
    rates = {f.slice["duplicates"]: f for f in found(phantom, "memorization", "copy_rate")}
    assert set(rates) == {0, 1, 3, 10, 30, 100, 300, 1000}
    assert rates[1000].estimate >= 0.95
    assert rates[300].estimate >= 0.9
    assert rates[0].estimate == rates[1].estimate == 0
    assert rates[0].verdict != "exceeds"
    assert found(phantom, "memorization", "detection_auc")[0].estimate > 0.8


def test_the_checker_errs_as_often_as_published(phantom: Run):
    for metric in ("miss_rate", "false_block_rate"):
        finding = next(
            f
            for f in found(phantom, "safety-filters", metric)
            if f.slice == {"filter": "safety-checker"}
        )
        assert finding.ci[0] <= 0.1
        assert finding.estimate <= 0.15
    areas = {f.slice["filter"]: f.estimate for f in found(phantom, "safety-filters", "auc")}
    assert areas["safety-checker"] > 0.95


def test_marks_are_found_where_they_were_set_and_nowhere_else(phantom: Run):
    for finding in found(phantom, "watermarks", "true_positive_rate"):
        assert finding.estimate > 0.5, finding
    for finding in found(phantom, "watermarks", "detection_rate"):
        assert finding.estimate == 0, finding
    jpeg = found(phantom, "watermarks", "true_positive_rate_jpeg90")
    assert max(f.estimate for f in jpeg) < 0.5  # dwtDct does not survive it


def test_the_null_phantom_is_accused_of_nothing(null: Run):
    accused = [f.id for f in engine.read_findings(null) if f.verdict == "exceeds"]
    assert accused == []


def test_every_finding_selects_its_own_images(phantom: Run):
    tables = {}
    for finding in engine.read_findings(phantom):
        if finding.estimate is None:
            continue
        rows = tables.setdefault(finding.probe, table(phantom, finding.probe))
        behind = select(rows, finding.evidence)
        assert len(behind) >= finding.n, finding.id


def test_the_run_verifies_and_its_card_is_written(phantom: Run):
    write(phantom)
    assert problems(phantom)[0] == []
    assert set(phantom.read_table("records").outcome) == {"ok"}
