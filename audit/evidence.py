"""What a probe analyses: its uses, joined with the records and the detectors' raw scores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .findings import Finding
from .frames import frame_of
from .store import Run, column_safe

RECORDED = ("image", "outcome")
"""Columns of a table also where nothing is made yet."""


@dataclass(frozen=True)
class Analysis:
    """What an analysis gives back: findings, and the tables its figures are drawn from.

    `tables` maps a name (``roc``, ``neighbours``) to a frame; it is stored as
    ``tables/<probe>.<name>.parquet``.
    """

    findings: list[Finding] = field(default_factory=list)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def table(
    run: Run, probe: str, columns: list[str] | None = None, *, without: Collection[str] = ()
) -> pd.DataFrame:
    """One row per use of `probe`: its tags, the request, the record, and every detector's scores.

    A detector's columns carry its name: ``alignment`` of ``clip`` is ``clip_alignment``.
    A use whose image is not made has outcome ``missing``; nothing is dropped.

    Args:
        columns: only these; default: all, embeddings included.
        without: columns of detectors, by the detectors' own names, that stay on disk.
    """
    with run.connect() as database:
        views = {row[0] for row in database.execute("SHOW TABLES").fetchall()}
        uses = f"uses_{column_safe(probe)}"
        if uses not in views:
            return pd.DataFrame()

        def read(view: str, names: Iterable[str]) -> pa.Table:
            listed = ", ".join(f'"{name}"' for name in names)
            return database.sql(f'SELECT {listed} FROM "{view}"').to_arrow_table()

        def wanted(names: Iterable[str]) -> list[str]:
            return [name for name in names if columns is None or name in columns]

        requests = read(uses, ["request"])["request"].cast(pa.string())
        found: dict[str, pa.ChunkedArray] = {}
        own = _columns(database, uses)
        if names := wanted(own):
            found.update(zip(names, read(uses, names).columns, strict=True))
        # Joined by place, a view at a time: a join in SQL would hold all of them twice.
        for view, named in _joined(database, views, own, without):
            if names := wanted(named):
                rows = read(view, ["request", *(named[name] for name in names)])
                places = pc.index_in(requests, value_set=rows["request"].cast(pa.string()))
                found.update((name, rows[named[name]].take(places)) for name in names)
                del rows
    if "records" not in views:
        found |= {name: pa.nulls(len(requests), pa.string()) for name in wanted(RECORDED)}
    if "outcome" in found:
        found["outcome"] = pc.fill_null(found["outcome"].cast(pa.string()), "missing")
    return frame_of(pa.table(found if columns is None else {name: found[name] for name in columns}))


def _joined(
    database: duckdb.DuckDBPyConnection,
    views: Collection[str],
    own: Collection[str],
    without: Collection[str],
) -> Iterator[tuple[str, dict[str, str]]]:
    """The views that uses with the columns `own` are joined with: name in the table → in the view.

    A name is taken by the first that has it.
    """
    taken = {"request", "outcome", *own}
    for view in ("requests", "records"):
        if view in views:
            names = sorted({*_columns(database, view)} - taken)
            taken |= {*names}
            names += ["outcome"] if view == "records" else []
            yield view, {name: name for name in names}
    for view in sorted(name for name in views if name.startswith("detections_")):
        names = sorted({*_columns(database, view)} - {"request", "image", *without})
        yield view, {f"{view.removeprefix('detections_')}_{name}": name for name in names}


def select(frame: pd.DataFrame, evidence: Mapping[str, Any]) -> pd.DataFrame:
    """The rows behind a finding: each column of its `evidence` equals the value, is one of the
    values of a list, or is missing where the value is ``None``."""
    for column, value in evidence.items():
        if column == "probe":
            continue
        if value is None:
            frame = frame[frame[column].isna()]
            continue
        frame = frame[
            frame[column].isin(value) if isinstance(value, list) else frame[column] == value
        ]
    return frame


def _columns(database: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    return [row[0] for row in database.execute(f'DESCRIBE "{view}"').fetchall()]
