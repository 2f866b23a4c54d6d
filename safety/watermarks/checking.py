"""Files in, an answer for each out: known marks, how sure they are, and its C2PA manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from audit.backends.pictures import decode
from audit.errors import AuditError
from audit.inputs import MAX_BYTES

from . import c2pa
from .calibration import Calibration
from .codecs import Codec
from .detection import Detection, detect
from .keys import adjusted
from .subjects import Rule, Scores

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CHUNK = 16
"""Images that are read together."""


@dataclass(frozen=True)
class Opened:
    """A file and the image in it; without one `reason` says why."""

    path: Path
    data: bytes = b""
    image: Image.Image | None = None
    reason: str = ""


@dataclass(frozen=True)
class Question:
    """What is asked of every file.

    Attributes:
        codecs: the marks that are looked for.
        calibrations: mark → its null.
        fpr: a mark is there when its p-value, times the number of marks, is at most this.
        anchors: trusted C2PA certificates, PEM.
    """

    codecs: Mapping[str, Codec]
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    fpr: float = 1e-6
    anchors: str = ""


def files_of(places: Sequence[Path]) -> list[Path]:
    """The files that are named, and of folders every image below them, sorted.

    Raises:
        AuditError: one of them does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(
                p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
            )
            if not inside:
                raise AuditError(f"{place} holds no image ({', '.join(SUFFIXES)})")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise AuditError(f"no file or folder '{place}'")
    return list(dict.fromkeys(found))


def opened(path: Path) -> Opened:
    """A file with its image; whatever is wrong with it is an outcome, not an error."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return Opened(path, reason=f"a file of more than {MAX_BYTES:,} bytes")
        data = path.read_bytes()
        return Opened(path, data, decode(data))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        return Opened(path, reason=" ".join(str(said or error).split())[:200])


def check(paths: Sequence[Path], question: Question) -> Iterator[dict[str, Any]]:
    """An answer for each file, JSON-ready, in a stream of flat memory.

    ``outcome`` is ``ok``, ``black`` (a safety checker's black image holds nothing to decode),
    ``small`` (no mark that is looked for fits into it) or ``unreadable`` with a ``reason``.
    """
    without_c2pa = c2pa.unavailable()
    waiting = iter(paths)
    while chunk := [opened(path) for path in islice(waiting, CHUNK)]:
        readable = [one for one in chunk if one.image is not None]
        images = [one.image for one in readable if one.image is not None]
        found = [
            detect(codec, images, question.calibrations.get(name))
            for name, codec in question.codecs.items()
        ]
        for one in chunk:
            answer: dict[str, Any] = {"file": str(one.path)}
            if one.image is None:
                yield answer | {"outcome": "unreadable", "reason": one.reason}
                continue
            place = readable.index(one)
            states = {str(each.state[place]) for each in found}
            outcome = "ok" if "read" in states or not states else min(states)
            marks = [_mark(each, place, question) for each in found if each.state[place] == "read"]
            credentials = None
            if without_c2pa is None:
                credentials = c2pa.read(one.data, question.anchors).as_dict()
            yield answer | {
                "outcome": outcome,
                "sha256": sha256(one.data).hexdigest(),
                "width": one.image.width,
                "height": one.image.height,
                "found": [mark["mark"] for mark in marks if mark["found"]],
                "marks": marks,
                "c2pa": credentials,
            }


def summary(answers: Sequence[Mapping[str, Any]], question: Question) -> dict[str, Any]:
    """Counts over all files, and what p-values mean for so many of them.

    `expected_false_alarms` is the number of unmarked images among so many that are taken for marked
    where the p-values keep their promise; each mark's ``adjusted_p`` in the answers is corrected
    for all marks and files instead (Bonferroni), for whoever asks whether *any* is marked.
    """
    rows = [mark for answer in answers for mark in answer.get("marks", ())]
    for mark, p in zip(rows, adjusted([mark["p"] for mark in rows]).tolist(), strict=True):
        mark["adjusted_p"] = p
    credentials = Counter(
        answer["c2pa"]["state"] for answer in answers if answer.get("c2pa") is not None
    )
    read = sum(answer["outcome"] == "ok" for answer in answers)
    return {
        "files": len(answers),
        "outcomes": dict(Counter(str(answer["outcome"]) for answer in answers)),
        "found": dict(Counter(name for answer in answers for name in answer.get("found", ()))),
        "c2pa": dict(credentials),
        "fpr": question.fpr,
        "expected_false_alarms": question.fpr * read,
    }


def _mark(found: Detection, place: int, question: Question) -> dict[str, Any]:
    """One mark in one image: what was read, its p-value and by which null it is decided."""
    marks, calibration = len(question.codecs), question.calibrations.get(found.mark)
    key = calibration.key if calibration else ""  # `detect` refuses another's
    rule = Rule.of(found.mark, key, question.fpr / marks, calibration)
    nominal, calibrated = float(found.nominal_p[place]), float(found.calibrated_p[place])
    p = float(rule.p(Scores(found.matches[[place]].astype(float), found.nominal_p[[place]]))[0])
    note = rule.note
    if rule.kind == "calibrated" and calibration:
        note = f"of {calibration.population}"
    elif p > nominal and calibration:
        reached = round(calibrated * (len(calibration.null.values) + 1)) - 1
        note = f"{reached} of {len(calibration.null.values)} clean images read as much; {note}"
    return {
        "mark": found.mark,
        "bits": found.bits,
        "matches": int(found.matches[place]) if found.bits else None,
        "domain": str(found.domain[place]),
        "inverted": bool(found.inverted[place]),
        "p": p,
        "kind": rule.kind,
        "note": note,
        "nominal_p": nominal,
        "calibrated_p": None if np.isnan(calibrated) else calibrated,
        "corrected_p": min(1.0, p * marks),
        "found": p * marks <= question.fpr,
    }
