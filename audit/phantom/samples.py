"""Which samples the truth about a phantom is measured on, and making them.

The truth about samples is not the truth about the corpus: guidance makes majorities larger. So it
is measured, per guidance scale, on many samples. Occupations do not share seeds here, so that their
errors are independent; an audit shares them, because it compares.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audit.phantom import corpus
from audit.phantom import vocabulary as v

SEED = 70_000
BATCH = 16
STEPS = 12
"""Sampling steps. Of 120 portraits, 20 steps draw 118 alike in gender, 116 in skin, and all in
occupation and sign; half of them differ by less than one of 255 grey levels."""
SHARES = {
    "phantom": {3.0: 80, 1.0: 80, 5.0: 80},
    "null": {3.0: 80, 1.0: 20, 5.0: 20},
}
"""Samples per occupation and guidance scale of prompts that say the occupation only."""
PER_LANGUAGE = 15
ASKED = {"phantom": 360, "null": 180}
PER_SIGN = {"phantom": 48, "null": 12}
PER_NAME = {"phantom": 3, "null": 1}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to be made; of the attributes only what the prompt asks for is set."""

    group: str
    prompt: str
    seed: int
    guidance: float = 3.0
    language: str = "en"
    occupation: str | None = None
    gender: str | None = None
    skin: str | None = None
    glasses: bool | None = None
    sign: str | None = None
    background: str | None = None
    item: str | None = None


def _ask(
    group: str, seed: int, guidance: float = 3.0, language: str = "en", **asked: Any
) -> Sample:
    occupation = asked.pop("occupation", None)
    words = v.prompt(occupation, language, **asked)
    return Sample(group, words, seed, guidance, language, occupation=occupation, **asked)


def plan(name: str, share: float = 1.0) -> list[Sample]:
    """The samples of one phantom; `share` makes every group smaller."""

    def some(n: int) -> range:
        return range(max(1, round(n * share)))

    out: list[Sample] = []
    for guidance, n in SHARES[name].items():
        out += [
            _ask("shares", SEED + 1000 * k + i, guidance, occupation=o)
            for i in some(n)
            for k, o in enumerate(v.OCCUPATIONS)
        ]
    for language in v.LANGUAGES[1:]:
        out += [
            _ask("languages", SEED + i, language=language, occupation=o)
            for i in some(PER_LANGUAGE)
            for o in v.OCCUPATIONS
        ]
    rng = random.Random("asked")
    for i in some(ASKED[name]):
        asked: dict[str, Any] = {
            "occupation": v.OCCUPATIONS[i % 12],
            "gender": v.GENDERS[i // 12 % 2],
            "skin": rng.choice((None, *v.SKINS, *v.SKINS)),
            "glasses": rng.choice((None, True, False)),
            "background": rng.choice((None, *v.BACKGROUNDS)),
        }
        out.append(_ask("asked", SEED + i, **asked))
    for i in some(PER_SIGN[name]):
        out += [
            _ask("signs", SEED + i, occupation=v.OCCUPATIONS[i % 12], sign=s)
            for s in v.SIGNS
            if s != "none"
        ]
    for item in corpus.load(name).named()[:: 1 if share == 1 else 9]:
        out += [
            replace(_ask("named", SEED + i), prompt=item.caption, item=item.id)
            for i in range(PER_NAME[name])
        ]
    return out


def _batches(samples: list[Sample]) -> Iterator[list[int]]:
    """Indices of samples in batches of one guidance scale each."""
    for guidance in sorted({s.guidance for s in samples}):
        same = [i for i, s in enumerate(samples) if s.guidance == guidance]
        for at in range(0, len(same), BATCH):
            yield same[at : at + BATCH]


def generate(pipeline: Any, samples: list[Sample], steps: int = STEPS) -> npt.NDArray[np.uint8]:
    """(n, 64, 64, 3) images of the samples, each from a CPU generator of its own seed."""
    import torch

    images = np.zeros((len(samples), 64, 64, 3), np.uint8)
    pipeline.set_progress_bar_config(disable=True)
    for chosen in _batches(samples):
        out = pipeline(
            [samples[i].prompt for i in chosen],
            guidance_scale=samples[chosen[0]].guidance,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(samples[i].seed) for i in chosen],
            output_type="np",
        )
        images[chosen] = (out.images * 255).round().astype(np.uint8)
    return images


def generate_to(
    folder: Path, pipeline: Any, samples: list[Sample], chunk: int = 192
) -> npt.NDArray[np.uint8]:
    """`generate` in chunks kept in `folder`, so that a killed run goes on where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    parts, clock = [], time.monotonic()
    for at in range(0, len(samples), chunk):
        kept, wanted = folder / f"{at:05d}.npz", samples[at : at + chunk]
        key = repr([asdict(s) for s in wanted])
        if kept.exists():
            stored = np.load(kept, allow_pickle=False)
            if str(stored["key"]) == key:
                parts.append(stored["images"])
                continue
        images = generate(pipeline, wanted)
        partial = kept.with_suffix(".partial.npz")
        np.savez(partial, images=images, key=np.array(key))
        partial.replace(kept)
        parts.append(images)
        print(
            f"{at + len(wanted)}/{len(samples)} samples, {time.monotonic() - clock:.0f} s",
            flush=True,
        )
    return np.concatenate(parts)
