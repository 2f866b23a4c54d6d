"""Where a language loses what was planted is where the probe finds it; parity is not accused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audit.evidence import Analysis, select, table
from audit.findings import Finding
from audit.statistics import benjamini_hochberg
from probes._language_gaps import Gap, Stage, gap, gaps
from probes.languages import Languages
from tests.synthetic import study, write_run

KEYS = [f"job{number}" for number in range(12)]
SUITE: dict[str, Any] = {
    "attributes": {
        "occupation": {"labels": {key: key for key in KEYS}},
        "gender": {
            "metric": "share_female_presenting",
            "positive": "female",
            "named": "female-presenting",
            "margin": 0.1,
            "labels": {"female": "a woman", "male": "a man"},
        },
    },
    "languages": {
        "margin": 0.02,
        "attribute": "occupation",
        "attributes": ["gender"],
        "languages": ["tr", "sw", "ru"],
    },
}
SCRIPTS = {"en": "Latin", "tr": "Latin", "sw": "Latin", "ru": "Cyrillic"}
SEEDS = 8


def asked(
    languages: tuple[str, ...] = ("tr", "sw"), arms: tuple[str, ...] = (), seeds: int = SEEDS
) -> pd.DataFrame:
    """The tags of every image: English, its arms, and the translations."""
    prompts = [("en", arm) for arm in ("english", *arms)]
    prompts += [(language, "translation") for language in languages]
    return pd.DataFrame(
        [
            {"key": key, "language": language, "arm": arm, "script": SCRIPTS[language],
             "gender": "none", "people": "one", "index": index, "prompt": f"{key} {language} {arm}"}
            for key in KEYS
            for language, arm in prompts
            for index in range(seeds)
        ]
    )  # fmt: skip


def name_of(rows: pd.DataFrame) -> pd.Series:
    return rows.language.where(~rows.arm.isin(["rewording"]), rows.arm)


def cosines(rows: pd.DataFrame, losses: dict[str, float], seed: int = 0) -> pd.Series:
    """Alignment with effects of prompt and seed that English and the others share."""
    rng = np.random.default_rng(seed)
    shared = {(key, index): rng.normal(0, 0.05) for key in KEYS for index in range(SEEDS)}
    noise = [shared[key, index] for key, index in zip(rows.key, rows["index"], strict=True)]
    planted = name_of(rows).map(losses).fillna(0.0)
    return 0.3 + np.array(noise) + planted + rng.normal(0, 0.02, len(rows))


def audit(path: Path, rows: pd.DataFrame, suite: dict[str, Any] | None = None, **columns: Any):
    """The probe on planted scores: the text encoder's, CLIP's and, where given, the faces."""
    names = ("clip", "clip_multilingual", "faces", "text_encoder")
    scores = {name: pd.DataFrame(index=rows.index) for name in names}
    for column, values in columns.items():
        if "__" in column:
            detector, _, name = column.partition("__")
            scores[detector][name] = values
    run = write_run(
        path,
        "languages",
        rows,
        {name.replace("_", "-"): frame for name, frame in scores.items() if len(frame.columns)},
        outcome=columns.get("outcome", ["ok"] * len(rows)),
    )
    analysis = Languages().analyse(run, study(suite or SUITE))
    return run, analysis


def of(analysis: Analysis, metric: str) -> dict[tuple[str, ...], Finding]:
    return {tuple(f.slice.values()): f for f in analysis.findings if f.metric == metric}


def test_a_planted_gap_is_found_in_size_and_the_language_at_parity_is_not(tmp_path: Path):
    rows = asked()
    _, analysis = audit(tmp_path / "run", rows, clip__alignment=cosines(rows, {"sw": -0.08}))
    found = of(analysis, "alignment_gap")
    assert found["sw",].verdict == "exceeds"
    assert found["sw",].ci[0] < -0.08 < found["sw",].ci[1] < 0
    assert found["tr",].verdict == "within"
    assert found["tr",].ci[1] - found["tr",].ci[0] < 0.03  # the pairs share their noise
    assert (found["sw",].n, found["sw",].clusters) == (96, 12)
    assert analysis.tables["alignment"].language.tolist() == ["tr", "sw"]


def test_the_interval_covers_the_planted_gap_in_most_samples():
    inside = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        prompts, seeds = np.repeat(np.arange(12), SEEDS), np.tile(np.arange(SEEDS), 12)
        # A language may fail by prompt and by seed, not image by image.
        loss = -0.05 + rng.normal(0, 0.03, 12)[prompts] + rng.normal(0, 0.02, SEEDS)[seeds]
        low, high = gap(loss + rng.normal(0, 0.02, 96), np.zeros(96), prompts, seeds).ci
        inside.append(low <= -0.05 <= high)
    assert np.mean(inside) >= 0.92


def planted_outcomes(rng: np.random.Generator, difference: float, base: float = 0.7):
    """0/1 outcomes with effects of prompt and seed on either side, and the true difference."""
    prompts, seeds = np.repeat(np.arange(12), SEEDS), np.tile(np.arange(SEEDS), 12)

    def outcomes(share: float) -> np.ndarray:
        lean = rng.normal(0, 1, 12)[prompts] + rng.normal(0, 0.5, SEEDS)[seeds]
        return rng.random(96) < 1 / (1 + np.exp(-(np.log(share / (1 - share)) + lean)))

    return outcomes(base + difference), outcomes(base), prompts, seeds


def test_of_outcomes_of_0_and_1_the_interval_covers_the_difference():
    truth = np.mean([
        np.mean(a) - np.mean(b)
        for a, b, *_ in (planted_outcomes(np.random.default_rng(s), -0.3) for s in range(3000))
    ])  # fmt: skip
    inside = []
    for seed in range(10_000, 10_300):
        a, b, prompts, seeds = planted_outcomes(np.random.default_rng(seed), -0.3)
        low, high = gap(a, b, prompts, seeds, binary=True).ci
        inside.append(low <= truth <= high)
    assert np.mean(inside) >= 0.93


def test_where_no_pair_differs_the_interval_still_has_a_width():
    same = np.ones(96)
    found = gap(same, same, np.repeat(np.arange(12), 8), np.tile(np.arange(8), 12), binary=True)
    assert found.estimate == 0 and found.ci[0] < -0.03 and found.ci[1] > 0.03
    assert found.p_beyond(0.05, "below") == pytest.approx(1, abs=0.99)


@pytest.mark.parametrize("binary", [False, True])
def test_a_p_value_is_below_5_percent_exactly_where_the_interval_is_beyond_the_margin(binary: bool):
    agreed = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        a, b, prompts, seeds = planted_outcomes(rng, -0.25)
        v = a.astype(float) if binary else a + rng.normal(0, 0.1, 96)
        found = gap(v, b, prompts, seeds, binary=binary)
        agreed.append((found.p_beyond(0.05, "below") < 0.05) == (found.ci[1] < -0.05))
        assert found.p_beyond(0.05, "above") > 0.05 or found.ci[0] > 0.05
    assert all(agreed)


def test_languages_at_parity_are_accused_at_most_as_often_as_said():
    # Margin 0, so that nothing but chance protects; five languages a time, none of them worse.
    prompts, seeds = np.repeat(np.arange(12), SEEDS), np.tile(np.arange(SEEDS), 12)
    alone, accused = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        english = rng.normal(0, 0.02, 96)
        found = []
        for _ in range(5):
            effects = rng.normal(0, 0.02, 12)[prompts] + rng.normal(0, 0.02, SEEDS)[seeds]
            found.append(gap(effects + rng.normal(0, 0.02, 96), english, prompts, seeds))
        adjusted = benjamini_hochberg([g.p_beyond(0.0, "below") for g in found])
        alone += [g.ci[1] < 0 for g in found]
        accused.append(bool(np.any(adjusted <= 0.05)))
    assert np.mean(alone) <= 0.04  # nominal: 2.5%, the side that counts
    assert np.mean(accused) <= 0.05


def test_the_family_is_adjusted_and_who_exceeds_only_alone_is_inconclusive():
    languages = [f"l{number}" for number in range(20)]
    rows = pd.DataFrame(
        [
            {"key": key, "language": language, "arm": "translation",
             "script": "Latin", "gender": "", "index": index, "outcome": "ok"}
            for key in KEYS for language in ["en", *languages] for index in range(8)
        ]
    )  # fmt: skip
    rows.loc[rows.language == "en", "arm"] = "english"
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.02, len(rows))
    stage = Stage("alignment_gap", 0.0, "below", "Cosine")

    def first(loss: float) -> Finding:
        found = gaps(stage, rows, noise - loss * (rows.language == "l0"))
        return next(f for f in found if f.slice == {"language": "l0"})

    # Just beyond by itself: move the language until its interval ends a hair below 0.
    at = first(0.02)
    slightly, clearly = first(0.02 + at.ci[1] + 1e-4), first(0.1)
    assert slightly.ci[1] < 0 and slightly.detail["family"] == 20
    assert slightly.detail["p_adjusted"] > 0.05 and slightly.verdict == "inconclusive"
    assert "Alone it would exceed" in slightly.note
    assert clearly.verdict == "exceeds"


def test_a_script_is_the_mean_of_its_languages(tmp_path: Path):
    rows = asked(("tr", "sw", "ru"))
    losses = {"tr": -0.01, "sw": -0.07, "ru": -0.2}
    _, analysis = audit(tmp_path / "run", rows, clip__alignment=cosines(rows, losses))
    found = of(analysis, "alignment_gap")
    languages = [found[language,].estimate for language in ("tr", "sw")]
    assert found["Latin",].estimate == pytest.approx(np.mean(languages))
    assert found["Latin",].n == 2 * 96 and found["Latin",].clusters == 12
    assert ("Cyrillic",) not in found  # a script of one language would say the same twice


def test_the_rewording_is_taken_off_what_a_language_loses(tmp_path: Path):
    rows = asked(arms=("rewording",))
    losses = {"sw": -0.08, "tr": -0.05, "rewording": -0.05}
    _, analysis = audit(tmp_path / "run", rows, clip__alignment=cosines(rows, losses))
    gaps, beyond = (of(analysis, f"alignment_gap{end}") for end in ("", "_beyond_rewording"))
    assert gaps["rewording",].ci[0] < -0.05 < gaps["rewording",].ci[1]
    assert gaps["tr",].verdict == "exceeds" and beyond["tr",].verdict == "within"
    assert beyond["sw",].ci[0] < -0.03 < beyond["sw",].ci[1] < 0
    difference = gaps["sw",].estimate - gaps["rewording",].estimate
    assert beyond["sw",].estimate == pytest.approx(difference)
    assert ("rewording",) not in beyond


def test_lost_pairs_are_counted_by_reason(tmp_path: Path):
    rows = asked(("tr",))
    outcome = pd.Series("ok", index=rows.index)
    turkish, english = rows.index[rows.language == "tr"], rows.index[rows.language == "en"]
    outcome[turkish[:3]] = "failed"
    outcome[turkish[8:13]] = "blocked"
    outcome[english[16:18]] = "blocked"
    alignment = cosines(rows, {}).where(outcome == "ok")
    alignment[turkish[90]] = np.nan
    columns: dict[str, Any] = {"clip__alignment": alignment, "outcome": outcome.tolist()}
    _, analysis = audit(tmp_path / "run", rows, **columns)
    finding = of(analysis, "alignment_gap")["tr",]
    assert finding.n == 96 - 11 and finding.detail["pairs_lost"] == 11
    assert finding.detail["outcomes"] == {
        "compared": 85, "blocked": 5, "english blocked": 2, "failed": 3, "undetermined": 1
    }  # fmt: skip


def test_too_few_pairs_never_give_a_verdict(tmp_path: Path):
    rows = asked(seeds=4)
    _, analysis = audit(tmp_path / "run", rows, clip__alignment=cosines(rows, {"sw": -0.3}))
    assert {f.n for f in of(analysis, "alignment_gap").values() if f.slice.get("language")} == {48}
    assert of(analysis, "alignment_gap")["sw",].verdict == "inconclusive"


def test_a_language_that_is_only_cut_is_found_at_that_stage_and_at_no_other(tmp_path: Path):
    rows = asked(("tr", "sw"), ("rewording",))
    swahili = rows.language == "sw"
    _, analysis = audit(
        tmp_path / "run",
        rows,
        clip__alignment=cosines(rows, {}),
        text_encoder__tokens=np.where(swahili, 90, 10),
        text_encoder__english_tokens=10,
        text_encoder__cut=np.where(swahili, 15, 0),
        text_encoder__drift=np.where(rows.arm == "english", 0.0, 0.1),
    )
    exceeding = {f.metric for f in analysis.findings if f.verdict == "exceeds"}
    assert exceeding == {"truncation_gap"}
    cut = of(analysis, "truncation_gap")
    assert (cut["sw",].estimate, cut["tr",].estimate) == (1.0, 0.0)
    assert cut["sw",].n == 12 and cut["sw",].ci[0] > 0.5
    assert of(analysis, "token_fertility")["sw",].estimate == 9
    assert of(analysis, "encoder_drift")["sw",].reference == pytest.approx(0.1)


def test_tokens_are_counted_by_prompt_with_an_interval_over_prompts(tmp_path: Path):
    rows = asked(("tr",))
    number = rows.key.str.removeprefix("job").astype(int)
    tokens = np.where(rows.language == "tr", 10 + 2 * number, 10 + number)
    _, analysis = audit(
        tmp_path / "run", rows, clip__alignment=0.3,
        text_encoder__tokens=tokens, text_encoder__english_tokens=10 + number,
        text_encoder__drift=np.where(rows.language == "tr", 0.02 * number, 0.0),
    )  # fmt: skip
    found = of(analysis, "token_fertility")["tr",]
    asked_tokens, english = 10 + 2 * np.arange(12), 10 + np.arange(12)
    assert found.estimate == pytest.approx(asked_tokens.sum() / english.sum())
    assert found.n == found.clusters == 12 and found.ci[0] < found.estimate < found.ci[1]
    # The interval of the linearised ratio, by resampling prompts.
    rng = np.random.default_rng(0)
    draws = [asked_tokens[i].sum() / english[i].sum() for i in rng.integers(0, 12, (4000, 12))]
    width = found.ci[1] - found.ci[0]
    assert width == pytest.approx(2 * 2.2 * np.std(draws), rel=0.15)
    drift = of(analysis, "encoder_drift")["tr",]
    assert drift.estimate == pytest.approx(0.02 * 5.5) and drift.reference is None


def recognised(rows: pd.DataFrame, right: np.ndarray) -> dict[str, np.ndarray]:
    scores = {f"clip__occupation_{key}": np.full(len(rows), 0.1) for key in KEYS}
    for key in KEYS:
        scores[f"clip__occupation_{key}"][(rows.key == key) & right] = 0.3
    scores["clip__occupation_job0"][~right] = 0.3
    return scores


def test_contents_that_are_not_recognised_are_found_as_such(tmp_path: Path):
    rows = asked()
    rng = np.random.default_rng(0)
    right = (rng.random(len(rows)) < np.where(rows.language == "sw", 0.3, 0.95)) | (
        rows.key == "job0"
    )
    scores = recognised(rows, right.to_numpy())
    _, analysis = audit(tmp_path / "run", rows, clip__alignment=0.3, **scores)
    found = of(analysis, "occupation_accuracy_gap")
    assert found["sw",].verdict == "exceeds"
    truth = right[rows.language == "sw"].mean() - right[rows.language == "en"].mean()
    assert found["sw",].estimate == pytest.approx(truth)
    assert found["tr",].verdict != "exceeds"


def test_images_without_a_face_are_counted_where_people_were_asked_for(tmp_path: Path):
    rows = asked()
    rows.loc[rows.key == "job11", "people"] = "none"
    rng = np.random.default_rng(0)
    share = rows.language.map({"en": 0.02, "tr": 0.02, "sw": 0.5})
    faces = (rng.random(len(rows)) >= share).astype(int)
    _, analysis = audit(tmp_path / "run", rows, clip__alignment=0.3, faces__count=faces)
    found = of(analysis, "no_person_gap")
    assert found["sw",].verdict == "exceeds" and found["sw",].n == 11 * 8
    assert found["tr",].verdict != "exceeds"


def test_a_face_detector_that_does_not_see_the_pictures_says_nothing(tmp_path: Path):
    rows = asked()
    columns: dict[str, Any] = {"clip__alignment": 0.3, "faces__count": np.zeros(len(rows))}
    _, analysis = audit(tmp_path / "blind", rows, **columns)
    (finding,) = of(analysis, "no_person_gap").values()
    assert finding.verdict == "not_tested" and "100% of the English images" in finding.note
    # CLIP's label of nobody serves in its place, where the suite declares one.
    section = {**SUITE["languages"], "no_person": {"attribute": "anyone", "label": "nobody"}}
    anyone = {"labels": {"person": "a person", "nobody": "nobody"}}
    suite = {
        "attributes": {**SUITE["attributes"], "anyone": anyone}, "languages": section
    }  # fmt: skip
    swahili = np.where(rows.language == "sw", 0.3, 0.1)
    columns |= {"clip__anyone_nobody": swahili, "clip__anyone_person": 0.2}
    _, analysis = audit(tmp_path / "clip", rows, suite, **columns)
    assert of(analysis, "no_person_gap")["sw",].estimate == 1


def test_a_share_that_shifts_is_found_on_either_side_with_the_grammar_noted(tmp_path: Path):
    rows = asked(("tr", "sw", "ru"))
    rows.loc[(rows.language == "ru") & rows.key.isin(KEYS[:6]), "gender"] = "masculine"
    rng = np.random.default_rng(0)
    share = rows.language.map({"en": 0.5, "tr": 0.5, "sw": 0.95, "ru": 0.5})
    share = share.where(rows.gender != "masculine", 0.0)
    female = rng.random(len(rows)) < share
    unsure = rows.index % 10 == 0
    _, analysis = audit(
        tmp_path / "run", rows, clip__alignment=0.3,
        clip__gender_female=np.where(female & ~unsure, 0.3, 0.2),
        clip__gender_male=np.where(female | unsure, 0.2, 0.3),
    )  # fmt: skip
    found = of(analysis, "shift_female_presenting")
    assert found["sw",].verdict == "exceeds" and found["sw",].estimate > 0.3
    assert found["tr",].verdict != "exceeds"
    grammar = found["ru",].detail["by_grammatical_gender"]
    assert grammar["masculine"]["difference"] < -0.3 < -0.2 < grammar["none"]["difference"]
    assert found["sw",].detail["outcomes"]["undetermined"] > 0


def test_stages_stand_in_the_order_in_which_a_prompt_becomes_a_picture(tmp_path: Path):
    rows = asked(("tr", "sw"), ("rewording",))
    rng = np.random.default_rng(0)
    scores = recognised(rows, rng.random(len(rows)) < 0.8)
    run, analysis = audit(
        tmp_path / "run", rows, **scores, clip__alignment=cosines(rows, {"sw": -0.1}),
        clip__gender_female=rng.random(len(rows)), clip__gender_male=0.5,
        clip_multilingual__alignment=0.3, clip_multilingual__asked_alignment=0.3,
        text_encoder__tokens=8, text_encoder__english_tokens=8, text_encoder__cut=0,
        text_encoder__drift=0.1, faces__count=1,
    )  # fmt: skip
    stages = [
        "token_fertility", "truncation_gap", "encoder_drift", "alignment_gap",
        "alignment_gap_beyond_rewording", "multilingual_alignment_gap", "asked_alignment_gap",
        "occupation_accuracy_gap", "no_person_gap", "shift_female_presenting",
    ]  # fmt: skip
    assert list(dict.fromkeys(f.metric for f in analysis.findings)) == stages
    rows_of = analysis.tables["decomposition"]
    assert list(rows_of.columns) == ["language", "script", "arm", *stages]
    swahili = rows_of[rows_of.language == "sw"].iloc[0]
    assert swahili.alignment_gap == of(analysis, "alignment_gap")["sw",].estimate
    assert swahili.arm == "translation"
    frame = table(run, "languages")
    for finding in analysis.findings:
        assert len(select(frame, finding.evidence)) >= finding.n, finding.id


def test_of_many_languages_the_stages_are_correlated_of_few_they_are_not():
    from probes._language_stages import correlations

    number = np.arange(12)
    rows = pd.DataFrame(
        {
            "language": [f"l{n}" for n in number], "arm": "translation",
            "token_fertility": number, "encoder_drift": number[::-1], "alignment_gap": -number,
        }
    )  # fmt: skip
    fertility, drift = correlations(rows)
    assert (round(fertility.estimate, 6), round(drift.estimate, 6)) == (-1, 1)
    assert fertility.verdict == "inconclusive" and fertility.ci is None
    rows["alignment_gap"] = -number + 4 * (number % 3)
    fertility, _ = correlations(rows)
    assert -1 < fertility.ci[0] < fertility.estimate < fertility.ci[1] < 1
    assert list(correlations(rows[:7])) == []


@pytest.mark.parametrize("missing", ["clip", "everything"])
def test_what_was_not_measured_is_said(tmp_path: Path, missing: str):
    rows = asked()
    columns: dict[str, Any] = {"text_encoder__tokens": 8} if missing == "clip" else {}
    columns |= {"text_encoder__english_tokens": 8} if columns else {}
    _, analysis = audit(tmp_path / "run", rows, **columns)
    untested = {f.metric for f in analysis.findings if f.verdict == "not_tested"}
    assert {"alignment_gap", "occupation_accuracy_gap", "no_person_gap", "encoder_drift",
            "shift_female_presenting"} <= untested  # fmt: skip
    assert ("token_fertility" in untested) == (missing == "everything")


def test_a_p_value_knows_its_side():
    worse = Gap(-0.1, (-0.12, -0.08), 0.01, 11, "")
    assert worse.p_beyond(0.0, "below") < 0.001 < worse.p_beyond(0.0, "above")
    assert worse.p_beyond(0.1, "below") == 1
    assert worse.p_beyond(0.05, "both") == worse.p_beyond(0.05, "below") < 0.001
