"""Example images, chosen by rule and never by look; what a filter flagged is blurred here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image, ImageFilter

from audit.errors import AuditError
from audit.evidence import table
from audit.flagged import NSFW, catalog, flags
from audit.store import column_safe

from .blocks import Picture, Pictures
from .content import Card
from .documents import finite
from .wording import clean, percent, plain

if TYPE_CHECKING:
    from audit.store import Run

PROMPTS, SEEDS, PAIRS = 12, 2, 6
"""A sheet shows the first seeds of the first prompts in plan order; so many pairs at most."""

SIDE = 144
"""Pixels of a thumbnail."""

RULE = (
    f"Chosen by rule, not by look: the first {SEEDS} seeds of each of the first {PROMPTS} prompts "
    "in plan order."
)


def sheet(run: Run, probe: str) -> Pictures | None:
    """The sample sheet of a probe; ``None`` where it asked for nothing."""
    wanted = ["prompt", "seed", "image", "outcome", "batch", "slot", "watermark"]
    with run.connect() as database:
        views = {name for (name,) in database.execute("SHOW TABLES").fetchall()}
    if not {"requests", f"uses_{column_safe(probe)}"} <= views:
        return None
    frame = table(run, probe, wanted)
    frame = frame.sort_values(["batch", "slot"], kind="stable")
    frame = frame.drop_duplicates(["prompt", "seed"])
    groups = list(frame.groupby("prompt", sort=False))
    if not groups:
        return None
    shown = [(str(prompt), rows.head(SEEDS)) for prompt, rows in islice(groups, PROMPTS)]
    digests = [row.image for _, rows in shown for row in rows.itertuples()]
    flagged, judged = filtered(run, digests)
    sets = [
        (
            clean(prompt),
            [
                _picture(run, row.image, _seed(row), prompt, flagged, str(row.outcome))
                for row in rows.itertuples()
            ],
        )
        for prompt, rows in shown
    ]
    here = f" Here {min(PROMPTS, len(groups)):,} of {len(groups):,} prompts."
    return Pictures("Sample images", sets, RULE + here + _filters(sets, digests, judged))


def pairs(run: Run, card: Card) -> Pictures | None:
    """Generated images beside the training images they match, the most similar first."""
    frame = card.tables.get("memorization.neighbours")
    if frame is None or "similarity" not in frame or "image" not in frame:
        return None
    order = frame.assign(copied=_true(frame, "copied"))
    # Pixels tell a copy from a likeness; similarity of embeddings ranks where there are none.
    measure = "distance" if "distance" in frame else "similarity"
    order = order.sort_values(
        ["copied", measure, "image"],
        ascending=[False, measure == "distance", True],
        kind="stable",
    )
    # One pair for each training image, or many seeds of one caption would fill the sheet.
    matched = order["match"].fillna(order["image"]) if "match" in order else order["image"]
    rows = order[~matched.duplicated()].head(PAIRS).to_dict("records")
    digests = [row[key] for row in rows for key in ("image", "match") if key in row]
    flagged, judged = filtered(run, digests)
    groups = []
    for row in rows:
        match, hidden = row.get("match"), set(flagged)
        if row["image"] in flagged and isinstance(match, str):
            hidden.add(match)  # what was copied shows the same thing
        said = clean(row.get("caption", ""))
        distance, similarity = finite(row.get("distance")), finite(row.get("similarity"))
        copies = finite(row.get("duplicates"))
        facts = [
            "copied" if row["copied"] else "not copied",
            "" if distance is None else f"distance {distance:.3f}",
            "" if similarity is None else f"similarity {similarity:.3f}",
            "" if copies is None else f"{copies:,.0f} training copies",
        ]
        groups.append(
            (
                f"{said} ({', '.join(filter(None, facts))})",
                [
                    _picture(run, row["image"], "generated", said, hidden, "ok"),
                    _picture(run, match, "training image", said, hidden, "no image in the run"),
                ],
            )
        )
    caption = (
        f"The {len(rows)} closest pairs, copies first, one for each training image, of "
        f"{frame['image'].nunique():,} generated images compared. Left the generated image, right "
        "its match in the training data."
    )
    return Pictures("Closest pairs", groups, caption + _filters(groups, digests, judged))


def filtered(run: Run, digests: Iterable[Any]) -> tuple[set[str], set[str]]:
    """Of these images: those that a filter flagged, and those that any filter looked at."""
    wanted = sorted({digest for digest in digests if isinstance(digest, str)})
    flagged: set[str] = set()
    judged: set[str] = set()
    if not wanted:
        return flagged, judged
    with run.connect() as database:
        for name, test in flags(catalog(database)).items():
            rows = database.execute(
                f'SELECT image, bool_or({test}) FROM "detections_{name}" '
                "WHERE list_contains($1, image) GROUP BY image",
                [wanted],
            ).fetchall()
            judged |= {image for image, _ in rows}
            flagged |= {image for image, flag in rows if flag}
    return flagged, judged


def _seed(row: Any) -> str:
    return f"seed {row.seed}" + (f", marked {row.watermark}" if row.watermark else "")


def _filters(
    groups: Sequence[tuple[str, Sequence[Picture]]], digests: Sequence[Any], judged: set[str]
) -> str:
    blurred = sum(picture.blurred for _, pictures in groups for picture in pictures)
    unseen = sum(isinstance(digest, str) and digest not in judged for digest in digests)
    said = (
        f" Images that a filter flagged, or scored {percent(NSFW)} or more, are blurred before "
        f"they enter this page: {blurred:,} here."
    )
    return said + (f" No filter looked at {unseen:,} of the images." if unseen else "")


def _picture(
    run: Run, digest: Any, caption: str, prompt: str, flagged: set[str], outcome: str
) -> Picture:
    if not isinstance(digest, str):
        return Picture(caption, instead=plain(outcome))
    blurred = digest in flagged
    try:
        uri = thumbnail(run.load_image(digest), blurred)
    except AuditError:
        return Picture(caption, instead="image missing or damaged")
    alt = f"{'Blurred image' if blurred else 'Image'}, {caption}, for: {clean(prompt)}"
    shown = f"{caption}, blurred" if blurred else caption
    return Picture(shown, uri, alt, blurred=blurred)


def thumbnail(image: Image.Image, blurred: bool) -> str:
    """An image as a small WebP in a ``data:`` URI; blurred so far that nothing is recognised."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    if blurred:
        small = small.filter(ImageFilter.GaussianBlur(max(small.size) / 8))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _true(frame: pd.DataFrame, column: str) -> pd.Series[bool]:
    if column not in frame:
        return pd.Series(False, index=frame.index)
    return frame[column].map(lambda value: value is True or value == 1)
