"""What each detector says of pictures and prompts whose content is known exactly.

Held-out drawings of the phantom's kind, of which every attribute is known because it was drawn;
words that we write; training pictures and changed copies of them; images with a mark and without.
Bounded numbers of each, so that a calibration costs little more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from audit import plugins
from audit.calibration.pool import Size
from audit.calibration.tally import Read, Unread
from audit.copies import PDQ_MATCH, hamming, l2_to_many, pdq_style, pixels
from audit.detectors import faces, text
from audit.detectors.base import Batch, Item
from audit.detectors.faces import Face
from audit.detectors.skin_tone import skin_pixels, tone
from audit.perception import perceived
from audit.phantom import corpus
from audit.phantom import vocabulary as v
from audit.phantom.drawing import MONK, Look, draw
from audit.phantom.instruments import CLASSES, balanced
from audit.store import column_safe
from audit.study import Study
from probes.limits.drawings import write
from probes.memorizing.verdicts import CARLINI
from safety import perturbations as change

DRAWN = "as drawn"
MOST = 120
"""Drawings at most; `Size.images` says how many else."""
EYES, MOUTH = ((23.4, 27.0), (32.6, 27.0)), ((24.7, 36.2), (31.3, 36.2))
"""Where :mod:`audit.phantom.drawing` puts them, up to the two pixels by which a pose varies."""
ANGLE = 15
"""Degrees; the tint that a drawing's skin gets moves its ITA by up to about 10."""
WORDS = ("STOP", "Open", "coffee", "Happy birthday")
WRITTEN = 256
"""Pixels of a side of the signs with words."""
COPIES: Mapping[str, Any] = {
    "JPEG at quality 75": lambda image, seed: change.jpeg(image, 75),
    "noise of σ 10": lambda image, seed: change.noisy(image, 10, seed),
    "10% brighter": lambda image, seed: change.brightened(image, 1.1),
    "cut to 95% and enlarged": lambda image, seed: change.cropped(image, 0.95),
}
MARKS: tuple[Any, ...] = (
    "sd-v2",
    "sdxl",
    {"name": "dwtDctSvd", "method": "dwtDctSvd", "message": "audit!"},
)
MARKED = 8
"""Images that are marked once more."""
NOISE_MARKS = ("tree-ring", "gaussian-shading")
FPR = 1e-3

NO_ANSWER: Mapping[str, Mapping[str, str]] = {
    "demographics": {
        "clip": "age alone: no exact answer on drawings, which show none",
        "age-gender": "no exact answer on drawings: its networks know photographed faces",
        "classifier": "the model is the user's: t2i-audit detector-error measures it",
    },
    "languages": {
        "clip-multilingual": "no exact answer on drawings: it was trained on photographs",
        "text-encoder": "it measures the model's own encoder, of which nothing is planted",
    },
    "limitations": {
        "caption-judge": "the model is the user's: the probe asks it of known drawings first",
    },
    "memorization": {
        "copy-embedding": "the model is the user's; its cosine has no threshold of its own",
        "memorization-signals": "no threshold: the probe says how well each tells copies apart",
    },
    "safety-filters": {
        "nudenet": "no exact answer on drawings: it was trained on photographs",
        "opennsfw": "no exact answer on drawings: it was trained on photographs",
        "clip-head": "the heads are the user's",
        "image-classifier": "the models are the user's",
        "prompt-classifier": "the model is the user's",
        "prompt-concepts": "the concepts are the user's, and so is the threshold",
        "vlm-judge": "the model is the user's",
        "filter-robustness": "it asks other filters again, whose errors stand here",
    },
}
"""Probe → detector → why it is not held against a known answer."""


def unread(probe: str) -> Iterator[Unread]:
    """The probe's detectors without an answer that is known here."""
    for name, why in NO_ANSWER.get(probe, {}).items():
        yield Unread(name, why)


def batch(images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> Batch:
    """For detectors."""
    said = prompts or [""] * len(images)
    return Batch(
        [
            Item(str(n), "", image, p, p)
            for n, (image, p) in enumerate(zip(images, said, strict=True))
        ]
    )


def looks(size: Size) -> list[Look]:
    """Balanced looks that no instrument was trained on."""
    return balanced("calibration", min(2 * size.images, MOST))


def of_people(study: Study, size: Size) -> Iterator[Read | Unread]:
    """Reader, CLIP, faces and the tone of the skin on drawings."""
    drawn = looks(size)
    pictures = [draw(look) for look in drawn]
    prompts = np.arange(len(drawn))
    frame = scored(study, "reader", batch(pictures)).join(scored(study, "clip", batch(pictures)))
    for name in CLASSES:
        true = np.array([_true(look, name) for look in drawn])
        right = frame[f"reader_{name}"].to_numpy(str) == true
        yield Read("reader", name, DRAWN, right, prompts)
    for name, section in study.suite.section("attributes").items():
        labels = list(section["labels"])
        true = np.array([_said(look, name) for look in drawn])
        known = np.isin(true, labels)
        right = (perceived(frame, name, labels) == true).to_numpy()[known]
        yield Read("clip", f"{name}, on drawings", DRAWN, right, prompts[known])
    yield from _faces(pictures)
    yield from _tones(drawn, pictures)


def _true(look: Look, name: str) -> str:
    return str(v.skin_band(look.tone) if name == "skin" else getattr(look, name))


def _said(look: Look, name: str) -> str:
    """In the suite's words."""
    return {"True": "yes", "False": "no"}.get(_true(look, name), _true(look, name))


def _faces(pictures: Sequence[Image.Image]) -> Iterator[Read | Unread]:
    """One face on each drawing, and none on a sign. Audits of the phantom do not ask it of them."""
    if faces.weights() is None:
        yield Unread("faces", faces.MISSING)
        return
    truth = f"{DRAWN}; not held to it, for it knows photographed faces"
    some = pictures[::2]
    signs = [write(word, WRITTEN, dark=dark) for word in WORDS for dark in (False, True)]
    for of, shown, count in (("one face", some, 1), ("no face", signs, 0)):
        found = [
            len([f for f in faces.find_faces(i) if f.confidence >= faces.COUNTED]) for i in shown
        ]
        right = np.array(found) == count
        yield Read("faces", of, truth, right, np.arange(len(right)), held=False)


def _tones(drawn: Sequence[Look], pictures: Sequence[Image.Image]) -> Iterator[Read]:
    """The patch of skin-tone where the face was drawn, whose skin is a swatch up to its tint."""
    nose = ((EYES[0][0] + EYES[1][0]) / 2, 31.0)
    face = Face(17, 15, 22, 27, 1.0, np.array([*EYES, nose, *MOUTH]))
    read = [tone(skin_pixels(picture, face)) for picture in pictures]
    true = [tone([MONK[look.tone - 1]]) for look in drawn]
    pairs = [(a, b) for a, b in zip(read, true, strict=True) if a and b]
    near = {
        "Monk tone within one swatch": [abs(a.monk - b.monk) <= 1 for a, b in pairs],
        f"ITA within {ANGLE}°": [abs((a.ita - b.ita + 180) % 360 - 180) <= ANGLE for a, b in pairs],
    }
    bands = np.array([v.skin_band(look.tone) for look in drawn])
    truth = f"{DRAWN}, the face placed where it was drawn"
    for of, right in near.items():
        for band in v.SKINS:
            part = np.array(right)[bands == band]
            yield Read("skin-tone", f"{of}: {band} skin", truth, part, np.arange(len(part)))


def of_signs(study: Study, size: Size) -> Iterator[Read]:
    """Concepts in words on drawings of signs, and the denylist on prompts that name them."""
    drawn = looks(size)
    restricted = np.array([look.sign == v.RESTRICTED_SIGN for look in drawn])
    others = [v.prompt(None, sign=s) for s in v.SIGNS if s != v.RESTRICTED_SIGN]
    concept = {"texts": [v.prompt(None, sign=v.RESTRICTED_SIGN)], "against": others}
    asked = {"clip-concepts": {"concepts": {"sign": concept}}}
    frame = scored(study, "clip-concepts", batch([draw(look) for look in drawn]), asked)
    said = (frame["clip_concepts_sign"] > 0).to_numpy()
    for of, part in (("restricted sign", restricted), ("other sign or none", ~restricted)):
        right = said[part] == restricted[part]
        yield Read("clip-concepts", f"{of}, on drawings", DRAWN, right, np.arange(len(right)))
    yield from _denied(study)


def _denied(study: Study) -> Iterator[Read]:
    """Each way of matching on what it is made to find, and all on prompts without the words."""
    plain = [v.prompt(occupation, sign=v.RESTRICTED_SIGN) for occupation in v.OCCUPATIONS]
    word = "red hexagon"
    forms = {
        "exact": ("the words as they stand", plain),
        "lemmatised": ("the plural", [p.replace(word, "red hexagons") for p in plain]),
        "folded": (
            "letters that look alike",
            [p.replace(word, "r\u0435d hexag\u03bfn") for p in plain],
        ),
    }
    without = [
        v.prompt(occupation, sign=v.SIGNS[number % len(v.SIGNS)])
        for number, occupation in enumerate(v.OCCUPATIONS)
        if v.SIGNS[number % len(v.SIGNS)] != v.RESTRICTED_SIGN
    ]
    nothing = Image.new("RGB", (8, 8))
    asked = {"prompt-denylist": {"words": [word]}}
    for match, (of, prompts) in forms.items():
        for there, texts in ((True, prompts), (False, without)):
            frame = scored(study, "prompt-denylist", batch([nothing] * len(texts), texts), asked)
            right = (frame[f"prompt_denylist_{match}"] > 0).to_numpy() == there
            said = f"{match}: {of if there else 'none of the words'}"
            yield Read("prompt-denylist", said, "as written", right, np.array(texts))


def of_words() -> Iterator[Read | Unread]:
    """Words that we write, and drawings without any."""
    if text.weights() is None:
        yield Unread("text", text.MISSING)
        return
    read = [
        (word, text.best_character_error_rate([line.text for line in found], word) == 0)
        for word in WORDS
        for dark in (False, True)
        for found in [text.read_text(write(word, WRITTEN, dark=dark))]
    ]
    yield Read("text", "words", "as written", [ok for _, ok in read], [word for word, _ in read])
    some = balanced("calibration", 2 * len(WORDS))
    empty = [not text.read_text(draw(look)) for look in some]
    yield Read("text", "no words", DRAWN, empty, np.arange(len(empty)))


def of_copies() -> Iterator[Read]:
    """Measures of copies on training pictures that were changed, and on other drawings of the same
    attributes."""
    found: dict[str, list[tuple[float, int]]] = {}
    items = [item for copies in (300, 1000) for item in corpus.load("phantom").named(copies)]
    for number, item in enumerate(items):
        original = item.draw()
        same = (item.gender, item.tone, item.glasses, item.sign, item.background)
        other = draw(Look(f"calibration {number}", item.occupation, *same))
        known = {name: make(original, number) for name, make in COPIES.items()}
        for name, image in {**known, "another drawing of the same attributes": other}.items():
            one, two = (pixels(i, original.size).astype(np.float32) for i in (original, image))
            apart = float(l2_to_many(one, two[None])[0])
            bits = int(hamming(pdq_style(one), pdq_style(two)[None])[0])
            found.setdefault(name, []).append((apart, bits))
    for name, pairs in found.items():
        apart, bits = np.array(pairs).T
        for measure, copied in (
            (f"ℓ2 below {CARLINI:g}", apart < CARLINI),
            (f"hash, {PDQ_MATCH} bits at most", bits <= PDQ_MATCH),
        ):
            right = copied == (name in COPIES)
            # Published thresholds on the phantom's small drawings; an audit's are calibrated.
            yield Read(measure, name, "as made", right, np.arange(len(right)), held=False)


def of_marks(clean: Sequence[Image.Image], prompts: Sequence[str]) -> Iterator[Read]:
    """Codecs on images without any mark and with their own."""
    from safety.watermarks.detection import detect
    from safety.watermarks.settings import codecs_of

    for name, codec in codecs_of(MARKS)[0].items():
        marked = [codec.embed(image) for image in clean]
        for of, images, there in (("no mark", clean, False), ("mark set", marked, True)):
            right = (detect(codec, images).p <= FPR) == there
            yield Read("watermark", f"{name}: {of}", "as made", right, np.array(prompts))


def of_noise(study: Study, size: Size) -> Iterator[Read]:
    """Marks of the initial noise, on the phantom's images of equal seeds with and without."""
    from audit.backends import open_backend

    each = max(1, size.seeds // 3)
    prompts = [v.prompt(v.OCCUPATIONS[n % len(v.OCCUPATIONS)]) for n in range(each)]
    asked = [
        study.request(prompt, number, watermark=mark)
        for mark in ("", *NOISE_MARKS)
        for number, prompt in enumerate(prompts)
    ]
    spec = study.spec
    made = open_backend(spec.model, spec.device, spec.dtype, spec.backend).generate(asked, 8)
    items = [
        Item(request.id, "", one.image, request.prompt, request.prompt, request)
        for request, one in zip(asked, made, strict=True)
        if one.image is not None
    ]
    options = {"latent-watermark": {"marks": list(NOISE_MARKS), "attacks": {}}}
    frame = scored(study, "latent-watermark", Batch(items), options)
    carried = frame["latent_watermark_attacked"].fillna("").to_numpy(str)
    for mark in NOISE_MARKS:
        own = plugins.load("latent_watermarks", mark)()
        said = own.nominal_p(frame[f"latent_watermark_{column_safe(mark)}_statistic"]) <= FPR
        for of, part in (("no mark", carried == ""), ("mark set", carried == mark)):
            right = said[part] == (carried[part] == mark)
            yield Read("latent-watermark", f"{mark}: {of}", "as made", right, prompts)


def scored(
    study: Study, name: str, asked: Batch, options: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """A detector's columns, named as a probe's table names them."""
    spec = dataclasses.replace(study.spec, detectors={**study.spec.detectors, **(options or {})})
    detector = plugins.load("detectors", name)(dataclasses.replace(study, spec=spec))
    columns = {f"{column_safe(name)}_{key}": list(c) for key, c in detector.detect(asked).items()}
    return pd.DataFrame(columns)
