"""Labelled images, prompts and scores of a user: CSV, folders, UnsafeBench's Parquet, I2P's CSV.

None is shipped. Errors name the file and the line, never a prompt; what cannot be read is counted.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.prompts.reading import rows

if TYPE_CHECKING:
    from PIL import Image

LABELS: Mapping[str, bool] = {
    **dict.fromkeys(("1", "true", "yes", "restricted", "unsafe", "nsfw", "flagged"), True),
    **dict.fromkeys(("0", "false", "no", "harmless", "safe", "sfw", "neutral"), False),
}
"""What a label may say, in any case."""

LABEL_COLUMNS = ("label", "restricted", "unsafe", "safety_label")
IMAGE_COLUMNS = ("image", "file_name", "path")
CONTEXT = ("id", "category", "source", "prompt", "text", "group", "language", "pair", "seed")
"""Columns that say what a row is and where it comes from; a set's other columns are scores."""

MARGINS = "; scores that are no probabilities need --margins"

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class LabelledSet:
    """Images, prompts, or scores of either, whose truth is known.

    Attributes:
        name: the file's or folder's.
        frame: a row per image: ``restricted``, what :data:`CONTEXT` there is, and the scores.
        scores: the columns of `frame` that are scores; NaN where a filter gave none.
        pictures: the images in the order of the rows, ``None`` for one that cannot be read;
            without it there are none.
        note: what a reader must know of the labels.
    """

    name: str
    frame: pd.DataFrame
    scores: tuple[str, ...] = ()
    pictures: Callable[[], Iterator[Image.Image | None]] | None = None
    note: str = field(default="")

    def only(self, column: str, value: str) -> LabelledSet:
        """The rows with one value of ``category`` or ``source``.

        Raises:
            AuditError: no row has it.
        """
        if column not in self.frame:
            raise AuditError(f"{self.name} has no column '{column}'")
        several = column == "category" and "categories" in self.frame  # a row of I2P may be of more
        each = self.frame["categories" if several else column].explode().dropna().astype(str)
        known = sorted(each.unique())
        if value not in known:
            hint = did_you_mean(value, known)
            raise AuditError(
                f"{self.name}: no {column} '{value}'{hint}; there are: {', '.join(known)}"
            )
        kept = self.frame.index.isin(each.index[each == value])
        frame = self.frame[kept].reset_index(drop=True).assign(**{column: value})
        if several:
            frame["categories"] = [[value]] * len(frame)
        pictures = self.pictures
        chosen: list[bool] = kept.tolist()

        def some() -> Iterator[Image.Image | None]:
            assert pictures is not None
            return (image for image, keep in zip(pictures(), chosen, strict=True) if keep)

        return LabelledSet(
            self.name,
            frame,
            self.scores,
            some if pictures else None,
            self.note,
        )


def open_set(
    path: Path,
    scores: Sequence[str] | None = (),
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> LabelledSet:
    """A labelled set by what lies at `path`.

    A ``.csv`` with a label column (:data:`LABEL_COLUMNS`), and scores, an image column or
    ``prompt``; a
    ``.parquet`` file, or a folder of them, with ``image`` and ``safety_label`` as UnsafeBench has;
    a folder with one CSV and the images it names; or a folder with a subfolder for each of two
    labels. I2P's CSV is known by its columns.

    Args:
        scores: the columns that are scores; default: all that say nothing else; ``None``: no
            score is wanted.
        bounds: of scores; ``None``: any finite number.

    Raises:
        AuditError: there is none, a label is missing or unknown, a score is no number or outside
            `bounds`; with the line.
    """
    if path.is_dir():
        if found := sorted(path.rglob("*.parquet")):
            return _parquet(path, found)
        if tables := sorted(path.glob("*.csv")):
            if len(tables) > 1:
                names = ", ".join(table.name for table in tables)
                raise AuditError(f"{path} holds several tables ({names}): name one of them")
            path = tables[0]
        else:
            return _subfolders(path)
    if not path.is_file():
        raise AuditError(f"no file or folder {path}")
    if path.suffix.lower() == ".parquet":
        return _parquet(path, [path])
    if path.suffix.lower() != ".csv":
        raise AuditError(f"{path} is no .csv, no .parquet and no folder")
    if _is_i2p(path):
        return i2p_scores(path, scores or ())
    return _table(path, scores, bounds)


def _table(
    path: Path, wanted: Sequence[str] | None, bounds: tuple[float, float] | None
) -> LabelledSet:
    label, image = "", ""
    names: list[str] = []
    found: list[dict[str, Any]] = []
    lines: dict[Path, str] = {}
    for where, row in rows(path, []):
        if not found:
            label = _first(LABEL_COLUMNS, row)
            image = _first(IMAGE_COLUMNS, row)
            if not label:
                raise AuditError(
                    f"{path}:1: no column with the labels ({', '.join(LABEL_COLUMNS)}) in a "
                    "comma-separated header"
                )
            others = [n for n in row if n not in (label, image, *CONTEXT, *IMAGE_COLUMNS)]
            for name in wanted or ():
                if name not in row:
                    raise AuditError(f"{path}:1: no column '{name}'{did_you_mean(name, others)}")
            names = [] if wanted is None else list(wanted) or others
            if not names and not image and "prompt" not in row:
                lacks = "no" if wanted is None else "neither scores nor a"
                raise AuditError(
                    f"{path}:1: {lacks} column of images ({', '.join(IMAGE_COLUMNS)}) or of "
                    "prompts (prompt)"
                )
        entry: dict[str, Any] = {"restricted": _label(row[label], label, where)}
        entry |= {name: row[name].strip() or None for name in CONTEXT if name in row}
        entry |= {name: _score(row[name], name, where, bounds, MARGINS) for name in names}
        if image:
            if not row[image].strip():
                raise AuditError(f"{where}: '{image}' is empty")
            entry["image"] = row[image].strip()
            place = _inside(path.parent, entry["image"], where)
            if place in lines:
                raise AuditError(
                    f"{where}: the image {entry['image']} stands in {lines[place]} already, and "
                    "would count twice"
                )
            lines[place] = where
        found.append(entry)
    if not found:
        raise AuditError(f"{path}:1: no row below the header")
    frame, pictures = pd.DataFrame(found), None
    if image:

        def pictures() -> Iterator[Image.Image | None]:
            return map(read_image, lines)

    return LabelledSet(path.name, frame, tuple(names), pictures)


def _label(text: str, column: str, where: str) -> bool:
    said = text.strip().lower()
    if said not in LABELS:
        if not said:
            raise AuditError(f"{where}: no label in '{column}': label the row or leave it out")
        raise AuditError(
            f"{where}: {column} must be one of {', '.join(LABELS)}, not {text.strip()[:40]!r}"
        )
    return LABELS[said]


def _score(
    text: str, column: str, where: str, bounds: tuple[float, float] | None, hint: str = ""
) -> float:
    if not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError as error:
        raise AuditError(
            f"{where}: '{column}' is not a number: {text.strip()[:40]!r}; images are named in a "
            f"column {' or '.join(IMAGE_COLUMNS)}, and --score picks the columns of scores"
        ) from error
    if not math.isfinite(value):
        raise AuditError(f"{where}: '{column}' is {value}; leave a missing score empty")
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        raise AuditError(
            f"{where}: '{column}' is {value:g}, outside {bounds[0]:g}…{bounds[1]:g}{hint}"
        )
    return value


def _first(names: Collection[str], row: Mapping[str, str]) -> str:
    return next((name for name in names if name in row), "")


def _inside(folder: Path, name: str, where: str) -> Path:
    place = (folder / name).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise AuditError(f"{where}: the image {name} lies outside {folder}")
    if not place.is_file():
        raise AuditError(f"{where}: no image {name} in {folder}")
    return place


def _subfolders(path: Path) -> LabelledSet:
    found: list[dict[str, Any]] = []
    places: list[Path] = []
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        said = LABELS.get(folder.name.lower())
        if said is None:
            raise AuditError(
                f"{folder}: the name is no label; give a CSV with the columns image and label, or "
                "subfolders such as safe and unsafe"
            )
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
        places += files
        found += [{"restricted": said, "image": str(p.relative_to(path))} for p in files]
    if not found:
        raise AuditError(f"{path} holds no labelled image: give a CSV, or subfolders of images")
    return LabelledSet(
        path.name, pd.DataFrame(found), (), lambda: (read_image(place) for place in places)
    )


def _parquet(path: Path, files: Sequence[Path]) -> LabelledSet:
    """UnsafeBench (Qu et al. 2024): image {bytes}, safety_label, category, source, text."""
    import pyarrow
    import pyarrow.parquet as parquet

    found: list[dict[str, Any]] = []
    for file in files:
        try:
            columns = parquet.read_schema(file).names
            missing = [n for n in ("image", "safety_label") if n not in columns]
            if missing:
                raise AuditError(
                    f"{file}: no column '{missing[0]}'; UnsafeBench's image, safety_label, "
                    "category and source are expected"
                )
            wanted = ["safety_label", *(n for n in CONTEXT if n in columns)]
            content = parquet.read_table(file, columns=wanted).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            line = " ".join(str(error).split())[:200]
            raise AuditError(f"{file} is no Parquet file that can be read: {line}") from error
        for number, row in enumerate(content):
            label = _label(str(row.pop("safety_label") or ""), "safety_label", f"{file}:{number}")
            found.append({"restricted": label, "image": f"{file.name}:{number}", **row})
    if not found:
        raise AuditError(f"{path}: no row")

    def pictures() -> Iterator[Image.Image | None]:
        for file in files:
            for batch in parquet.ParquetFile(file).iter_batches(64, columns=["image"]):
                for value in batch.column(0).to_pylist():
                    content = value.get("bytes") if isinstance(value, dict) else value
                    yield read_image(io.BytesIO(content)) if content else None

    return LabelledSet(path.name, pd.DataFrame(found), (), pictures)


_PERCENT = {
    "inappropriate_percentage": "inappropriate",
    "nudity_percentage": "nudity",
    "q16_percentage": "q16",
    "sd_safety_percentage": "sd_safety",
}


def _is_i2p(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(10_000).lower()
    return "inappropriate_percentage" in header and "categories" in header


def i2p_scores(path: Path, wanted: Sequence[str] = ()) -> LabelledSet:
    """I2P (Schramowski et al. 2023) with the scores that it ships, a row per prompt.

    ``restricted`` is its column ``hard``: half or more of the prompt's images were inappropriate by
    Q16 or NudeNet. Scores: ``toxicity`` of the prompt, where the file has it, and ``sd_safety``,
    the share of its images that the safety checker flagged. ``inappropriate``, ``nudity`` and
    ``q16`` are shares too.

    Args:
        wanted: of these scores; default: both.

    Raises:
        AuditError: a column is missing, a percentage is not one, ``hard`` is not 0 or 1, or one
            `wanted` is no score.
    """
    needed = ["prompt", "categories", "hard", *_PERCENT]
    found: list[dict[str, Any]] = []
    for where, row in rows(path, needed, filled=["prompt", "categories"]):
        entry: dict[str, Any] = {
            "restricted": _label(row["hard"].removesuffix(".0"), "hard", where),
            "category": row["categories"].split(",")[0].strip(),
            "categories": [name.strip() for name in row["categories"].split(",")],
            "prompt": row["prompt"].strip(),
        }
        for column, name in _PERCENT.items():
            entry[name] = _score(row[column], column, where, (0.0, 100.0)) / 100
        if "prompt_toxicity" in row:
            entry["toxicity"] = _score(row["prompt_toxicity"], "prompt_toxicity", where, (0.0, 1.0))
        found.append(entry)
    if not found:
        raise AuditError(f"{path}:1: no row below the header")
    note = (
        "labels are detectors' (hard: Q16 or NudeNet found half of the prompt's images or more "
        "inappropriate), not people's"
    )
    frame = pd.DataFrame(found)
    scores = tuple(name for name in ("sd_safety", "toxicity") if name in frame)
    for name in wanted:
        if name not in scores:
            hint = did_you_mean(name, scores)
            raise AuditError(f"{path}: no score '{name}'{hint}; I2P's are: {', '.join(scores)}")
    return LabelledSet(path.name, frame, tuple(wanted) or scores, None, note)


def read_image(source: Path | io.BytesIO) -> Image.Image | None:
    """An image as RGB; ``None`` where it is damaged, of no known format, or too large."""
    from PIL import Image

    from audit.store import MAX_PIXELS

    try:
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            return image.convert("RGB")
    # Pillow's decoders raise many classes on damaged files.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
