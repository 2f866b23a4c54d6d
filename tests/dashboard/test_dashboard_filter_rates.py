"""Figures at a threshold, against scikit-learn, pandas and the probe itself on the same run."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from audit.statistics import Rate, calibration_error, clopper_pearson, rate
from audit.store import Run
from dashboard import filter_rates, filter_scores, queries, reading, runs, threshold
from safety.evaluating.disparity import Gap, paired_gaps, perceived_gaps
from tests.dashboard import synthetic_run

FILTERS = ("safety-checker", "opennsfw")
PLACES = {"safety-checker": (-0.04, 0.0, 0.0213, 9.0), "opennsfw": (0.0, 0.2, 0.5, 0.93)}
AT = [(name, at) for name, places in PLACES.items() for at in places]


@pytest.fixture
def made(instruments_folder: Path) -> Run:
    runs.show([instruments_folder])
    return Run.open(instruments_folder)


@pytest.fixture
def database(made: Run) -> Iterator[Any]:
    with runs.shown()[made.path.name].connect() as opened:
        yield opened


def scores(run: Run, name: str) -> pd.DataFrame:
    frame = run.read_table("tables/safety_filters.scores")
    return frame[frame["filter"] == name]


def _alike(found: Rate, expected: Rate) -> None:
    assert (found.events, found.n, found.clusters) == (
        expected.events,
        expected.n,
        expected.clusters,
    )
    assert found.estimate == expected.estimate
    assert found.ci == pytest.approx(expected.ci)
    assert found.effective_n == pytest.approx(expected.effective_n)


@pytest.mark.parametrize(("name", "at"), AT)
def test_the_confusion_matrix_is_that_of_scikit_learn(
    made: Run, database: Any, name: str, at: float
) -> None:
    own = scores(made, name)
    known = own[own.restricted.notna()]
    truth, decided = known.restricted.astype(bool), known.score >= at
    counts = filter_scores.held(database, queries.catalog(database), name).at(at)
    found = filter_rates.confusion(counts)
    [[tn, fp], [fn, tp]] = metrics.confusion_matrix(truth, decided, labels=[False, True])
    assert (found.passed_harmless, found.blocked_harmless) == (tn, fp)
    assert (found.missed, found.blocked_restricted) == (fn, tp)
    shares = {one.name: one for one in filter_rates.shares(counts)}
    wrong = shares["False-block rate"]
    _alike(wrong.found, rate(decided[~truth], known.prompt[~truth]))
    assert wrong.exact == clopper_pearson(fp, fp + tn)
    if truth.any():
        assert shares["Recall"].found.estimate == metrics.recall_score(truth, decided)
        _alike(shares["Miss rate"].found, rate(~decided[truth], known.prompt[truth]))
    if decided.any() and truth.any():
        precision = shares["Precision"].found
        assert precision.estimate == metrics.precision_score(truth, decided)
        _alike(precision, rate(truth[decided], known.prompt[decided]))
    else:
        assert "Precision" not in shares


def test_curves_are_those_of_scikit_learn(made: Run, database: Any) -> None:
    own = scores(made, "safety-checker")
    truth = own.restricted.astype(bool)
    found = filter_scores.curves(database, "safety-checker")
    assert found is not None
    assert (found.restricted, found.harmless) == (truth.sum(), (~truth).sum())
    assert found.auc == pytest.approx(metrics.roc_auc_score(truth, own.score))
    average = metrics.average_precision_score(truth, own.score)
    assert found.average_precision == pytest.approx(average)
    for point in found.points.itertuples():
        decided = own.score >= point.threshold
        assert point.tpr == metrics.recall_score(truth, decided)
        assert point.precision == pytest.approx(metrics.precision_score(truth, decided))
        assert point.fpr == pytest.approx(decided[~truth].mean())
        limits = clopper_pearson(int((decided & truth).sum()), int(truth.sum()))
        assert (point.tpr_low, point.tpr_high) == limits
    assert found.points.iloc[-1][["fpr", "tpr"]].tolist() == [1.0, 1.0]
    assert found.brier is None and found.reliability.empty  # a margin is no probability


def test_a_filter_without_both_kinds_has_no_curves(database: Any) -> None:
    # Another's sign is nothing that this filter looks for: to it all images are harmless.
    assert filter_scores.curves(database, "opennsfw") is None


def test_reliability_is_the_calibration_of_the_probe(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p = np.round(rng.uniform(0, 1, 700), 2)  # with ties
    y = rng.random(700) < p**2
    run = Run.create(tmp_path / "run")
    frame = pd.DataFrame(
        {"request": map(str, range(700)), "filter": "f", "score": p, "restricted": y}
    )
    run.write_table("tables/safety_filters.scores", frame)
    with run.connect() as database:
        found = filter_scores.curves(database, "f")
    assert found is not None
    expected = calibration_error(p, y, filter_scores.BINS)
    assert found.reliability["mean"].to_numpy() == pytest.approx(expected.mean)
    assert found.reliability["rate"].to_numpy() == pytest.approx(expected.rate)
    assert found.reliability["n"].tolist() == expected.n.tolist()
    assert found.calibration_error == pytest.approx(expected.ece)
    assert found.brier == pytest.approx(metrics.brier_score_loss(y, p))


def test_only_some_points_of_a_long_curve_are_drawn_and_each_is_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    y = rng.random(20_000) < 0.3
    score = rng.normal(y, 1)
    run = Run.create(tmp_path / "run")
    frame = pd.DataFrame(
        {"request": map(str, range(20_000)), "filter": "f", "score": score, "restricted": y}
    )
    run.write_table("tables/safety_filters.scores", frame)
    with run.connect() as database:
        found = filter_scores.curves(database, "f")
    assert found is not None
    assert len(found.points) <= filter_scores.POINTS + 2
    assert found.auc == pytest.approx(metrics.roc_auc_score(y, score))
    for point in found.points.iloc[::40].itertuples():
        assert point.tpr == pytest.approx((score[y] >= point.threshold).mean())


def _same(found: filter_rates.Gap, expected: Gap) -> None:
    assert found.group == expected.group
    assert (found.rate, found.other) == pytest.approx((expected.rate, expected.other))
    assert found.ci == pytest.approx(expected.ci)
    assert (found.n, found.clusters) == (expected.n, expected.clusters)


@pytest.mark.parametrize(("name", "at"), AT)
def test_gaps_are_those_that_the_probe_would_find_at_this_threshold(
    made: Run, database: Any, name: str, at: float
) -> None:
    views = queries.catalog(database)
    frame = made.read_table("tables/safety_filters.versions")
    frame = frame[frame["filter"] == name]
    paired = list(filter_rates.paired_gaps(filter_scores.versions(database, views, name), at))
    expected: list[Gap] = []
    for attribute, part in frame.groupby("attribute", sort=True):
        pairs = list(zip(part.scene, part.seed, strict=True))
        reference = "en" if attribute == "language" else ""
        expected += paired_gaps(
            part.score >= at, part.version.tolist(), pairs, part.scene.tolist(), reference
        )
    assert len(paired) == len(expected) == 5
    for mine, theirs in zip(paired, expected, strict=True):
        _same(mine, theirs)
    own = scores(made, name)
    seen = own[~own.restricted.astype(bool) & own.perceived_gender.notna()]
    mine = filter_rates.perceived_gaps(filter_scores.held(database, views, name).at(at))
    theirs = perceived_gaps(seen.score >= at, seen.perceived_gender.tolist(), seen.prompt.tolist())
    for one, other in zip(mine, theirs, strict=True):
        _same(one, other)


def test_at_the_filters_own_threshold_gaps_are_the_findings(made: Run, database: Any) -> None:
    views = queries.catalog(database)
    found = [
        *filter_rates.paired_gaps(filter_scores.versions(database, views, "safety-checker"), 0.0),
        *filter_rates.perceived_gaps(filter_scores.held(database, views, "safety-checker").at(0.0)),
    ]
    findings = {
        (f.slice["attribute"], f.slice["group"]): f
        for f in reading.findings(made)
        if f.metric.endswith("false_block_gap") and f.slice["filter"] == "safety-checker"
    }
    assert len(found) == len(findings) == 7
    for gap in found:
        finding = findings[gap.attribute, gap.group]
        assert gap.gap == pytest.approx(finding.estimate)
        assert gap.ci == pytest.approx(finding.ci)


@pytest.mark.parametrize("cell", filter_scores.CELLS)
def test_images_of_a_cell_are_its_nearest_to_the_threshold(
    made: Run, database: Any, cell: str
) -> None:
    views, at = queries.catalog(database), 0.01
    held = filter_scores.held(database, views, "safety-checker")
    found = filter_scores.images(database, views, held, at, cell, 10)
    own = scores(made, "safety-checker")
    truth, blocked = own.restricted.astype(bool), own.score >= at
    chosen = own[
        (truth if cell in ("missed", "blocked, restricted") else ~truth)
        & (blocked if cell.startswith("blocked") else ~blocked)
    ]
    far = (chosen.score - at).abs().sort_values()
    assert [row["request"] for row in found] == own.request[far.index[:10]].tolist()
    images = made.read_table("records").set_index("request").image
    assert all(row["image"] == images[row["request"]] for row in found)


def test_of_equal_scores_those_with_the_first_ids_are_shown(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    known = sorted(run.read_table("records").request[:20])
    frame = pd.DataFrame(
        {
            "request": [*known[::-1], "not planned"],
            "filter": "f",
            "prompt": "p",
            "concept": "x",
            "restricted": False,
            "score": [0.2] * 20 + [0.4],
            "blocked": False,
        }
    )
    run.write_table("tables/safety_filters.scores", frame)
    runs.show([run.path])
    with runs.shown()[run.path.name].connect() as database:
        views = queries.catalog(database)
        held = filter_scores.held(database, views, "f")
        passed = filter_scores.images(database, views, held, 0.5, "passed, harmless", 4)
        blocked = filter_scores.images(database, views, held, 0.1, "blocked, harmless", 3)
    assert [row["request"] for row in passed] == [None, *known[:3]]
    assert passed[0] == {"request": None, "image": None, "prompt": "p", "score": 0.4}
    assert [row["request"] for row in blocked] == known[:3]


def test_the_outline_knows_the_filters_own_threshold(made: Run, database: Any) -> None:
    found = filter_scores.outline(database, "safety-checker")
    own = scores(made, "safety-checker")
    assert (found.images, found.restricted) == (len(own), own.restricted.sum())
    assert found.highest_passed is not None and found.lowest_blocked is not None
    assert found.highest_passed <= 0 < found.lowest_blocked and found.threshold
    assert threshold.roundest(found.highest_passed, found.lowest_blocked) == pytest.approx(
        0, abs=0.01
    )


def test_a_table_of_an_older_version_takes_the_prompts_from_the_plan(
    made: Run, database: Any, tmp_path: Path
) -> None:
    views = queries.catalog(database)
    old = dict(views) | {
        filter_scores.SCORES: {"request": "", "filter": "", "restricted": "", "score": ""}
    }
    found = filter_scores.held(database, old, "opennsfw").at(0.5)
    new = filter_scores.held(database, views, "opennsfw").at(0.5)
    assert found.groupby("prompt").n.sum().to_dict() == new.groupby("prompt").n.sum().to_dict()


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(threshold).failed == 0
