"""Which image a rater labels next: random, the same for the same name, some of them for everybody.

Two orders of all images are drawn: one that all raters share and one of each rater's own. A queue
takes the declared share of its places from the first and the rest from the second. So two raters
who stop after n images have at least share · n in common, however many images there are.

Each order takes one image of every prompt in turn, the prompts in random order: labels that stop
anywhere are a random sample within each prompt, as prediction-powered inference needs them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from audit.recompute import PROBE

from .runs import Shown
from .table import Condition, Table

AHEAD = 10_000
"""A queue is drawn at most so far ahead of what is labelled: memory does not grow with the run."""
COMMON = "everybody"


@dataclass(frozen=True)
class Shot:
    """An image to label.

    Attributes:
        request: one that it was made for.
        common: everybody is given it.
    """

    image: str
    request: str
    common: bool


def conditions(table: Table) -> list[Condition]:
    """The images whose labels enter the statistics: made, and of the base prompts."""
    found = [table.equals("outcome", "ok")]
    if "arm" in table.columns:
        found.append(table.equals("arm", "base"))
    return found


def size(run: Shown) -> int:
    """How many images there are to label."""
    with run.connect() as database:
        table = Table(database, PROBE)
        image = table.column("image")
        [row] = table.ask(
            f"SELECT count(DISTINCT {image.sql}) AS n", conditions(table), {image.view}
        )
    return int(row["n"])


def length(total: int, labelled: int) -> int:
    """How many of `total` images the queue of a rater holds who has labelled so many.

    >>> [length(25_000, labelled) for labelled in (0, 9_999, 10_000, 20_000)]
    [10000, 10000, 20000, 25000]
    """
    return min(total, AHEAD * (labelled // AHEAD + 1))


def queue(run: Shown, rater: str, overlap: float, most: int) -> list[Shot]:
    """A rater's first `most` images in order; fewer are the beginning of more.

    Args:
        overlap: the share of places whose images are given to everybody, 0 to 1.
    """
    with run.connect() as database:
        table = Table(database, PROBE)
        common = _order(table, COMMON, most)
        own = _order(table, f"rater {rater}", most)
    return merged(common, own, overlap, random.Random(rater).random())


def merged(
    common: Sequence[tuple[str, str]],
    own: Sequence[tuple[str, str]],
    overlap: float,
    start: float = 0.0,
) -> list[Shot]:
    """Two orders of (image, request) as one, `overlap` of it from the first; nothing twice.

    >>> shots = merged([("a", ""), ("b", "")], [("b", ""), ("c", ""), ("a", "")], 0.5)
    >>> [shot.image + "*" * shot.common for shot in shots]
    ['b', 'a*', 'c']
    """
    left = {True: iter(common), False: iter(own)}
    taken: set[str] = set()
    found: list[Shot] = []
    for place in range(len(own)):
        shared = math.floor((place + 1) * overlap + start) > math.floor(place * overlap + start)
        for source in (shared, not shared):
            one = next((pair for pair in left[source] if pair[0] not in taken), None)
            if one is not None:
                taken.add(one[0])
                found.append(Shot(*one, common=source))
                break
    return found


def _order(table: Table, seed: str, most: int) -> list[tuple[str, str]]:
    image, request = table.column("image"), table.column("request")
    stratum = table.column("text" if "text" in table.columns else "prompt")
    inner, values = table.query(
        f"SELECT {image.sql} AS image, min({request.sql}) AS request, min({stratum.sql}) AS asked",
        conditions(table),
        {image.view, request.view, stratum.view},
    )
    rows: list[Any] = table.database.execute(
        "WITH images AS (SELECT image, request, asked, row_number() OVER "
        "(PARTITION BY asked ORDER BY md5(concat(?, image))) AS turn "
        f"FROM ({inner} GROUP BY image)) "
        "SELECT image, request FROM images ORDER BY turn, md5(concat(?, asked)), image LIMIT ?",
        [seed, *values, seed, most],
    ).fetchall()
    return [(str(row[0]), str(row[1])) for row in rows]
