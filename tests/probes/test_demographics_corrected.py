"""A detector's error is taken out, and its uncertainty is in the interval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.special import stdtrit

from audit.commands.detector_error import detector_error
from audit.detector_error import Confusion, DetectorError, tabulate
from audit.errors import AuditError
from audit.evidence import table
from audit.perception import perceived
from audit.statistics import amplification_slope
from audit.store import Run
from probes.bias import reading
from probes.bias.correction import Sources, shares
from probes.bias.totals import totals
from probes.demographics import Demographics
from tests.probes.tables import LABELS, analysed, asked, suite, uses
from tests.synthetic import study

JOBS = [f"job{i}" for i in range(12)]


class World:
    """Shares and a classifier whose errors differ between prompts, drawn anew for each seed."""

    def __init__(self, seed: int, jobs: list[str] = JOBS) -> None:
        self.rng = np.random.default_rng(seed)
        self.jobs = jobs
        self.share = self.rng.uniform(0.05, 0.95, len(jobs))
        self.se = self.rng.beta(0.85 * 40, 0.15 * 40, len(jobs))
        self.sp = self.rng.beta(0.95 * 40, 0.05 * 40, len(jobs))

    def images(self, n: int) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
        """The table, the truth, and what the classifier says; 2% undetermined."""
        rows = uses(self.jobs, n)
        at = rows.subject.map({job: i for i, job in enumerate(self.jobs)}).to_numpy()
        female = self.rng.random(len(rows)) < self.share[at]
        right = self.rng.random(len(rows)) < np.where(female, self.se[at], self.sp[at])
        said = np.where(female == right, "female", "male").astype(object)
        said[self.rng.random(len(rows)) < 0.02] = "undetermined"
        return rows, pd.Series(np.where(female, "female", "male")), pd.Series(said)

    def calibrated(self, n: int) -> Confusion:
        rows, true, said = self.images(n)
        counts = tabulate(rows.subject, true, said, LABELS["gender"])
        return Confusion(LABELS["gender"], 0.005, {}, counts)


@pytest.fixture(scope="module")
def simulated() -> pd.DataFrame:
    """40 worlds of 12 prompts; 8 of them were labelled before, on other images.

    Each prompt's reference is its true share: the slope of amplification is 1.
    """
    parts = []
    for seed in range(40):
        world = World(seed)
        content = suite()
        for share, entry in zip(
            world.share, content["demographics"]["prompts"].values(), strict=True
        ):
            entry |= {"share_female_presenting": float(share), "reference_name": "the truth"}
        settings = asked(content)
        (attribute,) = settings.attributes
        labelled = World(seed, JOBS[:8])
        labelled.share, labelled.se, labelled.sp = world.share[:8], world.se[:8], world.sp[:8]
        sources = Sources(labelled.calibrated(45), "test")
        rows, _, said = world.images(60)
        units = reading.units(rows, said, attribute, settings)
        found, raw = shares(units, said, sources), shares(units, said, Sources())
        ends = np.array([[*found.interval(i), *raw.interval(i)] for i in range(12)])
        part = pd.DataFrame(ends, columns=["low", "high", "raw_low", "raw_high"])
        whole = {f.metric.partition("_")[0]: f for f in totals(found, sources, settings)}
        total, slope = whole["share"], whole["amplification"]
        parts.append(
            part.assign(
                world=seed,
                labelled=np.arange(12) < 8,
                truth=world.share,
                value=found.value,
                raw=found.raw,
                total=total.estimate,
                total_low=total.ci[0],
                total_high=total.ci[1],
                slope=slope.estimate,
                slope_low=slope.ci[0],
                slope_high=slope.ci[1],
                accused=slope.verdict == "exceeds",
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_the_raw_share_is_biased_and_the_corrected_one_covers(simulated: pd.DataFrame):
    known = simulated[simulated.labelled]
    assert len(known) >= 300
    assert 0.93 <= known.truth.between(known.low, known.high).mean() <= 0.98
    assert known.truth.between(known.raw_low, known.raw_high).mean() < 0.9
    assert abs((known.value - known.truth).mean()) < 0.015 < abs((known.raw - known.truth).mean())


def test_a_prompt_that_was_not_labelled_is_covered_too(simulated: pd.DataFrame):
    unknown = simulated[~simulated.labelled]
    assert 0.93 <= unknown.truth.between(unknown.low, unknown.high).mean() <= 1
    # It is known less well.
    known = simulated[simulated.labelled]
    assert (unknown.high - unknown.low).mean() > (known.high - known.low).mean()


def test_the_total_covers_the_mean_over_prompts(simulated: pd.DataFrame):
    worlds = simulated.groupby("world").agg(
        {"truth": "mean", "total_low": "first", "total_high": "first", "total": "first"}
    )
    assert worlds.truth.between(worlds.total_low, worlds.total_high).mean() >= 0.93
    assert abs((worlds.total - worlds.truth).mean()) < 0.015


def test_few_labels_do_not_pass_for_amplification(simulated: pd.DataFrame):
    worlds = simulated.groupby("world").first()
    assert worlds.slope.mean() == pytest.approx(1, abs=0.07)
    assert (worlds.slope_low <= 1).mean() >= 0.9 and worlds.accused.mean() <= 0.05
    # As if each corrected share were counted on all of its 60 images:
    counted = [
        amplification_slope(own.value.clip(0, 1) * 60, np.full(12, 60), own.truth).slope
        for _, own in simulated.groupby("world")
    ]
    assert np.mean(counted) > 1.1


def test_more_labels_than_two_are_corrected_by_their_matrix():
    labels, rng = LABELS["skin"], np.random.default_rng(0)
    confusion = np.array([[0.85, 0.13, 0.02], [0.12, 0.8, 0.08], [0.01, 0.15, 0.84]])
    settings = asked(suite(attributes=("skin",)))
    (attribute,) = settings.attributes
    inside, bias, raw_bias = [], [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        truth = rng.dirichlet([1, 1, 1], len(JOBS))

        def read(n: int, truth: np.ndarray = truth, rng: np.random.Generator = rng):
            rows = uses(JOBS, n)
            true = np.concatenate([rng.choice(3, n, p=p) for p in truth])
            said = (rng.random(len(true))[:, None] > confusion[true].cumsum(axis=1)).sum(axis=1)
            names = np.array(labels, dtype=object)
            return rows, pd.Series(names[true]), pd.Series(names[said.clip(0, 2)])

        rows, true, said = read(60)
        error = Confusion(labels, 0.005, {}, tabulate(rows.subject, true, said, labels))
        rows, _, said = read(100)
        found = shares(reading.units(rows, said, attribute, settings), said, Sources(error, "test"))
        ends = np.array([found.interval(i) for i in range(len(JOBS))])
        inside += list((ends[:, 0] <= truth[:, 2]) & (truth[:, 2] <= ends[:, 1]))
        bias += list(found.value - truth[:, 2])
        raw_bias += list(np.abs(found.raw - truth[:, 2]) - np.abs(found.value - truth[:, 2]))
    assert 0.9 <= np.mean(inside) <= 0.99
    assert abs(np.mean(bias)) < 0.015
    assert np.mean(raw_bias) > 0  # nearer to the truth than the raw share


def test_what_is_hardly_ever_or_nearly_always_shown_is_covered_and_never_known_for_sure():
    settings = asked(suite())
    (attribute,) = settings.attributes
    inside, widths = [], []
    for seed in range(30):
        world = World(seed)
        world.share = np.tile([0, 0.02, 0.05, 0.95, 0.98, 1], 2)
        sources = Sources(world.calibrated(45), "test")
        rows, _, said = world.images(50)
        found = shares(reading.units(rows, said, attribute, settings), said, sources)
        low, high = np.array([found.interval(i) for i in range(12)]).T
        inside += list((low <= world.share) & (world.share <= high))
        widths += list(high - low)
    assert 0.93 <= np.mean(inside) <= 0.99
    assert min(widths) > 0.03  # of 50 images


def test_totals_of_more_labels_than_two_carry_the_calibration_s_error():
    labels = LABELS["skin"]
    settings = asked(suite(attributes=("skin",)))
    (attribute,) = settings.attributes
    called = np.array([[8, 2, 0, 0], [1, 7, 2, 0], [0, 2, 8, 0]], dtype=float)
    error = Confusion(labels, 0.005, {}, dict.fromkeys(JOBS, called))
    # Every prompt shows the same: all that is not known is how often the instrument is wrong.
    said = pd.Series(
        [x for _ in JOBS for x, n in zip(labels, (40, 35, 25), strict=True) for _ in range(n)]
    )
    sources = Sources(error, "test")
    found = shares(reading.units(uses(JOBS, 100), said, attribute, settings), said, sources)
    share, deviation, *_ = totals(found, sources, settings)
    rng = np.random.default_rng(0)
    again = np.stack([rng.multinomial(120, row[:3] / 10, 4000) / 120 for row in called], axis=1)
    spread = (np.array([0.4, 0.35, 0.25]) @ np.linalg.inv(again))[:, 2].std()
    for total in (share, deviation):
        half = (total.ci[1] - total.ci[0]) / 2
        assert half == pytest.approx(spread * stdtrit(11, 0.975), rel=0.15)
        assert "the calibration's error added" in total.method


@pytest.mark.parametrize(("accuracy", "how"), [(0.95, "score intervals"), (0.75, "PPI++")])
def test_people_s_labels_cover_and_are_narrower_than_labels_alone(accuracy: float, how: str):
    subjects = [f"job{i}" for i in range(500)]
    settings, rows = asked(suite(1)), uses(subjects, 400)
    (attribute,) = settings.attributes
    rng = np.random.default_rng(0)
    true = np.where(rng.random(len(rows)) < 0.4, "female", "male").astype(object)
    wrong = np.where(true == "female", "male", "female")
    said = pd.Series(np.where(rng.random(len(rows)) < accuracy, true, wrong))
    given = pd.Series(np.where(rng.random(len(rows)) < 0.2, true, np.nan))
    found = shares(reading.units(rows, said, attribute, settings), said, Sources(truth=given))
    ends = np.array([found.interval(i) for i in range(len(subjects))])
    chosen = np.array([how in str(words) for words in found.corrected_for])
    assert chosen.mean() > 0.9
    covered = (ends[:, 0] <= 0.4) & (ends[:, 1] >= 0.4)
    assert 0.93 <= covered[chosen].mean() <= 0.98
    alone = 2 * 1.96 * (0.24 / given.notna().groupby(rows.subject).sum().mean()) ** 0.5
    assert np.diff(ends[chosen]).mean() < alone


def test_few_labels_leave_the_share_to_the_detector_error():
    world = World(0)
    error = world.calibrated(40)
    rows, true, said = world.images(60)
    settings = asked(suite())
    (attribute,) = settings.attributes
    given = true.where((rows["index"] < 19) | ((rows.subject == "job0") & (rows["index"] < 20)))
    found = shares(
        reading.units(rows, said, attribute, settings), said, Sources(error, "E", given, "L")
    )
    assert "human labels" in found.corrected_for[0]
    assert set(found.corrected_for[1:]) == {"detector error (E)"}


# ---- the file and its command -----------------------------------------------------------------


def audited(path: Path, seed: int = 0, n: int = 60) -> tuple[Run, World]:
    """A run with CLIP's scores and a reader that is always right."""
    world = World(seed)
    rows, true, said = world.images(n)
    reader = pd.DataFrame({"gender": true})
    run, _ = analysed(path, rows, {"gender": said}, suite(), {"reader": reader})
    run.write_json("detectors.json", {"clip": {"model": "tiny", "weights": {"a": "b"}}})
    content = {"model": "planted", "spec": {"suite": str(path / "suite.yaml"), "seed": 0}}
    run.write_json("run.json", {**run.info, **content, "suite": "suite"})
    (path / "suite.yaml").write_text(json.dumps(suite()))
    return run, world


def call(*arguments: object) -> str:
    found = CliRunner().invoke(
        detector_error, [str(part) for part in arguments], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    return found.output


def test_the_command_writes_what_the_analysis_takes(tmp_path: Path):
    first, _ = audited(tmp_path / "first", n=40)
    said = call(first.path, "--truth", "reader", "--out", tmp_path / "error.json")
    assert "gender, clip: of" in said
    known = DetectorError.load(tmp_path / "error.json")
    frame = table(first, "demographics")
    for job, counts in known.counts["gender"]["clip"].subjects.items():
        own = frame[frame.subject == job]
        labels = perceived(own, "gender", LABELS["gender"])
        assert counts.sum() == 40
        assert counts[0, 0] == ((labels == "female") & (own.reader_gender == "female")).sum()
    second, _ = audited(tmp_path / "second", n=60)
    options = {"detector_error": str(tmp_path / "error.json")}
    found = Demographics().analyse(second, study(suite(), demographics=options)).findings
    share = next(f for f in found if f.slice == {"subject": "job0"})
    assert share.corrected_for.startswith("detector error (CLIP against reader, 480 images of 12")
    assert share.raw is not None and share.estimate != share.raw
    assert "unknown" not in share.note


def test_a_file_of_another_instrument_is_refused(tmp_path: Path):
    run, _ = audited(tmp_path / "run")
    call(run.path, "--truth", "reader", "--out", tmp_path / "error.json")
    run.write_json("detectors.json", {"clip": {"model": "larger", "weights": {}}})
    options = {"detector_error": str(tmp_path / "error.json")}
    with pytest.raises(AuditError, match="another clip, or other texts for gender; measure again"):
        Demographics().analyse(run, study(suite(), demographics=options))
    run.write_json("detectors.json", {"clip": {"model": "tiny", "weights": {"a": "b"}}})
    options["undetermined"] = {"clip": 0.02}
    with pytest.raises(AuditError, match=r"the band 0.005, this analysis has 0.02"):
        Demographics().analyse(run, study(suite(), demographics=options))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"error.json:1: not valid JSON"),
        ("{}", "is no detector error file"),
        ('{"schema": 9}', "schema 9, this version reads 1"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "error.json").write_text(text)
    with pytest.raises(AuditError, match=message):
        DetectorError.load(tmp_path / "error.json")


def test_people_s_labels_are_a_truth_too(tmp_path: Path):
    run, _ = audited(tmp_path / "run")
    frame = table(run, "demographics")
    labels = frame[["request", "reader_gender"]].rename(columns={"reader_gender": "gender"})
    labels["author"] = "a"
    second = labels.assign(author="b")
    second.loc[:9, "gender"] = "male"
    pd.concat([labels, second]).to_csv(tmp_path / "labels.csv", index=False)
    said = call(run.path, "--truth", tmp_path / "labels.csv", "--out", tmp_path / "e.json")
    assert "gender: Krippendorff's α 0.9" in said
    about = DetectorError.load(tmp_path / "e.json").about
    assert about["truth"] == "labels.csv" and "2 raters" in about["agreement"]["gender"]
    options = {"labels": str(tmp_path / "labels.csv")}
    found = Demographics().analyse(run, study(suite(), demographics=options)).findings
    shown = [f for f in found if f.metric == "share_female_presenting" and f.slice]
    assert all(f.corrected_for.startswith("human labels") for f in shown)
    with pytest.raises(AuditError, match="no label of nobody belongs to an image"):
        call(run.path, "--truth", "nobody", "--out", tmp_path / "e.json")


def test_labels_on_which_people_disagree_correct_nothing(tmp_path: Path):
    run, _ = audited(tmp_path / "run")
    frame = table(run, "demographics")
    labels = frame[["request", "reader_gender"]].rename(columns={"reader_gender": "gender"})
    rng = np.random.default_rng(0)
    second = labels.assign(author="b", gender=rng.choice(LABELS["gender"], len(labels)))
    path = tmp_path / "labels.csv"
    pd.concat([labels.assign(author="a"), second]).to_csv(path, index=False)
    found = Demographics().analyse(run, study(suite(), demographics={"labels": str(path)})).findings
    shown = [f for f in found if f.metric == "share_female_presenting" and f.slice]
    assert all(f.corrected_for is None for f in shown)
    assert all("labels.csv are not used: Krippendorff's α" in f.note for f in shown)
    with pytest.raises(AuditError, match="do not agree enough to be a truth: gender: Krippend"):
        call(run.path, "--truth", path, "--out", tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()
