"""Signals of memorization at a threshold: questions to DuckDB over the probe's tables.

A point is a caption, with what is known of it, or an image. Beyond the threshold means strictly
above it, or below where a signal lies low for what is memorized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pandas as pd

from audit.signals import SIGNALS
from audit.statistics import clopper_pearson, wilson

from .queries import Catalog, quoted

CAPTIONS = "table_memorization_captions"
NEIGHBOURS = "table_memorization_neighbours"
MEASURED = "table_memorization_signals"
UNITS = {"captions": CAPTIONS, "images": NEIGHBOURS}
POINTS = 3000
"""So many points are drawn; counts are over all."""
DETECTOR = "memorization_signals_"
LOW = {"distance", "verbatim_error", "template_error", "pdq_distance", "tiled_l2"} | {
    DETECTOR + signal.column for signal in SIGNALS if signal.memorized == "low"
}
"""Signals that lie low for what is memorized."""
NO_SIGNAL = {
    "label", "band", "n", "index", "duplicates", "nearest_row", "match_duplicates", "threshold",
    "template_threshold", "copied",
}  # fmt: skip
NAMES = {
    "text_noise_first": "text noise, first step",
    "text_noise_magnitude": "text noise, all steps",
    "similarity": "CLIP similarity to the nearest",
    "caption_similarity": "similarity of the captions",
    "distance": "ℓ2 to the match",
    "verbatim_error": "error over all pixels",
    "template_error": "template error",
    "pdq_distance": "PDQ-style hash distance",
    "copy_similarity": "copy model",
    "tiled_l2": "tiled ℓ2 between seeds",
    "ms_ssim": "MS-SSIM between seeds",
    "nemo": "MS-SSIM of ε − x between seeds",
    "clique": "clique of seeds",
    "mask": "share of stable pixels",
    "combined": "combined verdict",
} | {DETECTOR + signal.column: signal.name for signal in SIGNALS}
FIRST = ("text_noise_first", "distance", "similarity")
"""Shown first where they are there."""


@dataclass(frozen=True)
class Beyond:
    """Points beyond a threshold, of one kind.

    Attributes:
        kind: ``memorized``, ``not memorized``, ``unknown``; of images ``copied``,
            ``not copied``.
        wilson, exact: 95% intervals of beyond/n, the points as independent.
    """

    kind: str
    n: int
    beyond: int

    @property
    def share(self) -> float:
        """beyond/n."""
        return self.beyond / self.n

    @property
    def wilson(self) -> tuple[float, float]:
        """See the class."""
        return wilson(self.beyond, self.n)

    @property
    def exact(self) -> tuple[float, float]:
        """See the class: Clopper and Pearson's."""
        return clopper_pearson(self.beyond, self.n)


def signals(database: duckdb.DuckDBPyConnection, views: Catalog, unit: str) -> dict[str, str]:
    """Column → name of the signals that have values, the usual ones first."""
    view = UNITS[unit]
    numeric = [
        name
        for name, kind in views.get(view, {}).items()
        if kind in ("DOUBLE", "FLOAT", "BIGINT", "INTEGER") and name not in NO_SIGNAL
    ]
    if not numeric:
        return {}
    row = database.execute(
        f"SELECT {', '.join(f'count({quoted(name)})' for name in numeric)} FROM {view}"
    ).fetchone()
    assert row is not None
    there = [name for name, count in zip(numeric, row, strict=True) if count]
    there.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    return {name: NAMES.get(name, name.replace("_", " ")) for name in there}


def beyond(
    database: duckdb.DuckDBPyConnection, views: Catalog, unit: str, column: str, at: float
) -> list[Beyond]:
    """How many points of each kind lie beyond the threshold: one aggregate."""
    test = f"{quoted(column)} {'<' if column in LOW else '>'} ?"
    rows = database.execute(
        f"SELECT {_kind(views, unit)} AS kind, count(*), count(*) FILTER ({test}) "
        f"FROM {UNITS[unit]} WHERE {_known(views, unit, column)} GROUP BY 1 ORDER BY 1",
        [at],
    ).fetchall()
    return [Beyond(*row) for row in rows]


def reach(
    database: duckdb.DuckDBPyConnection, views: Catalog, unit: str, column: str
) -> tuple[float, float]:
    """The least and the greatest value."""
    name = quoted(column)
    row = database.execute(
        f"SELECT min({name}), max({name}) FROM {UNITS[unit]} WHERE {_known(views, unit, column)}"
    ).fetchone()
    assert row is not None
    return (float(row[0]), float(row[1])) if row[0] is not None else (0.0, 1.0)


def start(
    database: duckdb.DuckDBPyConnection, views: Catalog, unit: str, column: str
) -> tuple[float, str]:
    """Where the threshold stands until it is moved, and why there."""
    if unit == "images" and column in ("distance", "template_error"):
        name = "threshold" if column == "distance" else "template_threshold"
        if name in views[NEIGHBOURS]:
            found = database.execute(f"SELECT any_value({name}) FROM {NEIGHBOURS}").fetchone()
            if found and found[0] is not None:
                return float(found[0]), "the probe's threshold of a copy"
    if unit == "captions" and {"column", "threshold", "fpr"} <= set(views.get(MEASURED, ())):
        row = database.execute(
            f'SELECT threshold, fpr FROM {MEASURED} WHERE "column" = ? LIMIT 1', [column]
        ).fetchone()
        if row and row[0] is not None:
            return float(row[0]), f"the probe's threshold at a false-positive rate of {row[1]:.3g}"
    share = 0.05 if column in LOW else 0.95
    row = database.execute(
        f"SELECT quantile_cont({quoted(column)}, {share}) FROM {UNITS[unit]} "
        f"WHERE {_known(views, unit, column)}"
    ).fetchone()
    value = float(row[0]) if row and row[0] is not None else 0.0
    return value, "beyond it lies one point in twenty"


def points(
    database: duckdb.DuckDBPyConnection, views: Catalog, unit: str, x: str, y: str
) -> pd.DataFrame:
    """At most :data:`POINTS` points, always the same: ``x``, ``y``, ``kind``, ``caption``."""
    text = _text(views, unit)
    return database.execute(
        f"SELECT {quoted(x)} AS x, {quoted(y)} AS y, {_kind(views, unit)} AS kind, "
        f"left({text}, 120) AS caption FROM {UNITS[unit]} "
        f"WHERE {_known(views, unit, x)} AND {_known(views, unit, y)} "
        f"ORDER BY hash({'request' if unit == 'images' else text}) LIMIT {POINTS}"
    ).df()


def farthest(
    database: duckdb.DuckDBPyConnection,
    views: Catalog,
    unit: str,
    column: str,
    at: float,
    most: int,
) -> list[dict[str, Any]]:
    """Points beyond the threshold, the farthest first: value, kind, caption, request of an image.

    `request` is ``None`` where a point is a caption.
    """
    low = column in LOW
    request = "request" if unit == "images" else "NULL"
    cursor = database.execute(
        f"SELECT {quoted(column)} AS value, {_kind(views, unit)} AS kind, "
        f"{_text(views, unit)} AS caption, {request} AS request FROM {UNITS[unit]} "
        f"WHERE {_known(views, unit, column)} AND {quoted(column)} {'<' if low else '>'} ? "
        f"ORDER BY value {'ASC' if low else 'DESC'}, caption LIMIT {int(most)}",
        [at],
    )
    names = [item[0] for item in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _known(views: Catalog, unit: str, column: str) -> str:
    asked = "arm = 'base' AND " if unit == "images" and "arm" in views[NEIGHBOURS] else ""
    return f"{asked}isfinite({quoted(column)}::DOUBLE)"


def _kind(views: Catalog, unit: str) -> str:
    there = views[UNITS[unit]]
    if unit == "captions" and "label" in there:
        return (
            "CASE WHEN label = 1 THEN 'memorized' WHEN label = 0 THEN 'not memorized' "
            "ELSE 'unknown' END"
        )
    if unit == "images" and "copied" in there:
        return (
            "CASE WHEN copied IS NULL THEN 'unknown' WHEN copied THEN 'copied' "
            "ELSE 'not copied' END"
        )
    return "'unknown'"


def _text(views: Catalog, unit: str) -> str:
    name = "text" if unit == "captions" else "caption"
    return name if name in views[UNITS[unit]] else "''"
