"""What the suite's section ``limitations`` and the spec's options for the probe say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.detectors.text import normalized
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.study import Study

PROBE = "limitations"
KINDS = ("binding", "counting", "spatial")

KEYS: Mapping[str, str] = {
    "photorealism": "{prompts, reference, images, margin}; reference as in probes.limits.reference",
    "fid": "{weights: torch-fidelity's file of InceptionV3}; photorealism's reference is a folder",
    "text": "{prompts: [{prompt, says}], images}",
    "compositions": "{binding, counting, spatial: [{caption: drawing, …}, …], images}",
    "faces": "{prompts, images}",
    "autoencoder": "{pictures: a folder of your own, drawn: whether our drawings serve as well}",
}


@dataclass(frozen=True)
class Word:
    """A prompt that asks for a word, and the word."""

    prompt: str
    says: str


@dataclass(frozen=True)
class Contrast:
    """Captions of the same words or objects that differ in how these belong together.

    Attributes:
        kind: of :data:`KINDS`.
        captions: caption → its drawing (:func:`probes.limits.drawings.draw`), or ``None``.
    """

    kind: str
    captions: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The first caption names the set."""
        return next(iter(self.captions))


@dataclass(frozen=True)
class Settings:
    """See :data:`KEYS`; a part that is not declared is empty and has no images."""

    photographs: tuple[str, ...]
    reference: Mapping[str, Any]
    photograph_images: int
    realism_margin: float | None
    fid: Path | None
    words: tuple[Word, ...]
    word_images: int
    contrasts: tuple[Contrast, ...]
    contrast_images: int
    people: tuple[str, ...]
    people_images: int
    pictures: Path | None
    drawn: bool


def settings(study: Study) -> Settings:
    """The suite's section overridden by the spec's options, part by part.

    Raises:
        AuditError: naming the key and what is wrong with it.
    """
    suite, options = study.suite.section(PROBE), study.options(PROBE)
    parts: dict[str, dict[str, Any]] = {}
    for given in (suite, options):
        for key, value in given.items():
            if key not in KEYS:
                raise AuditError(f"{PROBE}: unknown key '{key}'{did_you_mean(str(key), KEYS)}")
            if not isinstance(value, Mapping):
                raise AuditError(f"{PROBE}: {key} is {KEYS[key]}")
            parts[key] = {**parts.get(key, {}), **value}
    realism = _part(parts, "photorealism", ("prompts", "reference", "images", "margin"))
    text = _part(parts, "text", ("prompts", "images"))
    compositions = _part(parts, "compositions", (*KINDS, "images"))
    faces = _part(parts, "faces", ("prompts", "images"))
    autoencoder = _part(parts, "autoencoder", ("pictures", "drawn"))
    margin = realism.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        raise AuditError(f"{PROBE}: photorealism.margin is a number, not {margin!r}")
    pictures = autoencoder.get("pictures")
    weights = _part(parts, "fid", ("weights",)).get("weights")
    return Settings(
        photographs=prompts_of(realism, f"{PROBE}: photorealism"),
        reference=realism.get("reference") or {},
        photograph_images=_images(study, realism, 8, "photorealism"),
        realism_margin=margin,
        fid=Path(str(weights)).expanduser() if weights else None,
        words=_words(text),
        word_images=_images(study, text, 8, "text"),
        contrasts=_contrasts(compositions),
        contrast_images=_images(study, compositions, 4, "compositions"),
        people=prompts_of(faces, f"{PROBE}: faces"),
        people_images=_images(study, faces, 8, "faces"),
        pictures=Path(str(pictures)).expanduser() if pictures else None,
        drawn=autoencoder.get("drawn", True) is True,
    )


def prompts_of(section: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """A part's list of prompts."""
    prompts = section.get("prompts") or []
    if not isinstance(prompts, list) or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise AuditError(f"{where}.prompts is a list of texts")
    return tuple(dict.fromkeys(prompts))


def _part(parts: Mapping[str, dict[str, Any]], name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    part = parts.get(name, {})
    for key in part:
        if key not in keys:
            known = did_you_mean(str(key), keys)
            raise AuditError(f"{PROBE}: unknown key '{name}.{key}'{known}")
    return part


def _images(study: Study, part: Mapping[str, Any], default: int, name: str) -> int:
    images = part.get("images", default)
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise AuditError(f"{PROBE}: {name}.images is a whole number from 1, not {images!r}")
    return study.images_per_prompt(images)


def _listed(part: Mapping[str, Any], name: str) -> list[Any]:
    found = part.get(name) or []
    if not isinstance(found, list):
        raise AuditError(f"{PROBE}: {name} is a list, not {found!r}")
    return found


def _words(part: Mapping[str, Any]) -> tuple[Word, ...]:
    words = []
    for given in _listed(part, "prompts"):
        said = given if isinstance(given, Mapping) else {}
        if set(said) != {"prompt", "says"} or not all(isinstance(v, str) for v in said.values()):
            raise AuditError(f"{PROBE}: text.prompts is a list of {{prompt, says}}, not {given!r}")
        if not normalized(said["says"]):
            raise AuditError(f"{PROBE}: text says {said['says']!r}: no letter and no digit")
        words.append(Word(said["prompt"], said["says"]))
    return tuple(words)


def _contrasts(part: Mapping[str, Any]) -> tuple[Contrast, ...]:
    from .drawings import check

    found = []
    for kind in KINDS:
        for captions in _listed(part, kind):
            if not isinstance(captions, Mapping) or len(captions) < 2:
                raise AuditError(
                    f"{PROBE}: compositions.{kind} is a list of sets of two captions and more, "
                    f"each with its drawing or nothing, not {captions!r}"
                )
            for caption, drawing in captions.items():
                if drawing is not None:
                    check(drawing, f"{PROBE}: compositions.{kind}: {caption!r}")
            found.append(Contrast(kind, {str(c): drawing for c, drawing in captions.items()}))
    return tuple(found)
