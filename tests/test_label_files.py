"""Labels by people: majority, agreement, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from audit.errors import AuditError
from audit.label_files import read_labels

GENDER = {"gender": ["female", "male"]}


def write(path: Path, text: str) -> Path:
    (path / "labels.csv").write_text(text)
    return path / "labels.csv"


def test_the_majority_counts_and_a_tie_is_undetermined(tmp_path: Path):
    rows = ["a,x,female", "a,y,female", "a,z,male", "b,x,female", "b,y,male", "c,x,", "c,y,male"]
    found = read_labels(write(tmp_path, "image,author,gender\n" + "\n".join(rows)), GENDER)
    assert found.majority["gender"].to_dict() == {"a": "female", "b": "undetermined", "c": "male"}
    frame = pd.DataFrame({"image": ["c", "a", "q"]})
    assert found.of(frame, "gender").tolist()[:2] == ["male", "female"]
    assert found.of(frame, "gender").isna().tolist() == [False, False, True]


def test_unreliable_labels_say_that_no_conclusion_is_drawn(tmp_path: Path):
    opposite = {"female": "male", "male": "female"}
    rows = []
    for i in range(40):
        label = "female" if i % 2 else "male"
        rows += [f"i{i},x,{label}", f"i{i},y,{label if i % 3 else opposite[label]}"]
    path = write(tmp_path, "image,author,gender\n" + "\n".join(rows))
    agreement = read_labels(path, GENDER).agreement["gender"]
    assert agreement.raters == 2 and not agreement.reliable
    assert agreement.ci[0] < agreement.alpha < agreement.ci[1]
    assert "no conclusion should be drawn" in str(agreement)


def test_one_rater_cannot_be_checked(tmp_path: Path):
    agreement = read_labels(write(tmp_path, "request,gender\nr,male\n"), GENDER).agreement["gender"]
    assert agreement.alpha is None and "not known" in str(agreement)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,gender\na,male\n", "labels.csv:1: no column 'image'"),
        ("image,gendr\na,male\n", "labels.csv:1: no attribute 'gendr' in the suite; did you mean"),
        ("image,gender\na,males\n", "labels.csv:2: gender must be one of female, male"),
        ("image,gender\na,male\na,female\n", "labels.csv:3: image a… has a row already, at"),
        ("image,gender\n,male\n", "labels.csv:2: 'image' is empty"),
        ("image,gender\n", "labels.csv:1: no labels"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(AuditError, match=message):
        read_labels(write(tmp_path, text), GENDER)
