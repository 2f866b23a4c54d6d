"""A probe's rows, asked of DuckDB page by page; values are bound, columns are checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from audit.errors import AuditError
from audit.store import column_safe

from .queries import catalog, flags, quoted

FEW = 40
"""A tag with at most so many distinct values becomes a select box."""
NOTHING = "(none)"
"""What a select box shows for a missing value."""


@dataclass(frozen=True)
class Condition:
    """One condition on rows: SQL with ``?`` for its values, and the views that it reads."""

    sql: str
    values: tuple[Any, ...] = ()
    views: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Column:
    """A column of a probe's table and where it comes from."""

    view: str
    sql: str
    type: str


class Table:
    """The rows of one probe, as :func:`audit.evidence.table` has them, read lazily.

    Only the views that a question touches are joined, and no more rows than a page are read.
    Without a probe: every request of the run.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection, probe: str | None) -> None:
        self.database = database
        self.views = catalog(database)
        base = f"uses_{column_safe(probe)}" if probe else "requests"
        if base not in self.views:
            raise AuditError(
                f"the run has no images of the probe '{probe}'"
                if probe
                else "the run has no plan yet"
            )
        self.base = base
        self.columns: dict[str, Column] = {}
        self._add(base, skip=set())
        self.tags = [name for name in self.columns if name not in ("request", "text")]
        if not probe:
            self.tags = []
        self._add("requests", skip={"request"})
        self._add("records", skip={"request", "outcome"})
        missing = "coalesce(records.outcome, 'missing')" if "records" in self.views else "'missing'"
        self.columns["outcome"] = Column("records", missing, "VARCHAR")
        self.scores: list[str] = []
        for view in self.views:
            if view.startswith("detections_"):
                self._add(view, {"request", "image"}, view.removeprefix("detections_") + "_")

    def _add(self, view: str, skip: set[str], prefix: str = "") -> None:
        for name, kind in self.views.get(view, {}).items():
            full = prefix + name
            if name in skip or full in self.columns:
                continue
            self.columns[full] = Column(view, f"{quoted(view)}.{quoted(name)}", kind)
            if prefix and _number(kind):
                self.scores.append(full)

    def column(self, name: str) -> Column:
        """A column by its name.

        Raises:
            AuditError: the run has no such column.
        """
        if name not in self.columns:
            raise AuditError(f"this run has no column '{name}' to select images by")
        return self.columns[name]

    def equals(self, name: str, value: Any) -> Condition:
        """Equality with a value, with any of a list, or with nothing (``None``)."""
        column = self.column(name)
        values = list(value) if isinstance(value, list | tuple) else [value]
        given = tuple(item for item in values if item is not None)
        tests = [f"{column.sql} IN ({', '.join('?' * len(given))})"] if given else []
        if len(given) < len(values):
            tests.append(f"{column.sql} IS NULL")
        return Condition(f"({' OR '.join(tests) or 'false'})", given, frozenset({column.view}))

    def shown_as(self, name: str, text: str) -> Condition:
        """Equality with a value as a select box shows it."""
        column = self.column(name)
        if text == NOTHING:
            return Condition(f"{column.sql} IS NULL", (), frozenset({column.view}))
        return Condition(f"CAST({column.sql} AS VARCHAR) = ?", (text,), frozenset({column.view}))

    def contains(self, text: str) -> Condition:
        """The prompt, or the English text it stands for, contains `text` in any case."""
        found = [self.columns[name] for name in ("prompt", "text") if name in self.columns]
        sql = " OR ".join(f"contains(lower({c.sql}), lower(?))" for c in found)
        return Condition(
            f"({sql or 'false'})", (text,) * len(found), frozenset(c.view for c in found)
        )

    def evidence(self, evidence: Mapping[str, Any]) -> list[Condition]:
        """The conditions of a finding's evidence."""
        return [self.equals(name, value) for name, value in evidence.items() if name != "probe"]

    def flagged(self) -> Condition:
        """Flagged by any filter."""
        tests = flags(self.views)
        views = frozenset(f"detections_{name}" for name in tests)
        return Condition(f"({' OR '.join(tests.values()) or 'false'})", (), views)

    def options(self, name: str) -> list[str] | None:
        """The distinct values of a tag as text, or ``None`` when there are more than a few."""
        column = self.column(name)
        if column.type.endswith("[]") or column.type.startswith(("STRUCT", "MAP")):
            return None
        rows = self._fetch(
            f"SELECT DISTINCT {column.sql} AS value", [], {column.view}, f" LIMIT {FEW + 1}"
        )
        if len(rows) > FEW:
            return None
        values = [row["value"] for row in rows]
        there = sorted((v for v in values if v is not None), key=lambda v: (isinstance(v, str), v))
        texts = self.database.execute("SELECT CAST(unnest(?) AS VARCHAR)", [there]).fetchall()
        return [t[0] for t in texts] + [NOTHING] * (None in values)

    def outcomes(self, conditions: Iterable[Condition] = ()) -> dict[str, int]:
        """Outcome → how many rows."""
        rows = self._fetch(
            f"SELECT {self.columns['outcome'].sql} AS outcome, count(*) AS n",
            list(conditions),
            {"records"},
            " GROUP BY 1 ORDER BY 2 DESC",
        )
        return {row["outcome"]: row["n"] for row in rows}

    def page(
        self,
        names: Iterable[str],
        conditions: Iterable[Condition],
        sort: str | None = None,
        descending: bool = True,
        limit: int = 60,
        offset: int = 0,
    ) -> list[dict[str, Any]]:
        """Some rows: the columns `names`, and ``flagged``."""
        flagged = self.flagged()
        wanted = {name: self.column(name) for name in names if name in self.columns}
        select = [f"{column.sql} AS {quoted(name)}" for name, column in wanted.items()]
        views = {column.view for column in wanted.values()} | flagged.views
        order, needed = self._order(sort, descending)
        return self._fetch(
            f"SELECT {', '.join([*select, flagged.sql + ' AS flagged'])}",
            list(conditions),
            views | needed,
            f" ORDER BY {order} LIMIT {int(limit)} OFFSET {int(offset)}",
        )

    def neighbours(
        self, request: str, conditions: Iterable[Condition], sort: str | None, descending: bool
    ) -> tuple[str | None, str | None]:
        """The requests before and after one, in the order of :meth:`page`."""
        order, views = self._order(sort, descending)
        name = f"{quoted(self.base)}.request"
        query, values = self._query(
            f"SELECT {name} AS request, lag({name}) OVER place AS before, "
            f"lead({name}) OVER place AS after",
            list(conditions),
            views,
            f" WINDOW place AS (ORDER BY {order})",
        )
        found = self.database.execute(
            f"SELECT before, after FROM ({query}) WHERE request = ? LIMIT 1", [*values, request]
        ).fetchone()
        return (found[0], found[1]) if found else (None, None)

    def ask(
        self, select: str, conditions: Iterable[Condition], views: Iterable[str], tail: str = ""
    ) -> list[dict[str, Any]]:
        """The rows of any other question.

        Args:
            select: ``SELECT …``, of the columns' own SQL.
            views: those that `select` and `tail` read.
            tail: ``GROUP BY …``, ``ORDER BY …``.
        """
        return self._fetch(select, list(conditions), set(views), tail and f" {tail}")

    def _order(self, sort: str | None, descending: bool) -> tuple[str, set[str]]:
        tail = [f"{quoted(self.base)}.request"]
        if sort:
            column = self.column(sort)
            tail.insert(0, f"{column.sql} {'DESC' if descending else 'ASC'} NULLS LAST")
            return ", ".join(tail), {column.view}
        if {"batch", "slot"} <= self.columns.keys():  # the plan's own order
            place = [self.columns["batch"], self.columns["slot"]]
            return ", ".join([*(p.sql for p in place), *tail]), {p.view for p in place}
        return ", ".join(tail), set()

    def _query(
        self, select: str, conditions: list[Condition], views: set[str], tail: str
    ) -> tuple[str, list[Any]]:
        needed = views.union(*(condition.views for condition in conditions)) - {self.base}
        joins = "".join(
            f" LEFT JOIN {quoted(view)} USING (request)"
            for view in sorted(needed)
            if view in self.views
        )
        where = " AND ".join(condition.sql for condition in conditions)
        query = f"{select} FROM {quoted(self.base)}{joins}{where and ' WHERE ' + where}{tail}"
        return query, [value for condition in conditions for value in condition.values]

    def _fetch(self, *question: Any) -> list[dict[str, Any]]:
        try:
            cursor = self.database.execute(*self._query(*question))
        except (duckdb.ConversionException, duckdb.BinderException) as error:
            raise AuditError(f"this selection does not fit the run's columns: {error}") from error
        names = [item[0] for item in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _number(kind: str) -> bool:
    return kind.startswith(
        (
            "DECIMAL",
            "FLOAT",
            "DOUBLE",
            "BOOLEAN",
            "TINYINT",
            "SMALLINT",
            "INTEGER",
            "BIGINT",
            "HUGEINT",
            "U",
        )
    )
