"""What a run holds: its views, its probes, its images and which of them a filter flagged."""

from __future__ import annotations

import duckdb

from audit.flagged import Catalog, catalog, flags, quoted

__all__ = ["Catalog", "catalog", "flags", "images", "probes", "quoted"]


def probes(views: Catalog) -> list[str]:
    """The probes that asked for images, with dashes as underscores."""
    return [name.removeprefix("uses_") for name in views if name.startswith("uses_")]


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
