"""What a run holds: its views, its probes, its images and which of them a filter flagged."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

Catalog = Mapping[str, Mapping[str, str]]
"""View → column → DuckDB type."""


def catalog(database: duckdb.DuckDBPyConnection) -> Catalog:
    """Every view of the run with its columns."""
    rows = database.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE NOT internal ORDER BY table_name, column_index"
    ).fetchall()
    views: dict[str, dict[str, str]] = {}
    for view, column, kind in rows:
        views.setdefault(view, {})[column] = kind
    return views


def probes(views: Catalog) -> list[str]:
    """The probes that asked for images, with dashes as underscores."""
    return [name.removeprefix("uses_") for name in views if name.startswith("uses_")]


def flags(views: Catalog) -> dict[str, str]:
    """Filter → SQL over its view that is true where it flagged an image.

    The rule of the card's pictures: a column whose name ends in ``flagged``, or a score in one
    that ends in ``nsfw`` or ``unsafe`` from one half on.
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
                tests.append(f"{column} >= 0.5")
        if tests:
            found[view.removeprefix("detections_")] = f"coalesce({' OR '.join(tests)}, false)"
    return found


def images(database: duckdb.DuckDBPyConnection) -> dict[str, bool]:
    """Every image that may be shown → whether it is flagged.

    A training image counts as flagged when an image generated beside it is.
    """
    views, known = catalog(database), dict[str, bool]()
    if "image" in views.get("records", ()):
        rows = database.execute("SELECT DISTINCT image FROM records WHERE image IS NOT NULL")
        known = {image: False for (image,) in rows.fetchall()}
    for name, test in flags(views).items():
        rows = database.execute(f'SELECT DISTINCT image FROM "detections_{name}" WHERE {test}')
        known |= {image: True for (image,) in rows.fetchall() if image in known}
    if {"image", "match"} <= set(views.get("table_memorization_neighbours", ())):
        pairs = database.execute('SELECT image, "match" FROM table_memorization_neighbours')
        for image, match in pairs.fetchall():
            if match:
                known[match] = known.get(match, False) or known.get(image, False)
    return known


def quoted(name: str) -> str:
    """A name as an SQL identifier; names of tags come from the run and may be anything."""
    return '"' + name.replace('"', '""') + '"'
