"""A folder of images made elsewhere, with a table that says what was asked for each.

The table (``.csv`` or ``.jsonl``, UTF-8) has a row for each image:

============================  ================================================================
``file`` (or ``file_name``,   the image, PNG, JPEG or WebP, relative to the folder and inside it
``image``)
``prompt``                    the prompt, exactly as it was given
``seed``                      a whole number, optional
``language``, ``prompt_id``   the prompt's language, and a name that its translations share
``occupation`` (or            what the prompt names; each becomes a slice of the audit
``group``)
``negative_prompt``,          as they are said to have been
``steps``, ``guidance``
============================  ================================================================

Nothing of this can be checked: whoever made the table may have chosen among many images, or drawn
them with another model. Every finding on such a run is *unverified*.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.errors import AuditError
from audit.inputs import MAX_BYTES, Inputs
from audit.plan import Request, is_text
from audit.plugins import did_you_mean
from audit.prompts.reading import text_of

from .base import Result
from .pictures import decode, deliver, size_of

FILE = ("file", "file_name", "image")
"""What the column of the image's path may be called; `file_name` is Hugging Face's."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        line: in the table, from 1.
        path: the image, inside the folder.
        prompt: as given to the model.
        seed: as said; ``None``: not said.
        values: every other column that is not empty.
    """

    line: int
    path: Path
    prompt: str
    seed: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A column as text; empty where the row has none."""
        return str(self.values.get(name, "")).strip()


def find_table(folder: Path, name: str = "") -> Path:
    """The table of a folder: `name`, or the only .csv or .jsonl file in it.

    Raises:
        AuditError: there is no such folder or table, or there are several.
    """
    if not folder.is_dir():
        raise AuditError(f"no folder '{folder}': images:FOLDER names a folder of images")
    if name:
        path = folder / name
        if not path.is_file():
            raise AuditError(f"no table '{name}' in {folder}")
        if path.suffix.lower() not in (".csv", ".jsonl"):
            raise AuditError(f"the table {path} must be a .csv or .jsonl file")
        return path
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".csv", ".jsonl"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise AuditError(
            f"{folder} must hold one table (.csv or .jsonl) with the columns file and prompt; "
            f"there are: {names}; --option table=NAME chooses"
        )
    return found[0]


def read_table(path: Path, folder: Path) -> list[Row]:
    """Every row of a table, checked.

    Raises:
        AuditError: with the table's name and line: what is wrong with it.
    """
    text = _text(path)
    listed = _csv(path, text) if path.suffix.lower() == ".csv" else _jsonl(path, text)
    rows: list[Row] = []
    files: dict[Path, int] = {}
    seeds: dict[tuple[str, str, int], int] = {}
    for line, values in listed:
        where = f"{path}:{line}"
        row = _row(where, line, values, folder)
        if row.path in files:
            raise AuditError(
                f"{where}: '{row.path.name}' is already in line {files[row.path]}: "
                "an image counts once"
            )
        files[row.path] = line
        if row.seed is not None:
            key = (row.prompt, row.text("negative_prompt"), row.seed)
            if key in seeds:
                raise AuditError(
                    f"{where}: prompt and seed {row.seed} are already in line {seeds[key]}: "
                    "leave out one, or the seeds"
                )
            seeds[key] = line
        rows.append(row)
    if not rows:
        raise AuditError(f"{path} has no rows")
    return rows


class Folder:
    """A folder of images made elsewhere, ``images:FOLDER``, with a CSV or JSONL table of prompts.

    A request is answered with the image of exactly its prompt (and negative prompt): the one of its
    seed, or, where `match` is ``order``, the k-th by seed and line, k being the request's seed
    counted from 0. A request without an image has the outcome ``missing``.

    Args:
        model: such as ``images:made/elsewhere``.
        device, dtype: of no use here.
        table: the table's name in the folder; default: the only .csv or .jsonl file.
        match: ``seed`` or ``order``; default: ``seed`` where every row has one and together they
            form an unbroken range, else ``order``.

    Raises:
        AuditError: a row of the table does not hold; with its line.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        table: str = "",
        match: str = "",
    ) -> None:
        self.folder = Path(str(model).removeprefix("images:")).expanduser()
        self.table = find_table(self.folder, table)
        self.rows = read_table(self.table, self.folder)
        self.match = match or ("seed" if _consecutive(self.rows) else "order")
        if self.match not in ("seed", "order"):
            raise AuditError(f"option match is seed or order, not '{match}'")
        self._images: dict[tuple[str, str], dict[int, Row]] = {}
        for row in sorted(self.rows, key=lambda r: (r.seed is None, r.seed or 0, r.line)):
            known = self._images.setdefault((row.prompt, row.text("negative_prompt")), {})
            if self.match == "order":
                known[len(known)] = row
            elif row.seed is None:
                raise AuditError(f"{self.table}:{row.line}: no seed, and option match is seed")
            else:
                known[row.seed] = row
        sizes = Counter(_header(f"{self.table}:{row.line}", row.path) for row in self.rows)
        wide, high = sizes.most_common(1)[0][0]
        self.inputs = Inputs()
        self.model_path: Path | None = None
        self.images_per_prompt = max(map(len, self._images.values()))
        """The most images that any prompt has: more cannot be asked for."""
        self.sampler: Mapping[str, Any] = {
            # 0: not said, or not the same in every row.
            "steps": int(_common(self.rows, "steps")),
            "guidance": _common(self.rows, "guidance"),
            "height": high,
            "width": wide,
        }

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.backends.Backend`. The table's hash stands where weights' stand."""
        digest = hashlib.sha256(self.table.read_bytes()).hexdigest()
        return {
            "backend": "folder",
            "mode": "images made elsewhere",
            "table": self.table.name,
            "match": self.match,
            "images": len(self.rows),
            "prompts": len(self._images),
            "provenance": "unverified",
            "note": "Which model made these images, and whether they were chosen among others, "
            "cannot be checked.",
            "weights": {self.table.name: digest},
        }

    def check(self, request: Request) -> None:
        """Whether a folder can be asked for this.

        Raises:
            AuditError: it starts from a picture.
        """
        if request.init_image or request.mask or request.depth:
            raise AuditError("images made elsewhere start from no picture: leave init_image out")

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        """See :class:`audit.backends.Backend`. Nothing is made and nothing is padded.

        Telemetry, a column each:
            seconds: spent on reading the image; null, for none was made.
            source_file, source_line, source_sha256: the image's file, its row and its bytes' hash.
            declared_seed, declared_steps, declared_guidance: as the table says; null: it does not.
            tokens_cut: null; nobody can know.
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Result:
        self.check(request)
        row = self._images.get((request.prompt, request.negative_prompt), {}).get(request.seed)
        telemetry: dict[str, Any] = {
            "seconds": None,
            "source_file": None,
            "source_line": None,
            "source_sha256": None,
            "declared_seed": None,
            "declared_steps": None,
            "declared_guidance": None,
            "tokens_cut": None,
        }
        if row is None:
            return Result(None, "missing", "the folder holds no such image", telemetry)
        if request.watermark:
            # The codec would be tested on itself, and the image changed.
            reason = f"images made elsewhere are not marked with {request.watermark}"
            return Result(None, "missing", reason, telemetry)
        telemetry["source_file"] = row.path.relative_to(self.folder.resolve()).as_posix()
        telemetry["source_line"] = row.line
        telemetry["declared_seed"] = row.seed
        for name in ("steps", "guidance"):
            telemetry[f"declared_{name}"] = row.values.get(name)
        try:
            data = row.path.read_bytes()
            telemetry["source_sha256"] = hashlib.sha256(data).hexdigest()
            image = decode(data)
        except (OSError, ValueError) as error:
            line = " ".join(str(error).split())[:200]
            return Result(None, "failed", f"{self.table.name}:{row.line}: {line}", telemetry)
        return Result(deliver(image, request), telemetry=telemetry)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AuditError(f"{path} is larger than {MAX_BYTES:,} bytes")
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror}") from error
    return text_of(path)


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                _check_columns(f"{path}:{where}", names)
                continue
            if len(cells) != len(names):
                raise AuditError(
                    f"{path}:{where}: {len(cells)} cells under {len(names)} columns; quote a cell "
                    "that holds a comma"
                )
            yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise AuditError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): JSON strings may hold the other characters that it breaks at.
    for line, part in enumerate(text.split("\n"), 1):
        if not part.strip():
            continue
        try:
            values = json.loads(part)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply, or a number of too many digits")
            raise AuditError(f"{path}:{line}: not valid JSON: {reason}") from error
        if not isinstance(values, dict):
            raise AuditError(
                f'{path}:{line}: a row is an object such as {{"file": …, "prompt": …}}'
            )
        _check_columns(f"{path}:{line}", list(values))
        yield line, values


def _check_columns(where: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise AuditError(f"{where}: the column '{name}' is there twice")
    if "prompt" not in names:
        raise AuditError(f"{where}: no column 'prompt'{did_you_mean('prompt', names)}")
    if len([name for name in FILE if name in names]) != 1:
        raise AuditError(
            f"{where}: one column names the image: file (or {' or '.join(FILE[1:])}); there are: "
            f"{', '.join(names)}"
        )


def _row(where: str, line: int, values: Mapping[str, Any], folder: Path) -> Row:
    name = next(values[key] for key in FILE if key in values)
    prompt = values["prompt"]
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise AuditError(f"{where}: no file is named")
    if not isinstance(prompt, str) or not prompt.strip():
        raise AuditError(f"{where}: the prompt is empty or no text")
    if not is_text(name) or not is_text(prompt):
        raise AuditError(f"{where}: half a surrogate pair (\\ud800 to \\udfff) is no text")
    path = (folder / name).resolve()
    if Path(name).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise AuditError(f"{where}: '{name}' leaves the folder; images must lie inside it")
    try:
        there = path.is_file()
    except OSError:  # a name longer than any file's
        there = False
    if not there:
        raise AuditError(f"{where}: no file '{name}' in {folder}")
    others: dict[str, Any] = {}
    for key, value in values.items():
        if key in (*FILE, "prompt", "seed") or value is None or value == "":
            continue
        if not isinstance(value, str | int | float | bool):
            raise AuditError(f"{where}: {key} must be text or a number, not {type(value).__name__}")
        others[key] = value
    seed = _number(where, "seed", values.get("seed"), 2**62)
    for key, most in (("steps", 1000), ("guidance", 100)):
        number = _number(where, key, others.pop(key, None), most)
        if number is not None:
            others[key] = number
    return Row(line, path, prompt, None if seed is None else int(seed), others)


def _number(where: str, name: str, value: Any, most: float) -> int | float | None:
    """A number from a cell: whole, but for the guidance."""
    if value is None or value == "":
        return None
    whole = name != "guidance"
    try:
        # An integer by itself: a large seed does not survive a float.
        number: int | float = int(str(value)) if whole else float(str(value))
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= most:
        kind = "a whole number" if whole else "a number"
        raise AuditError(f"{where}: {name} must be {kind} from 0 to {most:,}, not {value!r}")
    return number


def _header(where: str, path: Path) -> tuple[int, int]:
    try:
        return size_of(path)
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise AuditError(f"{where}: '{path.name}' is {line}") from error


def _consecutive(rows: Sequence[Row]) -> bool:
    seeds = {row.seed for row in rows}
    if None in seeds:
        return False
    known = [seed for seed in seeds if seed is not None]
    return max(known) - min(known) + 1 == len(known)


def _common(rows: Sequence[Row], name: str) -> float:
    """A number that every row gives alike; else 0."""
    values = {row.values.get(name) for row in rows}
    value = values.pop()
    return float(value) if not values and value is not None else 0.0
