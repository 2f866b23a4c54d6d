"""A probe's rows, asked of DuckDB page by page; values are bound, columns are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb

from audit.errors import AuditError
from audit.store import column_safe

from . import index
from .queries import catalog, quoted

FEW = 500
"""A tag with at most so many distinct values becomes a select box."""
IMAGES = "images"
"""The index's table of images."""
KEY = "t2i_key"

T = TypeVar("T")
_answers: dict[tuple[Any, ...], Any] = {}
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
    """A column of a probe's table.

    Attributes:
        view: what a question that uses `sql` must read.
        sql: how it is called there.
        type: DuckDB's.
        origin: the run's own view that it comes from.
    """

    view: str
    sql: str
    type: str
    origin: str


class Table:
    """The rows of one probe, as :func:`audit.evidence.table` has them, asked of the index.

    Lists and structures are read from the run itself. No more rows than a page are read.
    Without a probe: every request of the run.

    Args:
        database: of :meth:`dashboard.runs.Shown.connect`.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection, probe: str | None) -> None:
        self.database = database
        self.views = catalog(database)
        own = f"uses_{column_safe(probe)}" if probe else "requests"
        if own not in self.views or "requests" not in self.views:
            raise AuditError(
                f"the run has no images of the probe '{probe}'"
                if own not in self.views and probe
                else "the run has no plan yet"
            )
        self.base = own if probe else IMAGES
        self.columns: dict[str, Column] = {}
        self.scores: list[str] = []
        if probe:
            for name, kind in self.views[own].items():
                sql = f"{quoted(own)}.{quoted(name)}"
                self.columns[name] = Column(own, sql, kind, own)
        self.tags = [name for name in self.columns if name not in ("request", "text")]
        for name, source in index.sources(self.views).items():
            if name in self.columns:
                continue
            sql = f"{IMAGES}.{quoted(name)}"
            if source.nested:
                sql = f"{quoted(source.view)}.{quoted(source.name)}"
            view = source.view if source.nested else IMAGES
            self.columns[name] = Column(view, sql, source.type, source.view)
            if source.view.startswith("detections_") and _number(source.type):
                self.scores.append(name)
        outcome = f"coalesce({IMAGES}.outcome, 'missing')"
        self.columns["outcome"] = Column(IMAGES, outcome, "VARCHAR", "records")

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

    def shown_as(self, name: str, *texts: str) -> Condition:
        """Equality with any of the values as a select box shows them."""
        column = self.column(name)
        given = tuple(text for text in texts if text != NOTHING)
        marks = ", ".join("?" * len(given))
        tests = [f"CAST({column.sql} AS VARCHAR) IN ({marks})"] if given else []
        if len(given) < len(texts):
            tests.append(f"{column.sql} IS NULL")
        return Condition(f"({' OR '.join(tests) or 'false'})", given, frozenset({column.view}))

    def between(self, name: str, low: float, high: float) -> Condition:
        """A score within bounds, both of them included."""
        column = self.column(name)
        return Condition(f"{column.sql} BETWEEN ? AND ?", (low, high), frozenset({column.view}))

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
        return Condition(f"coalesce({IMAGES}.flagged, false)", (), frozenset({IMAGES}))

    def options(self, name: str) -> list[str] | None:
        """The distinct values of a tag as text, or ``None`` when there are more than a few."""
        return self._once(("options", name), lambda: self._options(name))

    def _options(self, name: str) -> list[str] | None:
        column = self.column(name)
        if index.nested(column.type):
            return None
        rows = self._fetch(
            f"SELECT DISTINCT {column.sql} AS value, CAST({column.sql} AS VARCHAR) AS text",
            [],
            {column.view},
            f" ORDER BY 1 NULLS LAST LIMIT {FEW + 1}",
        )
        if len(rows) > FEW:
            return None
        return [NOTHING if row["text"] is None else row["text"] for row in rows]

    def histogram(self, name: str, bins: int = 40) -> tuple[float, float, list[int]] | None:
        """Smallest and largest finite score, and how many images lie in each of equal bins."""
        return self._once(("histogram", name, bins), lambda: self._histogram(name, bins))

    def _histogram(self, name: str, bins: int) -> tuple[float, float, list[int]] | None:
        column = self.column(name)
        value = f"CAST({column.sql} AS DOUBLE)"
        finite = Condition(f"isfinite({value})", (), frozenset({column.view}))
        [ends] = self._fetch(
            f"SELECT min({value}) AS low, max({value}) AS high", [finite], {column.view}, ""
        )
        low, high = ends["low"], ends["high"]
        if low is None:
            return None
        counts = [0] * bins
        width = (high - low) / bins or 1.0
        place = f"least(CAST(floor(({value} - {low!r}) / {width!r}) AS INTEGER), {bins - 1})"
        rows = self._fetch(
            f"SELECT {place} AS bin, count(*) AS n", [finite], {column.view}, " GROUP BY 1"
        )
        for row in rows:
            counts[row["bin"]] = row["n"]
        return low, high, counts

    def outcomes(self, conditions: Iterable[Condition] = ()) -> dict[str, int]:
        """Outcome → how many rows."""
        asked = tuple(conditions)
        return self._once(("outcomes", asked), lambda: self._outcomes(asked))

    def _outcomes(self, conditions: Iterable[Condition]) -> dict[str, int]:
        rows = self._fetch(
            f"SELECT {self.columns['outcome'].sql} AS outcome, count(*) AS n",
            list(conditions),
            {IMAGES},
            " GROUP BY 1 ORDER BY 2 DESC, 1",
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
        """Some rows: the columns `names`, and ``flagged``.

        The rows are chosen first and read whole after: only what a page shows leaves the disk.
        """
        order, needed = self._order(sort, descending)
        keys = f"SELECT {quoted(self.base)}.rowid AS key"
        tail = f" ORDER BY {order} LIMIT {int(limit)} OFFSET {int(offset)}"
        chosen = [row["key"] for row in self._fetch(keys, list(conditions), needed, tail)]
        if not chosen:
            return []
        wanted = {name: self.column(name) for name in names if name in self.columns}
        select = [f"{column.sql} AS {quoted(name)}" for name, column in wanted.items()]
        select += [f"{self.flagged().sql} AS flagged", f"{quoted(self.base)}.rowid AS {KEY}"]
        listed = ", ".join(map(str, chosen))
        rows = self._fetch(
            f"SELECT {', '.join(select)}",
            # A list of its own is joined; values in the condition would read the columns whole.
            [Condition(f"{quoted(self.base)}.rowid IN (SELECT unnest([{listed}]))")],
            {IMAGES} | {column.view for column in wanted.values()},
            "",
        )
        found = {row.pop(KEY): row for row in rows}
        return [found[key] for key in chosen]

    def neighbours(
        self, request: str, conditions: Iterable[Condition], sort: str | None, descending: bool
    ) -> tuple[str | None, str | None]:
        """The requests before and after one, in the order of :meth:`page`."""
        place, asked = f"{IMAGES}.{index.PLACE}", self.columns["request"]
        value, views = "CAST(0 AS TINYINT)", {IMAGES, asked.view}
        if sort:
            value, views = self.column(sort).sql, views | {self.column(sort).view}
        select = f"SELECT {value} AS value, {place} AS place"
        here = self._fetch(select, [self.equals("request", request)], views, " LIMIT 1")
        if not here or here[0]["place"] is None:
            return None, None
        at, number = here[0]["value"], int(here[0]["place"])
        found: list[str | None] = []
        for forward in (False, True):
            tests = [f"{value} IS NOT DISTINCT FROM ? AND {place} {'<>'[forward]} {number}"]
            if at is not None:
                tests.append(f"{value} {'<>'[forward != descending]} ?")
            if forward != (at is None):  # those without a score come last
                tests.append(f"{value} IS {'NULL' if forward else 'NOT NULL'}")
            condition = Condition(
                f"({' OR '.join(tests)})", (at,) if at is None else (at, at), frozenset()
            )
            up, down = ("DESC NULLS LAST", "ASC NULLS FIRST")
            if not descending:
                up, down = "ASC NULLS LAST", "DESC NULLS FIRST"
            order = f"{value} {up if forward else down}, {place} {'ASC' if forward else 'DESC'}"
            rows = self._fetch(
                f"SELECT {asked.sql} AS request",
                [*conditions, condition],
                views,
                f" ORDER BY {order} LIMIT 1",
            )
            found.append(rows[0]["request"] if rows else None)
        return found[0], found[1]

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

    def query(
        self, select: str, conditions: Iterable[Condition], views: Iterable[str]
    ) -> tuple[str, list[Any]]:
        """A question as :meth:`ask` would ask it, to be part of a larger one, and its values."""
        return self._query(select, list(conditions), set(views), "")

    def _once(self, question: tuple[Any, ...], answer: Callable[[], T]) -> T:
        """An answer that is kept until the run changes: pages ask the same again and again."""
        [[state]] = self.database.execute("SELECT state FROM idx.built").fetchall()
        key = (state, self.base, *question)
        if key not in _answers:
            if len(_answers) >= 4096:
                _answers.clear()
            _answers[key] = answer()
        found: T = _answers[key]
        return found

    def _order(self, sort: str | None, descending: bool) -> tuple[str, set[str]]:
        place = f"{IMAGES}.{index.PLACE}"  # the plan's own order
        tail = "" if self.base == IMAGES else f", {quoted(self.base)}.rowid"
        if not sort:
            return place + tail, {IMAGES}
        column = self.column(sort)
        direction = "DESC" if descending else "ASC"
        return f"{column.sql} {direction} NULLS LAST, {place}{tail}", {IMAGES, column.view}

    def _query(
        self, select: str, conditions: list[Condition], views: set[str], tail: str
    ) -> tuple[str, list[Any]]:
        needed = views.union(*(condition.views for condition in conditions)) - {self.base}
        query = f"{select} FROM idx.{quoted(self.base)} AS {quoted(self.base)}"
        if needed and self.base != IMAGES:
            query += f" LEFT JOIN idx.{IMAGES} AS {IMAGES} USING ({index.PLACE})"
        for view in sorted(needed - {IMAGES}):
            if view in self.views:
                query += f" LEFT JOIN {quoted(view)} ON {quoted(view)}.request = {IMAGES}.request"
        where = " AND ".join(condition.sql for condition in conditions)
        query += f"{where and ' WHERE ' + where}{tail}"
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
