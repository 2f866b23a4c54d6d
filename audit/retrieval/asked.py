"""What a request to our server asks for, checked: each refusal says why.

The protocol is clip-retrieval's (``clip_back.py`` 2.45.0). What this server does not do, it
refuses; it leaves nothing out in silence.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic_core
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

MOST_ROWS = 10_000
"""Of one answer."""
LONGEST_TEXT = 10_000
"""Characters; CLIP reads 77 tokens of it."""
INPUTS = ("text", "image", "image_url", "embedding_input")


class Refused(Exception):
    """A request that is not answered, with its HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Wanted:
    """A request to ``/knn-service``.

    Attributes:
        embedding: shape (d,); ``None`` where `text` or `image` asks.
        with_metadata: rows that come with their metadata, the first ones.
        rows: all rows.
        deduplicate: leave out rows that are nearly equal to an earlier one.
        safe: leave out rows that their metadata calls unsafe.
    """

    embedding: NDArray[np.float32] | None
    text: str | None
    image: Image.Image | None
    with_metadata: int
    rows: int
    deduplicate: bool
    safe: bool


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        Refused: there is none.
    """
    try:
        document = pydantic_core.from_json(body)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise Refused(400, "the body must be a JSON object")
    return document


def wanted(
    document: Mapping[str, Any],
    dimension: int,
    *,
    modality: str,
    clip: bool,
    punsafe: bool,
    vectors: bool,
) -> Wanted:
    """What a request to ``/knn-service`` asks for.

    Args:
        dimension: of the index.
        modality: what it holds, ``image`` or ``text``.
        clip: whether there is a CLIP model for texts and images.
        punsafe: whether the metadata says what is unsafe.
        vectors: whether the index knows the vectors of its rows.

    Raises:
        Refused: it asks for nothing, for several things, or for what is not done here.
    """
    _refuse_unsupported(document, punsafe, vectors)
    if document.get("modality") != modality:
        asked = _short(document.get("modality"))
        raise Refused(400, f"modality must be '{modality}', not {asked}: that is indexed")
    shown = _whole(document, "num_images", None)
    rows = _whole(document, "num_result_ids", shown)
    given = [name for name in INPUTS if document.get(name) not in (None, "", [])]
    if len(given) != 1:
        found = f"not {' and '.join(given)}" if given else "and none is there"
        raise Refused(400, f"one of {', '.join(INPUTS)} is wanted, {found}")
    embedding = text = image = None
    if given == ["image_url"]:
        raise Refused(
            400, "image_url is not supported: this server fetches nothing; send image or embedding"
        )
    if given == ["embedding_input"]:
        embedding = _embedding(document["embedding_input"], dimension)
    elif not clip:
        raise Refused(
            400,
            f"{given[0]} needs a CLIP model, and this server was started without one (--clip); "
            "send embedding_input",
        )
    elif given == ["text"]:
        text = _text(document["text"])
    else:
        image = _image(document["image"])
    return Wanted(
        embedding,
        text,
        image,
        min(shown, rows),
        rows,
        _flag(document, "deduplicate"),
        _flag(document, "use_safety_model"),
    )


def listed_ids(document: Mapping[str, Any], length: int) -> list[int]:
    """The ids of a request to ``/metadata``.

    Raises:
        Refused: they are no rows of an index of `length` rows.
    """
    ids = document.get("ids")
    if not isinstance(ids, list) or len(ids) > MOST_ROWS:
        raise Refused(400, f"ids must be a list of at most {MOST_ROWS:,} whole numbers")
    for one in ids:
        if not isinstance(one, int) or isinstance(one, bool):
            raise Refused(400, f"ids must be whole numbers, not {_short(one)}")
        if not 0 <= one < length:
            raise Refused(400, f"there is no row {_short(one)}: the index has {length:,} rows")
    return ids


def _refuse_unsupported(document: Mapping[str, Any], punsafe: bool, vectors: bool) -> None:
    why = []
    if document.get("aesthetic_score", "") not in ("", None):
        why.append("there are no aesthetic embeddings: send aesthetic_score ''")
    if _flag(document, "use_violence_detector"):
        why.append("there is no violence detector: send use_violence_detector false")
    if _flag(document, "use_mclip"):
        why.append("there is no multilingual CLIP: send use_mclip false")
    if _flag(document, "use_safety_model") and not punsafe:
        why.append(
            "there is no safety model and the metadata has no column punsafe or NSFW: "
            "send use_safety_model false"
        )
    if _flag(document, "deduplicate") and not vectors:
        why.append("the vectors of this index are not at hand: send deduplicate false")
    if why:
        raise Refused(400, "; ".join(why))


def _flag(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f"{name} must be true or false, not {_short(value)}")
    return bool(value)


def _whole(document: Mapping[str, Any], name: str, otherwise: int | None) -> int:
    value = document.get(name)
    if value is None and otherwise is not None:
        return otherwise
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_ROWS:
        raise Refused(
            400, f"{name} must be a whole number from 1 to {MOST_ROWS:,}, not {_short(value)}"
        )
    return value


def _embedding(value: Any, dimension: int) -> NDArray[np.float32]:
    if not isinstance(value, list) or not set(map(type, value)) <= {float, int}:
        raise Refused(400, "embedding_input must be a flat list of numbers")
    if len(value) != dimension:
        raise Refused(
            400, f"embedding_input has {len(value)} numbers; the index has vectors of {dimension}"
        )
    try:
        array = np.array(value, dtype=np.float64)
    except OverflowError as error:
        raise Refused(400, "embedding_input holds a number that is too large") from error
    norm = float(np.linalg.norm(array))
    if not np.isfinite(norm) or norm == 0:
        raise Refused(400, "embedding_input must be finite numbers, not all of them 0")
    unit: NDArray[np.float32] = (array / norm).astype(np.float32)
    return unit


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise Refused(400, f"text must be a string of at most {LONGEST_TEXT:,} characters")
    return value


def _image(value: Any) -> Image.Image:
    from audit.backends.pictures import decode

    if not isinstance(value, str):
        raise Refused(400, "image must be a picture in base64")
    try:
        return decode(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"image is {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return "not base64" if isinstance(error, binascii.Error) else " ".join(str(error).split())


def _short(value: Any) -> str:
    return repr(value)[:40]
