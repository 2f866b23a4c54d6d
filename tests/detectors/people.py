"""Labelled photographs of people who do not exist: the package openpeople, made by a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import openpeople
from PIL import Image

from audit.detectors.base import Batch, Item

SINGLE = ("amateur_posture", "amateur_selfie", "studio_portrait", "studio_posture")
"""The kinds of picture that show one person once."""
_FITZPATRICK = ("I", "II", "III", "IV", "V", "VI")


@dataclass(frozen=True)
class Portrait:
    """A photograph with what its prompt asked for."""

    person: str
    kind: str
    sex: str
    age: float
    """The middle of the range."""
    fitzpatrick: int
    image: Image.Image


@cache
def portraits(kinds: tuple[str, ...] = SINGLE) -> tuple[Portrait, ...]:
    """Every person in every kind of picture, the longer side 768 pixels."""
    folder = Path(str(files("openpeople") / "data" / "curated"))
    found = []
    for person in openpeople.curated.list():
        said = person.demographics
        ages = [int(age) for age in said.age_range.split("-")]
        for kind in kinds:
            with Image.open(folder / person.person_id / "assets" / f"{kind}.jpg") as image:
                image.draft("RGB", (768, 768))
                image.thumbnail((768, 768))
                picture = image.convert("RGB")
            tone = _FITZPATRICK.index(said.skin_tone.split()[-1]) + 1
            found.append(Portrait(person.person_id, kind, said.sex, sum(ages) / 2, tone, picture))
    return tuple(found)


def batch(images: Sequence[Image.Image]) -> Batch:
    """A batch of pictures alone."""
    return Batch([Item(str(index), "", image, "", "") for index, image in enumerate(images)])
