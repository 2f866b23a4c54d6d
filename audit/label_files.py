"""Labels that people gave to images, as a CSV file: one row a label or a row a rater and image.

Columns: ``image`` (SHA-256 of the file) or ``request``; one column for each attribute, with the
suite's labels, ``undetermined``, ``no_face``, or nothing where it was not judged; and ``author``
where several people labelled the same images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import AuditError
from .labels import NOT_A_LABEL
from .plugins import did_you_mean
from .prompts.reading import rows
from .statistics import krippendorff_alpha

LEAST_ALPHA = 0.667
"""Krippendorff (2018, ch. 12): below it no conclusion is drawn from labels."""


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's α of one attribute; ``None`` with a single rater."""

    alpha: float | None
    ci: tuple[float, float] | None
    raters: int

    @property
    def reliable(self) -> bool:
        """Whether a conclusion may be drawn: one rater cannot be checked, and is taken."""
        return self.alpha is None or math.isnan(self.alpha) or self.alpha >= LEAST_ALPHA

    def __str__(self) -> str:
        if self.alpha is None or self.ci is None:
            return "one rater: how reliable the labels are is not known"
        if math.isnan(self.alpha):
            return f"{self.raters} raters, every label the same: Krippendorff's α does not exist"
        said = f"Krippendorff's α {self.alpha:.3f} ({self.ci[0]:.3f} to {self.ci[1]:.3f}), "
        said += f"{self.raters} raters"
        return said if self.reliable else f"{said}: below .667, no conclusion should be drawn"


@dataclass(frozen=True)
class Labels:
    """Majority labels by image.

    Attributes:
        name: the file's name.
        key: the column of a probe's table that `majority` is indexed by.
        majority: attribute → label by key; a tie is ``undetermined``.
        agreement: attribute → how far the raters agree.
    """

    name: str
    key: str
    majority: Mapping[str, pd.Series]
    agreement: Mapping[str, Agreement]

    def of(self, frame: pd.DataFrame, attribute: str) -> pd.Series:
        """The label of each row of a probe's table, NaN where nobody labelled it."""
        if attribute not in self.majority:
            return pd.Series(np.nan, index=frame.index, dtype=object)
        return frame[self.key].map(self.majority[attribute])


def read_labels(path: Path, attributes: Mapping[str, Sequence[str]]) -> Labels:
    """Read a file of labels.

    Args:
        attributes: attribute → its labels, as the suite has them.

    Raises:
        AuditError: a column or label is unknown, or a rater labelled an image twice; with the line.
    """
    found: list[dict[str, str]] = []
    seen: dict[tuple[str, str], str] = {}
    key, wanted = "", []
    for where, row in rows(path, []):
        if not key:
            key = next((name for name in ("image", "request") if name in row), "")
            if not key:
                raise AuditError(f"{path}:1: no column 'image' (SHA-256) or 'request'")
            for name in row:
                if name not in (key, "image", "request", "author", *attributes):
                    hint = did_you_mean(name, attributes)
                    raise AuditError(f"{path}:1: no attribute '{name}' in the suite{hint}")
            wanted = [name for name in row if name in attributes]
            if not wanted:
                raise AuditError(f"{path}:1: no attribute; there are: {', '.join(attributes)}")
        row = {name: value.strip() for name, value in row.items()}
        for name in wanted:
            allowed = [*map(str, attributes[name]), *NOT_A_LABEL]
            if row[name] and row[name] not in allowed:
                raise AuditError(
                    f"{where}: {name} must be one of {', '.join(allowed)} or empty, not "
                    f"'{row[name]}'{did_you_mean(row[name], allowed)}"
                )
        author = row.get("author", "")
        if not row[key]:
            raise AuditError(f"{where}: '{key}' is empty")
        if (row[key], author) in seen:
            raise AuditError(
                f"{where}: {key} {row[key][:12]}… has a row already, at {seen[row[key], author]}"
                + ("" if author else "; with several raters, name them in a column 'author'")
            )
        seen[row[key], author] = where
        found.append({**row, "author": author})
    if not found:
        raise AuditError(f"{path}:1: no labels")
    frame = pd.DataFrame(found)
    majority, agreement = {}, {}
    for name in wanted:
        given = frame[frame[name] != ""]
        majority[name] = _majority(given, key, name)
        agreement[name] = agreement_of(given, key, name)
    return Labels(path.name, key, majority, agreement)


def _majority(given: pd.DataFrame, key: str, attribute: str) -> pd.Series:
    votes = given.groupby([key, attribute], sort=False).size().rename("votes").reset_index()
    most = votes[votes.votes == votes.groupby(key).votes.transform("max")]
    tied = most[key].duplicated(keep=False)
    first = most.drop_duplicates(key).set_index(key)[attribute].astype(object)
    first[first.index.isin(most[key][tied])] = "undetermined"
    return first


def agreement_of(given: pd.DataFrame, key: str, attribute: str) -> Agreement:
    """How far the raters of a table with `author`, `key` and `attribute` agree, a row a label."""
    raters = int(given["author"].nunique())
    if raters < 2:
        return Agreement(None, None, raters)
    # Who could not tell has not told two labels apart.
    told = given[~given[attribute].isin(NOT_A_LABEL)]
    codes = told.assign(code=pd.factorize(told[attribute])[0].astype(float))
    table = codes.pivot(index="author", columns=key, values="code")
    if table.empty or int(table.notna().sum().max()) < 2:
        return Agreement(None, None, raters)
    alpha, ci = krippendorff_alpha(table.to_numpy())
    return Agreement(alpha, ci, raters)
