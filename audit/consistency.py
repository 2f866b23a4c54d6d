"""Do a run's tables fit each other? Each request's id, each row's place, each image's thumbnail.

The journal's hashes say whether a file is as it was written; this says whether what was written can
be: it finds a run whose journal was written anew after a change.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator

import duckdb
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import AuditError
from .flagged import catalog, quoted
from .plan import Request
from .store import THUMBNAIL, Run, encode

NAMED = 5
"""Rows of one kind that are named; the others are counted."""
STRANGE = 3.0
"""Mean distance, of 255, from which a thumbnail is not its image's: two encoders of one quality
leave less."""


def images(run: Run) -> set[str]:
    """The images that the records name."""
    with run.connect() as database:
        if "image" not in catalog(database).get("records", ()):
            return set()
        rows = database.execute("SELECT DISTINCT image FROM records WHERE image IS NOT NULL")
        return {row[0] for row in rows.fetchall()}


def problems(run: Run) -> list[str]:
    """One line for every kind of row that does not fit, with the first of them.

    Raises:
        duckdb.Error: a table cannot be read.
    """
    with run.connect() as database:
        views = catalog(database)
        found = list(_plan(run, database)) if "requests" in views else []
        if {"image", "outcome"} <= views.get("records", {}).keys():
            found += _records(database, "requests" in views)
        for view in views:
            if view.startswith("detections_") and "records" in views:
                found += _scores(database, view, "image" in views[view])
            elif view.startswith("uses_") and "requests" in views:
                missing = f"SELECT request FROM {quoted(view)} ANTI JOIN requests USING (request)"
                found += _told(database, missing, f"{view}: not in the plan")
        return found


def _plan(run: Run, database: duckdb.DuckDBPyConnection) -> Iterator[str]:
    fields = [field.name for field in dataclasses.fields(Request)]
    names = ", ".join(map(quoted, ["request", *fields]))
    wrong: list[str] = []
    cursor = database.execute(f"SELECT {names} FROM requests")
    while rows := cursor.fetchmany(4096):
        for request, *values in rows:
            if Request(**dict(zip(fields, values, strict=True))).id != request:
                wrong.append(str(request))
    if wrong:
        yield _line("plan.parquet: the id is not that of the request", wrong)
    twice = "SELECT request FROM requests GROUP BY 1 HAVING count(*) > 1"
    yield from _told(database, twice, "plan.parquet: twice")
    place = "SELECT min(request) FROM requests GROUP BY batch, slot HAVING count(*) > 1"
    yield from _told(database, place, "plan.parquet: batch and slot of another request")


def _records(database: duckdb.DuckDBPyConnection, planned: bool) -> Iterator[str]:
    if planned:
        strange = "SELECT request FROM records ANTI JOIN requests USING (request)"
        yield from _told(database, strange, "records: not in the plan")
    twice = "SELECT request FROM records GROUP BY 1 HAVING count(*) > 1"
    yield from _told(database, twice, "records: twice")
    without = "SELECT request FROM records WHERE (outcome = 'ok') <> (image IS NOT NULL)"
    yield from _told(database, without, "records: an image without the outcome 'ok', or none with")


def _scores(database: duckdb.DuckDBPyConnection, view: str, told: bool) -> Iterator[str]:
    name, table = f"detections/{view.removeprefix('detections_')}", quoted(view)
    twice = f"SELECT request FROM {table} GROUP BY 1 HAVING count(*) > 1"
    yield from _told(database, twice, f"{name}: twice")
    strange = f"SELECT request FROM {table} ANTI JOIN records USING (request)"
    yield from _told(database, strange, f"{name}: not among the records")
    if told:
        other = (
            f"SELECT request FROM {table} AS scores JOIN records USING (request) "
            "WHERE scores.image IS DISTINCT FROM records.image"
        )
        yield from _told(database, other, f"{name}: scores of another image than the record's")


def _told(database: duckdb.DuckDBPyConnection, query: str, what: str) -> Iterator[str]:
    count = database.execute(f"SELECT count(*) FROM ({query})").fetchone()
    if count and count[0]:
        rows = database.execute(f"SELECT * FROM ({query}) ORDER BY 1 LIMIT {NAMED}").fetchall()
        yield _line(what, [str(row[0]) for row in rows], count[0])


def _line(what: str, requests: list[str], count: int | None = None) -> str:
    count = len(requests) if count is None else count
    more = f" and {count - NAMED} more" if count > NAMED else ""
    return f"{what}: {', '.join(requests[:NAMED])}{more}"


def thumbnail_problem(run: Run, digest: str) -> str:
    """What is wrong with the thumbnail of an image of the run; empty: nothing.

    It is held against one made anew, byte for byte; where another version of the encoder made it,
    by its pixels.
    """
    path = run.image_path(digest, thumbnail=True)
    try:
        stored, again = path.read_bytes(), encode(run.load_image(digest)).thumbnail
        if stored == again:
            return ""
        shown, made = _pixels(stored), _pixels(again)
    except FileNotFoundError:
        return "missing"
    except (AuditError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        return f"damaged: {' '.join(str(error).split())[:120]}"
    same = shown.shape == made.shape and np.abs(shown - made).mean() <= STRANGE
    return "" if same else "shows another image"


def _pixels(webp: bytes) -> NDArray[np.float64]:
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        if max(image.size) > THUMBNAIL:
            raise AuditError(f"{image.width}×{image.height} pixels")
        return np.asarray(image.convert("RGB"), float)
