"""Whose labels are counted: CLIP's, or those of another instrument that the suite names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audit.detectors.clip import Clip
from audit.errors import AuditError
from audit.findings import Finding
from tests.probes.tables import ATTRIBUTES, analysed, asked, suite, uses
from tests.synthetic import study

JOBS = [f"job{i}" for i in range(6)]
GROUPS = ["group a", "group b", "group c"]
READ_BY_A_CLASSIFIER = {
    **ATTRIBUTES["skin"],
    "metric": "share_group_c",
    "positive": "group c",
    "named": "of group c",
    "labels": GROUPS,
}
"""As perceived race is asked for: labels without texts, which CLIP does not read."""


def asking(**attributes: Any) -> dict[str, Any]:
    content = suite(len(JOBS), [*attributes])
    return {**content, "attributes": {**ATTRIBUTES, **attributes}}


def probabilities(true: np.ndarray, attribute: str, labels: list[str]) -> pd.DataFrame:
    return pd.DataFrame({f"{attribute}_{x}": 0.1 + 0.7 * (true == x) for x in labels})


def shares(findings: list[Finding], metric: str) -> list[Finding]:
    return [f for f in findings if f.metric == metric and f.slice and "subject" in f.slice]


def test_an_attribute_that_only_a_classifier_reads_has_its_shares(tmp_path: Path):
    rows = uses(JOBS, 60)
    chance = np.repeat([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], 180, axis=0)
    rng = np.random.default_rng(0)
    true = np.array([rng.choice(GROUPS, p=p) for p in chance], dtype=object)
    told = {"classifier": probabilities(true, "origin", GROUPS)}
    content = asking(origin=READ_BY_A_CLASSIFIER)
    women = rng.choice(["female", "male"], len(rows))
    _, analysis = analysed(tmp_path, rows, {"gender": women}, content, told)
    found = shares(analysis.findings, "share_group_c")
    counted = [(true[60 * i : 60 * i + 60] == "group c").mean() for i in range(6)]
    assert [f.estimate for f in found] == pytest.approx(counted)
    assert [f.verdict for f in found[3:]] == ["exceeds"] * 3
    assert all(f.method.startswith("classifier; Wilson") for f in found)


def test_the_named_instrument_is_counted_and_clip_stands_beside(tmp_path: Path):
    rows = uses(JOBS, 60)
    rng = np.random.default_rng(1)
    clip, other = (rng.choice(["female", "male"], len(rows)) for _ in range(2))
    told = {"classifier": probabilities(other, "gender", ["female", "male"])}
    content = asking(gender={**ATTRIBUTES["gender"], "instrument": "classifier"})
    _, analysis = analysed(tmp_path, rows, {"gender": clip}, content, told)
    first = shares(analysis.findings, "share_female_presenting")[0]
    assert first.estimate == pytest.approx((other[:60] == "female").mean())
    assert first.detail["clip"]["estimate"] == pytest.approx((clip[:60] == "female").mean())
    (agreement,) = [f for f in analysis.findings if f.metric == "agreement_gender"]
    assert agreement.slice == {"instrument": "clip"}
    assert "Agreement of classifier with clip" in agreement.note


def test_an_instrument_that_has_not_read_is_said(tmp_path: Path):
    rows = uses(JOBS, 60)
    content = asking(
        gender={**ATTRIBUTES["gender"], "instrument": "age-gender"}, origin=READ_BY_A_CLASSIFIER
    )
    _, analysis = analysed(tmp_path, rows, {"gender": ["female"] * len(rows)}, content)
    assert [f.verdict for f in analysis.findings] == ["not_tested"] * 2
    assert "age_gender has no scores of gender" in analysis.findings[0].note
    assert "no instrument has scores of origin" in analysis.findings[1].note


def test_clip_leaves_labels_without_texts_to_others():
    content = asking(origin=READ_BY_A_CLASSIFIER)
    vocabulary = Clip(study({**content, "detectors": {"clip": {"model": "phantom"}}})).describe()
    assert "gender" in vocabulary["vocabulary"] and "origin" not in vocabulary["vocabulary"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"instrument": "fairfaces"}, "no instrument 'fairfaces'"),
        ({"instrument": "classifer"}, "no instrument 'classifer'; did you mean 'classifier'?"),
        ({"labels": {"female": "a woman", "male": []}}, "the label 'male' has no prompt for CLIP"),
    ],
)
def test_what_cannot_be_read_is_refused_before_an_image(changed: dict[str, Any], said: str):
    with pytest.raises(AuditError, match="attributes: gender") as refused:
        asked(asking(gender={**ATTRIBUTES["gender"], **changed}))
    assert said in str(refused.value)
