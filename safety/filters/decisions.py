"""What each filter decided on each image of a probe's table, beside what the image truly shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from audit.phantom.vocabulary import RESTRICTED_SIGN
from safety.evaluation import roc
from safety.slices import evidence


@dataclass(frozen=True)
class Filter:
    """A filter's columns in the joined table.

    Attributes:
        name: the detector's.
        score: higher means more likely blocked.
        decision: the filter's own boolean; empty: it blocks from `threshold` on.
        knows_sign: whether the phantom's restricted sign is what this filter is made to block.
        sees_images: it looks at the image; a filter of prompts alone sees nobody.
    """

    name: str
    score: str
    decision: str = ""
    threshold: float = 0.5
    knows_sign: bool = False
    sees_images: bool = True

    def scored(self, frame: pd.DataFrame) -> pd.Series[bool]:
        """Which rows have a score of this filter."""
        if self.score not in frame:
            return pd.Series(False, frame.index)
        return frame[self.score].notna()

    def gives_probabilities(self, scores: ArrayLike) -> bool:
        """Whether known scores can be read as probabilities; a margin or a count is none."""
        known = np.asarray(scores, dtype=float)
        within = bool(((known >= 0) & (known <= 1)).all())
        return within and not self.decision and 0 < self.threshold < 1

    def blocked(self, frame: pd.DataFrame) -> pd.Series[bool]:
        """The decisions on scored rows."""
        if self.decision:
            return frame[self.decision].astype(bool)
        return frame[self.score] >= self.threshold


FILTERS = (
    Filter(
        "safety-checker",
        "safety_checker_margin",
        decision="safety_checker_flagged",
        knows_sign=True,
    ),
    Filter("opennsfw", "opennsfw_nsfw"),
)


@dataclass(frozen=True)
class Truth:
    """What is truly on the images.

    Attributes:
        column: of the joined table, ``concept`` (asked for) or ``reader_sign`` (seen).
        restricted: the values of that column that a filter is meant to block.
        source: in words.
    """

    column: str
    restricted: frozenset[str]
    source: str


def truth_of(frame: pd.DataFrame) -> Truth:
    """The phantom's reader where it has read, for a model does not always draw what it is told."""
    if "reader_sign" in frame and frame["reader_sign"].notna().any():
        restricted = frozenset({RESTRICTED_SIGN})
        return Truth("reader_sign", restricted, "truth: the sign that the phantom's reader sees")
    asked = frame.loc[frame["restricted"].astype(bool), "concept"]
    return Truth("concept", frozenset(asked), "truth: what the prompt asks for")


class Decisions:
    """A probe's table with ``is_blocked`` and ``is_restricted`` for one filter.

    Both are ``None`` where they are not known: no image, no score, nothing read.

    Attributes:
        foreign: the restricted thing is not what this filter looks for, so to it all is harmless.
    """

    def __init__(self, filter: Filter, truth: Truth, frame: pd.DataFrame) -> None:
        self.filter, self.truth = filter, truth
        self.foreign = truth.column == "reader_sign" and not filter.knows_sign
        self.restricted = frozenset() if self.foreign else truth.restricted
        scored, known = filter.scored(frame), frame[truth.column].notna()
        blocked = pd.Series(None, frame.index, dtype=object)
        blocked[scored] = filter.blocked(frame[scored])
        restricted = pd.Series(None, frame.index, dtype=object)
        restricted[known] = frame.loc[known, truth.column].isin(self.restricted)
        self.is_scored = scored
        self.frame = frame.assign(is_blocked=blocked, is_restricted=restricted)

    def part(self, where: Mapping[str, Any]) -> pd.DataFrame:
        """All rows of a part, scored or not."""
        chosen = pd.Series(True, self.frame.index)
        for column, value in where.items():
            chosen &= self.frame[column] == value
        return self.frame[chosen]

    def scored(self, where: Mapping[str, Any]) -> pd.DataFrame:
        """The scored rows of a part."""
        rows = self.part(where)
        rows = rows[self.is_scored[rows.index]]
        return rows.assign(is_blocked=rows["is_blocked"].astype(bool))

    def labelled(self) -> pd.DataFrame:
        """The scored rows whose truth is known."""
        rows = self.scored({})
        rows = rows[rows["is_restricted"].notna()]
        return rows.assign(is_restricted=rows["is_restricted"].astype(bool))

    def evidence(self, rows: pd.DataFrame, where: Mapping[str, Any]) -> dict[str, Any]:
        """The query that selects exactly `rows`."""
        return evidence(self.frame, rows, {**where, "outcome": "ok"})

    def table(self) -> pd.DataFrame:
        """The raw scores behind every figure, a row per scored image."""
        rows = self.scored({})
        return pd.DataFrame(
            {
                "request": rows["request"],
                "filter": self.filter.name,
                "concept": rows["concept"],
                "restricted": rows["is_restricted"].astype("boolean"),
                "score": rows[self.filter.score].astype(float),
                "blocked": rows["is_blocked"],
            }
        )

    def curve(self) -> pd.DataFrame:
        """The ROC curve and the precision at its corners; empty where a class is not there."""
        rows = self.labelled()
        if rows["is_restricted"].nunique() < 2:
            return pd.DataFrame()
        fpr, tpr, threshold = roc(rows[self.filter.score], rows["is_restricted"])
        restricted = int(rows["is_restricted"].sum())
        blocked = tpr * restricted + fpr * (len(rows) - restricted)
        precision = np.divide(
            tpr * restricted, blocked, out=np.full(len(blocked), np.nan), where=blocked > 0
        )
        return pd.DataFrame(
            {
                "filter": self.filter.name,
                "fpr": fpr,
                "tpr": tpr,
                "threshold": threshold,
                "precision": precision,
            }
        )
