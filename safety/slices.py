"""Slices of a probe's table: the query that selects them, and what became of every image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from audit.evidence import select


def evidence(frame: pd.DataFrame, chosen: pd.DataFrame, where: Mapping[str, Any]) -> dict[str, Any]:
    """Column → value that selects exactly the rows of `chosen` from `frame`.

    `where` where that is enough; beyond it the requests are named one by one.

    >>> frame = pd.DataFrame({"request": ["a", "b"], "outcome": ["ok", "ok"], "score": [1, None]})
    >>> evidence(frame, frame, {"outcome": "ok"})
    {'outcome': 'ok'}
    >>> evidence(frame, frame[frame["score"].notna()], {"outcome": "ok"})
    {'outcome': 'ok', 'request': ['a']}
    """
    query = dict(where)
    asked = frame[[column for column in query if column in frame]]
    if set(select(asked, query).index) == set(chosen.index):
        return query
    return query | {"request": chosen["request"].tolist()}


def outcomes(frame: pd.DataFrame, scored: pd.Series[bool]) -> dict[str, int]:
    """Counts of every outcome, and of the images that are there but have no score."""
    counts = {str(name): int(count) for name, count in frame["outcome"].value_counts().items()}
    if left := int(((frame["outcome"] == "ok") & ~scored).sum()):
        counts["unscored"] = left
    return counts
