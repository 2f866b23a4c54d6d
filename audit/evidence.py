"""What a probe analyses: its uses, joined with the records and the detectors' raw scores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, Protocol

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


class Views(Protocol):
    """The tables of a run by their names in :meth:`audit.store.Run.connect`, read as Arrow's."""

    def names(self) -> set[str]:
        """Of all views."""

    def columns(self, view: str) -> list[str]:
        """A view's columns."""

    def read(self, view: str, columns: Iterable[str]) -> pa.Table:
        """Some of them."""


@dataclass(frozen=True)
class _OnDisk:
    database: duckdb.DuckDBPyConnection

    def names(self) -> set[str]:
        return {row[0] for row in self.database.execute("SHOW TABLES").fetchall()}

    def columns(self, view: str) -> list[str]:
        return [row[0] for row in self.database.execute(f'DESCRIBE "{view}"').fetchall()]

    def read(self, view: str, columns: Iterable[str]) -> pa.Table:
        listed = ", ".join(f'"{name}"' for name in columns)
        return self.database.sql(f'SELECT {listed} FROM "{view}"').to_arrow_table()


@singledispatch
@contextmanager
def views(run: Run) -> Iterator[Views]:
    """The tables of a run; runs that hold them in another way register how."""
    with run.connect() as database:
        yield _OnDisk(database)


def table(
    run: Run,
    probe: str,
    columns: list[str] | Callable[[str], bool] | None = None,
    *,
    without: Collection[str] = (),
) -> pd.DataFrame:
    """One row per use of `probe`: its tags, the request, the record, and every detector's scores.

    A detector's columns carry its name: ``alignment`` of ``clip`` is ``clip_alignment``.
    A use whose image is not made has outcome ``missing``; nothing is dropped.

    Args:
        columns: only these, or those of whose names it is true; the others stay on disk. Default:
            all, embeddings included.
        without: columns of detectors, by the detectors' own names, that stay on disk.
    """
    listed = columns if isinstance(columns, list) else None
    chosen = columns if callable(columns) else (listed or ()).__contains__
    with views(run) as there:
        names_of_views = there.names()
        uses = f"uses_{column_safe(probe)}"
        if uses not in names_of_views:
            return pd.DataFrame()

        def wanted(names: Iterable[str]) -> list[str]:
            return [name for name in names if columns is None or chosen(name)]

        requests = there.read(uses, ["request"])["request"].cast(pa.string())
        found: dict[str, pa.ChunkedArray] = {}
        own = there.columns(uses)
        if names := wanted(own):
            found.update(zip(names, there.read(uses, names).columns, strict=True))
        # Joined by place, a view at a time: a join in SQL would hold all of them twice.
        for view, named in _joined(there, own, without):
            if names := wanted(named):
                rows = there.read(view, ["request", *(named[name] for name in names)])
                places = pc.index_in(requests, value_set=rows["request"].cast(pa.string()))
                found.update((name, rows[named[name]].take(places)) for name in names)
                del rows
    if "records" not in names_of_views:
        found |= {name: pa.nulls(len(requests), pa.string()) for name in wanted(RECORDED)}
    if "outcome" in found:
        found["outcome"] = pc.fill_null(found["outcome"].cast(pa.string()), "missing")
    return frame_of(pa.table(found if listed is None else {name: found[name] for name in listed}))


def _joined(
    there: Views, own: Collection[str], without: Collection[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The views that uses with the columns `own` are joined with: name in the table → in the view.

    A name is taken by the first that has it.
    """
    taken, known = {"request", "outcome", *own}, there.names()
    for view in ("requests", "records"):
        if view in known:
            names = sorted({*there.columns(view)} - taken)
            taken |= {*names}
            names += ["outcome"] if view == "records" else []
            yield view, {name: name for name in names}
    for view in sorted(name for name in known if name.startswith("detections_")):
        names = sorted({*there.columns(view)} - {"request", "image", *without})
        yield view, {f"{view.removeprefix('detections_')}_{name}": name for name in names}


def select(frame: pd.DataFrame, evidence: Mapping[str, Any]) -> pd.DataFrame:
    """The rows behind a finding: each column of its `evidence` equals the value, is one of the
    values of a list, or is missing where the value is ``None``."""
    chosen = pd.Series(True, frame.index)
    for column, value in evidence.items():
        if column == "probe":
            continue
        if value is None:
            chosen &= frame[column].isna()
        elif isinstance(value, list):
            chosen &= frame[column].isin(value)
        else:
            chosen &= frame[column] == value
    return frame[chosen]
