"""What a filter's raw scores say at any threshold: questions to DuckDB, aggregated there.

They go to the probe's tables ``scores`` and ``versions``, which hold a row per filter and image.
From the threshold on an image is blocked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.statistics import clopper_pearson, wilson

from . import queries
from .index import PLACE
from .queries import quoted

SCORES = "table_safety_filters_scores"
VERSIONS = "table_safety_filters_versions"
PERCEIVED = "perceived_"
POINTS = 240
"""So many points of a curve are drawn; each is exact."""
BARS = 60
BINS = 10
"""Of the reliability curve, as of the probe's calibration error."""
KNOWN = (("records", "image"), ("requests", "prompt"))
"""View → what it says of an image that is shown."""
CELLS = {
    "missed": (True, False),
    "blocked, restricted": (True, True),
    "blocked, harmless": (False, True),
    "passed, harmless": (False, False),
}
"""Cells of the confusion matrix: whether restricted, whether blocked."""


@dataclass(frozen=True)
class Outline:
    """A filter's scores in short.

    Attributes:
        labelled: images whose truth is known; `restricted` of them.
        lowest_blocked, highest_passed: by the filter's own decisions; ``None`` where there is none.
    """

    images: int
    labelled: int
    restricted: int
    blocked: int
    low: float
    high: float
    lowest_blocked: float | None
    highest_passed: float | None

    @property
    def threshold(self) -> bool:
        """The filter's own decisions are those of a threshold."""
        if self.lowest_blocked is None or self.highest_passed is None:
            return True
        return self.highest_passed < self.lowest_blocked


@dataclass(frozen=True)
class Held:
    """A filter's scores of the images whose truth is known, read once.

    A threshold is then moved without a further question, and exactly.

    Attributes:
        score: shape (N,), ascending, equal ones in the order of their requests' ids.
        group: shape (N,), the row of `groups` of each.
        place: shape (N,), of each in the index of images, −1 where the plan does not know it.
        groups: ``prompt``, ``restricted``, ``perceived_<attribute>`` …, ``n``: all that tells
            images apart in what is counted.
    """

    score: NDArray[np.float64]
    group: NDArray[np.int32]
    place: NDArray[np.int32]
    groups: pd.DataFrame

    def at(self, threshold: float) -> pd.DataFrame:
        """The groups with ``blocked``, how many of their images are."""
        first = int(np.searchsorted(self.score, threshold, "left"))
        return self.groups.assign(
            blocked=np.bincount(self.group[first:], minlength=len(self.groups))
        )


@dataclass(frozen=True)
class Versions:
    """The versions of an attribute: the same scenes and seeds in K versions.

    Attributes:
        score: shape (P, K), a row per scene and seed, NaN where a version is missing.
        scene: shape (P,), numbered.
    """

    attribute: str
    names: list[str]
    score: NDArray[np.float64]
    scene: NDArray[np.int64]


def filters(database: duckdb.DuckDBPyConnection) -> list[str]:
    """The filters that have scored; first those that know restricted images and say more than
    yes or no."""
    rows = database.execute(
        f"SELECT filter FROM {SCORES} GROUP BY 1 ORDER BY bool_or(restricted) DESC NULLS LAST, "
        "approx_count_distinct(score) > 2 DESC, 1"
    ).fetchall()
    return [str(name) for (name,) in rows]


def outline(database: duckdb.DuckDBPyConnection, filter: str) -> Outline:
    """See :class:`Outline`."""
    row = database.execute(
        "SELECT count(*), count(restricted), count(*) FILTER (restricted), "
        "count(*) FILTER (blocked), min(score), max(score), min(score) FILTER (blocked), "
        f"max(score) FILTER (NOT blocked) FROM {SCORES} WHERE filter = ? AND isfinite(score)",
        [filter],
    ).fetchone()
    assert row is not None
    return Outline(*row)


def held(database: duckdb.DuckDBPyConnection, views: queries.Catalog, filter: str) -> Held:
    """See :class:`Held`.

    Args:
        database: of :meth:`dashboard.runs.Shown.connect`.
    """
    there = views[SCORES]
    names = ["prompt", "restricted", *(name for name in there if name.startswith(PERCEIVED))]
    source, prompt = SCORES, "prompt"
    if "prompt" not in there:  # a table of an older version
        known = "prompt" in views.get("requests", ())
        source += " LEFT JOIN requests USING (request)" if known else ""
        prompt = "requests.prompt" if known else "concept"
    columns = ", ".join(quoted(name) for name in names)
    tables = (
        f"WITH labelled AS (SELECT request, score::DOUBLE AS score, {prompt} AS prompt, "
        f"{', '.join(quoted(name) for name in names[1:])} FROM {source} "
        "WHERE filter = ? AND restricted IS NOT NULL AND isfinite(score)), "
        f"groups AS (SELECT {columns}, count(*) AS n, "
        f"row_number() OVER (ORDER BY {columns}) - 1 AS number FROM labelled GROUP BY {columns}) "
    )
    groups = database.execute(f"{tables} SELECT * FROM groups ORDER BY number", [filter]).df()
    same = " AND ".join(
        f"labelled.{quoted(name)} IS NOT DISTINCT FROM groups.{quoted(name)}" for name in names
    )
    planned = "requests" in views
    found = database.execute(
        f"{tables} SELECT labelled.score, number::INTEGER AS number, "
        f"{f'coalesce(images.{PLACE}, -1)' if planned else '-1'}::INTEGER AS place "
        f"FROM labelled JOIN groups ON {same} "
        f"{'LEFT JOIN idx.images AS images USING (request)' if planned else ''} "
        "ORDER BY labelled.score, labelled.request",
        [filter],
    ).fetchnumpy()
    return Held(
        np.asarray(found["score"], np.float64),
        np.asarray(found["number"], np.int32),
        np.asarray(found["place"], np.int32),
        groups.drop(columns="number"),
    )


def versions(
    database: duckdb.DuckDBPyConnection, views: queries.Catalog, filter: str
) -> list[Versions]:
    """The harmless scenes in versions, read once; see :class:`Versions`."""
    if VERSIONS not in views:
        return []
    rows = f"FROM {VERSIONS} WHERE filter = ? AND isfinite(score)"
    names = database.execute(
        f"SELECT attribute, list(DISTINCT version ORDER BY version) {rows} GROUP BY 1 ORDER BY 1",
        [filter],
    ).fetchall()
    found = []
    for attribute, each in names:
        part = database.execute(
            "SELECT dense_rank() OVER (ORDER BY scene, seed) - 1 AS pair, "
            "dense_rank() OVER (ORDER BY scene) - 1 AS scene, "
            "dense_rank() OVER (ORDER BY version) - 1 AS version, score::DOUBLE AS score "
            f"{rows} AND attribute = ?",
            [filter, attribute],
        ).fetchnumpy()
        pair, scene, version = (np.asarray(part[k], np.int64) for k in ("pair", "scene", "version"))
        score = np.full((int(pair.max()) + 1, len(each)), np.nan)
        score[pair, version] = part["score"]
        scenes = np.zeros(len(score), np.int64)
        scenes[pair] = scene
        found.append(Versions(str(attribute), [str(name) for name in each], score, scenes))
    return found


def histogram(
    database: duckdb.DuckDBPyConnection, filter: str, low: float, high: float
) -> pd.DataFrame:
    """Shares of restricted and of harmless images by score, in :data:`BARS` bars of equal width."""
    width = (high - low) / BARS or 1.0
    frame = database.execute(
        "SELECT restricted, least(floor((score - ?) / ?), ?) AS bar, count(*) AS n "
        f"FROM {SCORES} WHERE filter = ? AND restricted IS NOT NULL AND isfinite(score) "
        "GROUP BY ALL ORDER BY ALL",
        [low, width, BARS - 1, filter],
    ).df()
    frame["left"] = low + frame.bar * width
    frame["right"] = frame.left + width
    frame["share"] = frame.n / frame.groupby("restricted").n.transform("sum")
    frame["truth"] = np.where(frame.restricted.astype(bool), "restricted", "harmless")
    return frame[["truth", "left", "right", "n", "share"]]


@dataclass(frozen=True)
class Curves:
    """What a score does at every threshold.

    Attributes:
        auc, average_precision: over all distinct scores, not over the points drawn.
        points: threshold, fpr, tpr, precision, with the exact 95% limits of the last two (Clopper
            and Pearson, images as independent).
        reliability: a row per bin of equal mass: mean, rate, low, high (Wilson), n.
        brier, calibration_error: of the scores as probabilities; ``None`` outside of [0, 1].
    """

    restricted: int
    harmless: int
    auc: float
    average_precision: float
    points: pd.DataFrame
    reliability: pd.DataFrame
    brier: float | None
    calibration_error: float | None


def curves(database: duckdb.DuckDBPyConnection, filter: str) -> Curves | None:
    """ROC, precision-recall and reliability; ``None`` unless both kinds of images are there."""
    found = database.execute(
        "SELECT score, count(*) FILTER (restricted) AS positive, "
        f"count(*) FILTER (NOT restricted) AS negative FROM {SCORES} "
        "WHERE filter = ? AND restricted IS NOT NULL AND isfinite(score) "
        "GROUP BY score ORDER BY score DESC",
        [filter],
    ).fetchnumpy()
    score = np.asarray(found["score"], float)
    positive, negative = (np.asarray(found[k], np.int64) for k in ("positive", "negative"))
    true, false = positive.cumsum(), negative.cumsum()
    if not len(score) or not true[-1] or not false[-1]:
        return None
    p, n = int(true[-1]), int(false[-1])
    area = float((positive * (n - false + negative / 2)).sum() / p / n)
    precision = true / (true + false)
    average = float((positive * precision).sum() / p)
    table, brier, error = _reliability(score[::-1], positive[::-1], negative[::-1])
    return Curves(
        p, n, area, average, _points(score, true, false), table, brier, error
    )  # fmt: skip


def _points(
    score: NDArray[np.float64], true: NDArray[np.int64], false: NDArray[np.int64]
) -> pd.DataFrame:
    """Some of the distinct scores, evenly by the images above them."""
    above = true + false
    wanted = np.linspace(above[0], above[-1], POINTS)
    kept = np.unique(
        np.r_[0, np.searchsorted(above, wanted), len(score) - 1].clip(0, len(above) - 1)
    )
    p, n = int(true[-1]), int(false[-1])
    rows: list[dict[str, Any]] = []
    for t, k, f in zip(score[kept], true[kept].tolist(), false[kept].tolist(), strict=True):
        tpr, precise = clopper_pearson(k, p), clopper_pearson(k, k + f)
        rows.append(
            {
                "threshold": t,
                "fpr": f / n,
                "tpr": k / p,
                "tpr_low": tpr[0],
                "tpr_high": tpr[1],
                "precision": k / (k + f),
                "precision_low": precise[0],
                "precision_high": precise[1],
            }
        )
    return pd.DataFrame(rows)


def _reliability(
    score: NDArray[np.float64], positive: NDArray[np.int64], negative: NDArray[np.int64]
) -> tuple[pd.DataFrame, float | None, float | None]:
    """As :func:`audit.statistics.calibration_error`, from the counts of ascending scores."""
    if score[0] < 0 or score[-1] > 1:
        return pd.DataFrame(), None, None
    members = positive + negative
    first = members.cumsum() - members  # equal scores share the lowest of their ranks
    _, place = np.unique(first * BINS // int(members.sum()), return_inverse=True)
    n = np.bincount(place, members)
    mean, rate = np.bincount(place, members * score) / n, np.bincount(place, positive) / n
    bounds = [wilson(r * m, m) for r, m in zip(rate.tolist(), n.tolist(), strict=True)]
    table = pd.DataFrame(
        {
            "mean": mean,
            "rate": rate,
            "low": [low for low, _ in bounds],
            "high": [high for _, high in bounds],
            "n": n.astype(int),
        }
    )
    total = float(members.sum())
    brier = float((positive * (1 - score) ** 2 + negative * score**2).sum()) / total
    return table, brier, float((n * np.abs(rate - mean)).sum()) / total


def images(
    database: duckdb.DuckDBPyConnection,
    views: queries.Catalog,
    held: Held,
    threshold: float,
    cell: str,
    limit: int,
) -> list[dict[str, Any]]:
    """Images of a cell of the confusion matrix, the nearest to the threshold first.

    Returns:
        rows with request, score, image, prompt; of an image that the plan does not know, the
        score and what it was scored as.
    """
    truth, blocked = CELLS[cell]
    nearest = _nearest(held, threshold, truth, blocked, limit)
    wanted = [int(place) for place in held.place[nearest] if place >= 0]
    names = ["request", *(n for v, n in KNOWN if n in views.get(v, ()))]
    known: dict[int, dict[str, Any]] = {}
    if wanted:
        # A join reads the rows alone; `IN` reads the columns whole.
        rows = database.execute(
            f"SELECT {PLACE}, {', '.join(names)} FROM idx.images JOIN "
            f"(SELECT unnest(?::BIGINT[]) AS wanted) ON {PLACE} = wanted",
            [wanted],
        ).fetchall()
        known = {place: dict(zip(names, row, strict=True)) for place, *row in rows}
    rest = {"request": None, "image": None}
    prompts = held.groups.prompt
    return [
        rest
        | {"prompt": prompts[held.group[at]], "score": float(held.score[at])}
        | known.get(int(held.place[at]), {})
        for at in nearest
    ]


def _nearest(
    held: Held, threshold: float, truth: bool, blocked: bool, limit: int
) -> NDArray[np.int64]:
    """Places in `held` of the images of a cell that lie nearest to the threshold."""
    wanted = (held.groups.restricted.to_numpy(bool) == truth)[held.group]
    first = int(np.searchsorted(held.score, threshold, "left"))
    if blocked:
        return np.flatnonzero(wanted[first:])[:limit] + first
    below = np.flatnonzero(wanted[:first])
    if len(below) > limit:  # equal scores stay together: those of them with the first ids are taken
        below = below[np.searchsorted(held.score[below], held.score[below[-limit]], "left") :]
    return below[np.argsort(-held.score[below], kind="stable")][:limit]
