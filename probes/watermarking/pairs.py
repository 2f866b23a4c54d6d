"""Marked images of a run beside the unmarked ones of the same prompt and seed."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from audit.errors import AuditError
from audit.store import Run
from safety.watermarks.readings import Readings

MOST = 24
"""Pairs that are held in memory together."""


@dataclass(frozen=True)
class Pair:
    """Two images that differ in the mark alone, as far as the pipeline is deterministic."""

    request: str
    prompt: str
    clean: Image.Image
    marked: Image.Image


def pairs(run: Run, readings: Readings, delivery: str) -> list[Pair]:
    """One marked image of every prompt with its unmarked twin, both there and of one size.

    One seed of each is enough: a codec changes all images about alike, and it is the prompts that
    bound a mean.
    """
    key = ["prompt", "seed"]
    clean, marked = (
        rows[rows["outcome"] == "ok"].sort_values("seed", kind="stable")
        for rows in (readings.of("", name).delivered for name in ("clean", delivery))
    )
    twins = clean.drop_duplicates(key).set_index(key)["image"]
    found: list[Pair] = []
    for row in marked.drop_duplicates("prompt").to_dict("records"):
        twin = twins.get((row["prompt"], row["seed"]))
        if twin is None or len(found) == MOST:
            continue
        try:
            images = run.load_image(twin), run.load_image(row["image"])
        except AuditError:
            continue  # whoever uses pairs says how many of the prompts have one
        if images[0].size == images[1].size:
            found.append(Pair(row["request"], row["prompt"], *images))
    return found
