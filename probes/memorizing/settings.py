"""What the suite's section ``memorization`` and the spec's options for the probe say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit import suites
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.study import Study

PROBE = "memorization"

KEYS: Mapping[str, str] = {
    "captions": "a list, CSV or JSONL: caption, and url, index, image_path, duplicates, memorized",
    "negatives": "a list of captions that the model was never trained on",
    "most_duplicated": "ask for this many captions, the most repeated of the embedding folder",
    "other_prompts": "with an index: compare so many images of each prompt of the other probes",
    "index": "the training images, embedded: whatever t2i-audit index opens",
    "embeddings": "the folder that a faiss index, a server's or Qdrant's was built from",
    "filters": "conditions on the index' metadata, as of t2i-audit index",
    "exclude": "a file of rows that the index leaves out, as of t2i-audit index",
    "allow_legacy_laion": "open an index of LAION data from before its cleaning",
    "images": "where image_path is found: a folder, or phantom",
    "neighbours": "rows of the index that are candidates for each image",
    "fpr": "share of never-trained captions that a threshold may call memorized",
    "memorized_from": "training copies from which a caption counts as memorized",
    "unmemorized_to": "training copies up to which it counts as not memorized",
    "same_image": "cosine of CLIP embeddings from which two rows are the same image",
    "clique_distance": "tiled ℓ2 up to which two seeds give the same image",
    "signal_images": "images of each labelled caption that memorization-signals looks at",
    "mitigation": "{captions, random_tokens, guidance, images}: ask again, less literally",
}
MITIGATION = ("captions", "random_tokens", "guidance", "images")


@dataclass(frozen=True)
class Mitigation:
    """Ask captions once more with something changed, on the same seeds.

    Attributes:
        captions: how many, those of most training copies.
        random_tokens: words of the model's vocabulary put at random places; 0: do not.
        guidance: another guidance scale; ``None``: do not.
        images: seeds of each.
    """

    captions: int = 20
    random_tokens: int = 4
    guidance: float | None = None
    images: int = 2


@dataclass(frozen=True)
class Settings:
    """See :data:`KEYS`."""

    captions: Path | None = None
    negatives: Path | None = None
    most_duplicated: int = 0
    other_prompts: int = 0
    index: str | None = None
    opening: Mapping[str, Any] = field(default_factory=dict)
    images: str | None = None
    neighbours: int = 10
    fpr: float = 0.01
    memorized_from: int = 100
    unmemorized_to: int = 0
    same_image: float = 0.99
    clique_distance: float = 0.15
    signal_images: int | None = None
    mitigation: Mitigation | None = None

    @property
    def asks(self) -> bool:
        """Something is asked."""
        return bool(self.captions or self.negatives or self.most_duplicated or self.other_prompts)


def settings(study: Study) -> Settings:
    """The suite's section overridden by the spec's options.

    The suite's paths are relative to ``datasets/``, the user's to where the command runs.

    Raises:
        AuditError: a key is unknown, or a value is not possible.
    """
    section = dict(study.suite.section(PROBE))
    for key in ("captions", "negatives", "index"):
        if key in section:
            section[key] = suites.datasets() / str(section[key])
    section |= study.options(PROBE)
    for key in section:
        if key not in KEYS:
            raise AuditError(f"{PROBE}: unknown key '{key}'{did_you_mean(key, KEYS)}")
    given: dict[str, Any] = {}
    for key in ("captions", "negatives"):
        if section.get(key) is not None:
            given[key] = Path(str(section[key])).expanduser()
    for key in ("index", "images"):
        if section.get(key) is not None:
            given[key] = str(section[key])
    for key, least in (
        ("most_duplicated", 0),
        ("other_prompts", 0),
        ("neighbours", 1),
        ("memorized_from", 1),
        ("unmemorized_to", 0),
        ("signal_images", 0),
    ):
        if key in section:
            given[key] = _whole(section[key], key, least)
    for key, low, high in (("fpr", 0, 0.5), ("same_image", 0, 1), ("clique_distance", 0, 1)):
        if key in section:
            given[key] = _between(section[key], key, low, high)
    opening: dict[str, Any] = {
        k: section[k] for k in ("filters", "allow_legacy_laion") if k in section
    }
    for key in ("embeddings", "exclude"):
        if section.get(key) is not None:
            opening[key] = Path(str(section[key])).expanduser()
    if isinstance(opening.get("filters"), str):
        opening["filters"] = [opening["filters"]]
    if "index" not in given:
        given["other_prompts"] = 0
    asked = Settings(**given, opening=opening, mitigation=_mitigation(section.get("mitigation")))
    if asked.unmemorized_to >= asked.memorized_from:
        raise AuditError(
            f"{PROBE}: unmemorized_to ({asked.unmemorized_to}) must lie below memorized_from "
            f"({asked.memorized_from})"
        )
    if asked.images not in (None, "phantom") and not Path(asked.images or "").is_dir():
        raise AuditError(f"{PROBE}: images is a folder, or phantom; there is no '{asked.images}'")
    if asked.most_duplicated and not asked.index:
        raise AuditError(f"{PROBE}: most_duplicated needs an 'index', an embedding folder")
    return asked


def _mitigation(given: Any) -> Mitigation | None:
    if not given:
        return None
    if not isinstance(given, Mapping):
        raise AuditError(f"{PROBE}: mitigation is a mapping with {', '.join(MITIGATION)}")
    for key in given:
        if key not in MITIGATION:
            raise AuditError(
                f"{PROBE}: mitigation: unknown key '{key}'{did_you_mean(str(key), MITIGATION)}"
            )
    kept: dict[str, Any] = {
        key: _whole(given[key], f"mitigation: {key}", least)
        for key, least in (("captions", 1), ("random_tokens", 0), ("images", 1))
        if key in given
    }
    if given.get("guidance") is not None:
        kept["guidance"] = _between(given["guidance"], "mitigation: guidance", 0, 100)
    return Mitigation(**kept)


def _whole(value: Any, key: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise AuditError(f"{PROBE}: {key} is a whole number of {least} or more, not {value!r}")
    return value


def _between(value: Any, key: str, low: float, high: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low < value <= high:
        raise AuditError(f"{PROBE}: {key} lies above {low:g} and up to {high:g}, not {value!r}")
    return float(value)
