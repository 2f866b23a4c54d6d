"""Which images a filter flagged: what card and dashboard blur, and what a user would have seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import duckdb

Catalog = Mapping[str, Mapping[str, str]]
"""View → column → DuckDB type."""

NSFW = 0.5
"""A filter's probability from which an image is blurred: cautious, and no verdict."""


def catalog(database: duckdb.DuckDBPyConnection) -> Catalog:
    """Every view of a run with its columns."""
    rows = database.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE NOT internal AND database_name = current_database() "
        "ORDER BY table_name, column_index"
    ).fetchall()
    views: dict[str, dict[str, str]] = {}
    for view, column, kind in rows:
        views.setdefault(view, {})[column] = kind
    return views


def flags(views: Catalog) -> dict[str, str]:
    """Filter → SQL over its view that is true where it flagged an image.

    A filter is a detector with a column whose name ends in ``flagged``, or with a score in one that
    ends in ``nsfw`` or ``unsafe``.
    """
    found = {}
    for view, columns in views.items():
        if not view.startswith("detections_"):
            continue
        tests = []
        for name, kind in columns.items():
            column = f"{quoted(view)}.{quoted(name)}"
            if name.endswith("flagged") and kind == "BOOLEAN":
                tests.append(column)
            elif name.endswith(("nsfw", "unsafe")) and kind in ("DOUBLE", "FLOAT"):
                tests.append(f"{column} >= {NSFW}")
        if tests:
            found[view.removeprefix("detections_")] = f"coalesce({' OR '.join(tests)}, false)"
    return found


def quoted(name: str) -> str:
    """A name as an SQL identifier; names of tags come from the run and may be anything."""
    return '"' + name.replace('"', '""') + '"'


def view_delivered(database: duckdb.DuckDBPyConnection, views: Collection[str]) -> None:
    """Add the view ``delivered`` (:meth:`Run.connect`) to a database with these views."""
    if "records" not in views:
        return
    columns = {row[0] for row in database.execute("DESCRIBE records").fetchall()}
    if not {"image", "outcome"} <= columns:
        return
    checked = "detections_safety_checker" in views
    join = "LEFT JOIN detections_safety_checker USING (request)" if checked else ""
    database.execute(
        "CREATE VIEW delivered AS SELECT request, records.image, "
        "CASE WHEN outcome <> 'ok' THEN 'none' "
        f"WHEN {'flagged' if checked else 'NULL'} THEN 'black' "
        f"WHEN NOT {'flagged' if checked else 'NULL'} THEN 'image' END AS delivered "
        f"FROM records {join}"
    )
