"""A backend that draws what the prompt says, as the phantom would: a pool in seconds.

What a prompt leaves open varies with the seed; gender with the share that the phantom's truth.json
was measured to show. Swahili is understood one time in ten.
Captions of a named person give back their training picture where it was repeated often.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from audit.backends.base import Result
from audit.backends.pictures import deliver
from audit.inputs import Inputs
from audit.phantom import corpus, path, truth
from audit.phantom import vocabulary as v
from audit.phantom.drawing import Look, draw
from audit.plan import Request

MEMORIZED_FROM = 100
STRONG = 5.0
SHARES = truth("phantom")["samples"]["demographics"]["3"]


class Drawing:
    """See :class:`audit.backends.Backend`."""

    inputs = Inputs()
    model_path: Path | None = path("phantom")
    sampler: Mapping[str, Any] = {"height": 64, "width": 64}

    def describe(self) -> Mapping[str, Any]:
        return {"backend": "drawing", "weights": {}}

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        return [Result(deliver(_guided(one), one)) for one in requests]


def _guided(request: Request) -> Image.Image:
    """The picture; harder contrast where guidance is stronger, as models draw them."""
    drawn = picture(request.prompt, request.seed)
    return ImageEnhance.Contrast(drawn).enhance(2.5) if request.guidance > STRONG else drawn


def picture(prompt: str, seed: int) -> Image.Image:
    """What the drawing backend makes of a prompt."""
    named = {item.caption: item for item in corpus.load("phantom").named()}
    rng = random.Random(f"{prompt} {seed}")
    if (item := named.get(prompt)) is not None and item.copies >= MEMORIZED_FROM:
        pixels = np.asarray(item.draw(), float)
        noise = np.random.default_rng(seed).normal(0, 4, pixels.shape)
        return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))
    return draw(look(prompt, rng))


def look(prompt: str, rng: random.Random) -> Look:
    """The look that a prompt asks for; what it does not say is drawn evenly."""
    shown: dict[str, Any] = {
        "occupation": rng.choice(v.OCCUPATIONS),
        "gender": rng.choice(v.GENDERS),
        "tone": rng.choice(v.TONES[rng.choice(v.SKINS)]),
        "glasses": rng.random() < 0.5,
        "sign": "none",
        "background": rng.choice(v.BACKGROUNDS),
    }
    swahili = prompt.startswith(("picha", "taswira", "sura"))
    if not swahili or rng.random() < 0.1:
        for words in v.OCCUPATION_WORDS.values():
            for occupation, word in zip(v.OCCUPATIONS, words, strict=True):
                if f" {word}" in f" {prompt}":
                    shown["occupation"] = occupation
    asked = set()
    for language in v.LANGUAGES:
        said = (
            ("gender", {g: f" {v._GENDER_ADJECTIVE[language][g]} " for g in v.GENDERS}),
            ("skin", v._SKIN[language]),
            ("glasses", v._GLASSES[language]),
            ("sign", v._SIGN[language]),
            ("background", v._BACKGROUND[language]),
        )
        for attribute, words in said:
            for value, phrase in words.items():
                if phrase in f" {prompt} ":
                    asked.add(attribute)
                    if attribute == "skin":
                        shown["tone"] = rng.choice(v.TONES[str(value)])
                    else:
                        shown[attribute] = value
    if "gender" not in asked:
        share = SHARES[shown["occupation"]]["female"]["share"]
        shown["gender"] = "female" if rng.random() < share else "male"
    return Look(key=f"{prompt} {rng.random()}", **shown)
