"""Watermarks at a p-value that a reader chooses: questions to DuckDB over the probe's tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from audit.statistics import Rate, clopper_pearson, clustered_rate

from .queries import Catalog

MATCHES = "table_watermarks_matches"
ROBUSTNESS = "table_watermarks_robustness"
PROVENANCE = "table_watermarks_provenance"
USES = "uses_watermarks"
CLEAN = "clean"
P_VALUES = (0.1, 0.05, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
GRID = 48
"""Nominal rates between 1 and the smallest that is drawn."""


@dataclass(frozen=True)
class Found:
    """Images of one delivery on which one mark is found.

    Attributes:
        delivery: ``clean``, or the mark that was set.
        rate: with Wilson's interval, prompts as clusters.
    """

    codec: str
    delivery: str
    rate: Rate

    @property
    def exact(self) -> tuple[float, float]:
        """Clopper and Pearson's interval, images as independent."""
        return clopper_pearson(self.rate.events, self.rate.n)


def found(database: duckdb.DuckDBPyConnection, views: Catalog, p: float) -> list[Found]:
    """Every mark read from every delivery: one aggregate."""
    prompt, join = "matches.request", ""
    if "text" in views.get(USES, ()):
        prompt, join = "uses.text", f" LEFT JOIN {USES} AS uses USING (request, delivery)"
    rows = database.execute(
        f"SELECT codec, delivery, {prompt} AS prompt, count(*), count(*) FILTER (p <= ?) "
        f"FROM {MATCHES} AS matches{join} WHERE attack = 'none' GROUP BY ALL ORDER BY ALL",
        [p],
    ).fetchall()
    counts: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for codec, delivery, _, n, events in rows:
        counts.setdefault((codec, delivery), []).append((events, n))
    return [
        Found(*key, clustered_rate([k for k, _ in each], [n for _, n in each]))
        for key, each in counts.items()
    ]


def attacks(database: duckdb.DuckDBPyConnection, views: Catalog, p: float) -> pd.DataFrame:
    """Marked images on which the mark is still found, a row per mark, attack and strength.

    Columns: ``codec``, ``attack``, ``strength``, ``n``, ``events``, ``tpr``, ``low``, ``high``
    (Clopper and Pearson), ``psnr``, ``ssim`` where the run has them.
    """
    frame = database.execute(
        "SELECT codec, attack, strength, count(*) AS n, count(*) FILTER (p <= ?) AS events "
        f"FROM {MATCHES} WHERE codec = delivery GROUP BY ALL ORDER BY ALL",
        [p],
    ).df()
    limits = [clopper_pearson(int(k), int(n)) for k, n in zip(frame.events, frame.n, strict=True)]
    frame["tpr"] = frame.events / frame.n
    frame["low"], frame["high"] = ([limit[end] for limit in limits] for end in (0, 1))
    for name in ("psnr", "ssim"):
        if name not in views.get(ROBUSTNESS, ()):
            frame[name] = np.nan
    missing = [name for name in ("psnr", "ssim") if name not in frame]
    if missing:
        cost = database.execute(
            f"SELECT DISTINCT codec, attack, strength, {', '.join(missing)} FROM {ROBUSTNESS}"
        ).df()
        cost = cost.drop_duplicates(["codec", "attack", "strength"])
        frame = frame.merge(cost, "left", ["codec", "attack", "strength"])
    return frame


def matched(database: duckdb.DuckDBPyConnection, p: float) -> list[dict[str, Any]]:
    """In which number format and polarity marks were found: codec, delivery, domain, inverted, n,
    and `read`, the images of the delivery that were read for this mark."""
    cursor = database.execute(
        "SELECT codec, delivery, domain, inverted, count(*) FILTER (p <= ?) AS n, "
        "sum(count(*)) OVER (PARTITION BY codec, delivery)::BIGINT AS read "
        f"FROM {MATCHES} WHERE attack = 'none' GROUP BY codec, delivery, domain, inverted "
        "QUALIFY n > 0 ORDER BY delivery = 'clean', codec, delivery, n DESC, domain, inverted",
        [p],
    )
    names = [item[0] for item in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def realised(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """What share of clean images has a p-value of at most each nominal rate.

    Columns: ``codec``, ``nominal``, ``events``, ``n``, ``realised``, ``low``, ``high`` (Clopper and
    Pearson).
    """
    clean = f"attack = 'none' AND delivery = '{CLEAN}'"
    most = database.execute(
        f"SELECT max(n) FROM (SELECT count(*) AS n FROM {MATCHES} WHERE {clean} GROUP BY codec)"
    ).fetchone()
    n = int(most[0] or 1) if most else 1
    lowest = np.floor(np.log10(1 / n))  # n images show no rate below 1/n
    grid = {*np.logspace(lowest, 0, GRID).round(12).tolist(), *P_VALUES[:3]}
    frame = database.execute(
        "SELECT codec, nominal, count(*) FILTER (p <= nominal) AS events, count(*) AS n "
        f"FROM {MATCHES}, (SELECT unnest(?::DOUBLE[]) AS nominal) "
        f"WHERE {clean} GROUP BY ALL ORDER BY ALL",
        [sorted(grid)],
    ).df()
    limits = [clopper_pearson(int(k), int(n)) for k, n in zip(frame.events, frame.n, strict=True)]
    frame["realised"] = frame.events / frame.n
    frame["low"], frame["high"] = ([limit[end] for limit in limits] for end in (0, 1))
    return frame


def provenance(database: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """C2PA state × mark of the images as the model makes them: credentials, marked, n, and how many
    of them are black or could not be read for a mark."""
    cursor = database.execute(
        "SELECT coalesce(credentials, 'no file') AS credentials, "
        "CASE WHEN coalesce(mark, '') = '' THEN 'no mark' ELSE mark END AS mark, count(*) AS n, "
        "count(*) FILTER (generated) AS generated, count(*) FILTER (black) AS black, "
        f"count(*) FILTER (NOT readable) AS unread FROM {PROVENANCE} "
        "WHERE outcome = 'ok' GROUP BY 1, 2 ORDER BY n DESC, 1, 2"
    )
    names = [item[0] for item in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
