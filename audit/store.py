"""The run folder: Parquet shards, images under their hash, a journal chained by hash.

Every file is written under a temporary name and renamed, so a reader never sees half of one.

Shards are numbered in the order of writing. Many small ones are merged into one named by the range
that it replaces, ``part-000000-000255.parquet``: from its renaming on, the small ones of that range
count no more, whether they are deleted yet or not.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb
from PIL import Image

from .atomic import cannot_write, replace
from .errors import AuditError
from .flagged import view_delivered
from .inputs import Inputs
from .journal import DROPPED, Journal

if TYPE_CHECKING:  # imported where a table is read or written: a server starts without it
    import pandas as pd

SCHEMA_VERSION = 1
THUMBNAIL = 192
MAX_PIXELS = 8192 * 8192
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"part-(\d+)(?:-(\d+))?\.parquet")


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored: lossless WebP and a thumbnail; hashed and ready to be written."""

    digest: str
    image: bytes
    thumbnail: bytes


def encode(image: Image.Image) -> Encoded:
    """Encode an image for :meth:`Run.store_image`. Pillow frees the interpreter meanwhile."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    buffer = io.BytesIO()
    rgb.save(buffer, "WEBP", lossless=True, method=0, quality=0)
    data = buffer.getvalue()
    small = rgb.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85, method=2)
    return Encoded(hashlib.sha256(data).hexdigest(), data, buffer.getvalue())


class Run:
    """A run on disk. Open it with :meth:`create` or :meth:`open`.

    ::

        run.json  plan.parquet  findings.json  journal.jsonl
        uses/<probe>.parquet  records/part-*.parquet  detections/<detector>/part-*.parquet
        tables/<probe>.<name>.parquet  images/ab/ab….webp  thumbs/ab/ab….webp  card/
        inputs/<sha256>.*  suite.json  labels.sqlite  labels.csv  recomputed.json
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path / "journal.jsonl")

    @classmethod
    def create(cls, path: Path) -> Run:
        """Make the folder, or open it when it is there.

        Raises:
            AuditError: the folder cannot be written, or holds no run of this schema version.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise AuditError(
                f"cannot write the run folder {path}: {error.strerror}; choose another with --out"
            ) from error
        others = {entry.name for entry in path.iterdir()} - {".lock"}
        if others and not {"run.json", "journal.jsonl"} & others:
            raise AuditError(
                f"{path} is not empty and not a run; choose an empty folder with --out"
            )
        if "run.json" in others:
            cls(path)._check_version()
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a run that is there.

        Raises:
            AuditError: there is none, or it has another schema version.
        """
        run = cls(path)
        if not (path / "run.json").is_file():
            raise AuditError(f"{path} is not a run: it has no run.json")
        run._check_version()
        return run

    def _check_version(self) -> None:
        version = self.info.get("schema_version")
        if version != SCHEMA_VERSION:
            raise AuditError(
                f"{self.path} has schema version {version}, this version reads {SCHEMA_VERSION}; "
                "use the version of t2i-audit that wrote it, which its run.json names"
            )

    # ---- documents -------------------------------------------------------------------------

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json."""
        held = self.read_json("run.json")
        if not isinstance(held, dict):
            raise AuditError(f"{self.path / 'run.json'} is damaged: it is no mapping")
        return held

    def read_json(self, name: str, default: Any = None) -> Any:
        """A JSON document of the run, or `default` where there is none."""
        try:
            return json.loads(self.own(self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {} if default is None else default
        except (ValueError, RecursionError) as error:
            raise AuditError(f"{self.path / name} is damaged: {error}") from error

    def write_json(self, name: str, document: Any) -> None:
        """Write a JSON document and enter it in the journal."""
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, and enter it in the journal.

        Nothing happens when it is there already and the same.
        """
        path = self.path / name
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        digest = hashlib.sha256(data).hexdigest()
        if path.is_file():
            # A kill after the entry leaves the old file: the next command writes the new one again.
            replace(path, data, lambda: self.journal.enter((name, digest)))
        else:
            replace(path, data)
            self.journal.enter((name, digest))

    # ---- tables ----------------------------------------------------------------------------

    def write_table(self, name: str, table: pd.DataFrame | Iterable[pd.DataFrame]) -> None:
        """Write ``<name>.parquet`` whole or not at all, and enter it in the journal.

        Args:
            table: or its parts from top to bottom, each of which may lack columns of others.
        """
        from .frames import parquet_of

        self.write_bytes(f"{name}.parquet", parquet_of(table))

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A table or a folder of shards as a frame; empty where there is nothing.

        Args:
            columns: only these; default: all.
        """
        import pandas as pd

        from .frames import frame_of

        path = self.path / f"{name}.parquet"
        shards = [path] if path.is_file() else self.shards(name)
        if not shards:
            return pd.DataFrame()
        with _reading(self.path), duckdb.connect() as database:
            files = [str(shard) for shard in shards]
            table = database.read_parquet(files, union_by_name=True)
            if columns is not None:
                table = table.project(", ".join(f'"{column}"' for column in columns))
            return frame_of(table.to_arrow_table())

    def shards(self, name: str) -> list[Path]:
        """The shards that count, in the order of writing."""
        return [path for path, _, _ in self._shards(name)[0]]

    def add_part(self, name: str, table: pd.DataFrame) -> None:
        """Write the next shard."""
        shards = self._shards(name)[0]
        self.write_part(name, shards[-1][2] + 1 if shards else 0, table)

    def write_part(self, name: str, number: int, table: pd.DataFrame) -> None:
        """Write one shard."""
        self.write_table(f"{name}/part-{number:06d}", table)

    def compact(self, name: str, at_least: int) -> None:
        """Merge the small shards of a folder into one, once there are `at_least` of them.

        A kill at any point loses nothing and doubles nothing; :meth:`mend_journal` ends what was
        begun.
        """
        small = [shard for shard in self._shards(name)[0] if shard[1] == shard[2]]
        if len(small) < at_least:
            return
        # Numbers are given in order, so the small ones are one range at the end.
        first, last = small[0][1], small[-1][2]
        target = self.path / name / f"part-{first:06d}-{last:06d}.parquet"
        temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
        try:
            with duckdb.connect() as database:
                files = [str(path) for path, _, _ in small]
                table = database.read_parquet(files, union_by_name=True)
                table.write_parquet(str(temporary), compression="zstd")
            digest = _sha256_file(temporary)
            temporary.replace(target)
        except (OSError, duckdb.IOException) as error:
            temporary.unlink(missing_ok=True)
            raise cannot_write(target, error) from error
        self.journal.enter((f"{name}/{target.name}", digest))
        self._forget_replaced(name)

    def _shards(self, name: str) -> tuple[list[tuple[Path, int, int]], list[Path]]:
        """Shards that count as (path, first number, last number), and those that are replaced."""
        found = []
        for path in (self.path / name).glob("part-*.parquet"):
            if match := _SHARD.fullmatch(path.name):
                found.append((path, int(match[1]), int(match[2] or match[1])))
        counts: list[tuple[Path, int, int]] = []
        replaced: list[Path] = []
        end = -1
        for path, first, last in sorted(found, key=lambda shard: (shard[1], -shard[2])):
            if last <= end:
                replaced.append(path)
            else:
                counts.append((path, first, last))
                end = last
        return counts, replaced

    def _forget_replaced(self, name: str) -> None:
        if replaced := self._shards(name)[1]:
            self.journal.enter(*((f"{name}/{path.name}", DROPPED) for path in replaced))
            for path in replaced:
                path.unlink()

    def drop(self, name: str) -> None:
        """Remove a folder of derived shards (never images), so that it is made anew."""
        shutil.rmtree(self.path / name, ignore_errors=True)
        self.journal.enter((f"{name}/", DROPPED))

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """DuckDB in memory with a view for every table of the run.

        Views: ``requests``, ``records``, ``uses_<probe>``, ``detections_<detector>`` and
        ``table_<probe>_<name>``; dashes and dots become underscores. ``delivered`` says what a user
        of the model's own pipeline would have seen of each record: ``image``, ``black`` where its
        safety checker flags it, ``none`` where there is no image, null where the checker was not
        asked. The stored image is never blacked out.
        """
        offline: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false"
        }
        with _reading(self.path), duckdb.connect(config=offline) as database:
            self.create_views(database)
            yield database

    def create_views(self, database: duckdb.DuckDBPyConnection) -> None:
        """The views of :meth:`connect` in a database.

        Raises:
            AuditError: a table is a link that leads out of the run, or no file.
        """
        views = set()
        for view, shards in self._views():
            files = ", ".join(
                "'" + str(self.own(shard)).replace("'", "''") + "'" for shard in shards
            )
            # Without the last, a folder named `a=b` would become a column.
            with _reading(self.path):
                database.execute(
                    f'CREATE VIEW "{view}" AS SELECT * FROM read_parquet([{files}], '
                    "union_by_name = true, hive_partitioning = false)"
                )
            views.add(view)
        view_delivered(database, views)

    def own(self, path: Path) -> Path:
        """`path`, a file of the run: a run from elsewhere may hold links to anything.

        Raises:
            AuditError: it is a link that leads out of the run, or no regular file.
        """
        real = path.resolve()
        if not real.is_relative_to(self.path.resolve()):
            raise AuditError(f"{path} is a link that leads out of the run: refused")
        if path.exists() and not real.is_file():
            raise AuditError(f"{path} is not a regular file: refused")
        return path

    def _views(self) -> Iterator[tuple[str, list[Path]]]:
        if (self.path / "plan.parquet").is_file():
            yield "requests", [self.path / "plan.parquet"]
        if shards := self.shards("records"):
            yield "records", shards
        for folder in sorted(self.path.glob("detections/*/")):
            if shards := self.shards(f"detections/{folder.name}"):
                yield f"detections_{column_safe(folder.name)}", shards
        for kind, prefix in (("uses", "uses"), ("tables", "table")):
            for path in sorted(self.path.glob(f"{kind}/*.parquet")):
                yield f"{prefix}_{column_safe(path.stem)}", [path]

    # ---- images ----------------------------------------------------------------------------

    def save_image(self, image: Image.Image) -> str:
        """Store an image as lossless WebP with a thumbnail; return the SHA-256 of its file."""
        return self.store_image(encode(image))

    def store_image(self, encoded: Encoded) -> str:
        """Write an encoded image under its SHA-256, unless it is there; return that."""
        path = self.image_path(encoded.digest)
        if not path.is_file():
            # The thumbnail first: an image that is there has its thumbnail too.
            replace(self.image_path(encoded.digest, thumbnail=True), encoded.thumbnail)
            replace(path, encoded.image)
        return encoded.digest

    def image_path(self, digest: str, *, thumbnail: bool = False) -> Path:
        """Where an image lies.

        Raises:
            AuditError: `digest` is no SHA-256, so no path is made of it.
        """
        if not _SHA256.fullmatch(digest):
            raise AuditError(f"not an image's SHA-256: {digest[:80]!r}")
        folder = "thumbs" if thumbnail else "images"
        return self.path / folder / digest[:2] / f"{digest}.webp"

    def load_image(self, digest: str) -> Image.Image:
        """An image of the run, RGB.

        Raises:
            AuditError: it is missing, damaged, or larger than :data:`MAX_PIXELS`.
        """
        path = self.image_path(digest)
        try:
            with Image.open(path, formats=["WEBP"]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise AuditError(f"{path} has {image.width}×{image.height} pixels: refused")
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise AuditError(f"image {path} is missing or damaged: {error}") from error

    # ---- inputs ----------------------------------------------------------------------------

    def keep_inputs(self, inputs: Inputs) -> Inputs:
        """Copy the pictures that requests start from into the run; the copies."""
        kept = Inputs()
        for digest, path in inputs.files.items():
            name = f"inputs/{digest}{path.suffix.lower()}"
            self.write_bytes(name, path.read_bytes())
            kept.files[digest] = self.path / name
        return kept

    # ---- journal ---------------------------------------------------------------------------

    def documents(self) -> list[str]:
        """The files that the journal must name: every table, document and card, sorted."""
        found = {
            path.relative_to(self.path).as_posix()
            for pattern in ("**/*.parquet", "**/*.json", "card/*", "inputs/*")
            for path in self.path.glob(pattern)
        }
        return sorted(name for name in found if not Path(name).name.startswith(".tmp-"))

    def mend_journal(self) -> None:
        """After a kill: drop a half-written last line, enter files that were not yet entered."""
        if not self.journal.path.is_file():
            return
        self.journal.drop_half_line()
        self._forget_replaced("records")
        for folder in self.path.glob("detections/*/"):
            self._forget_replaced(f"detections/{folder.name}")
        entered = self.journal.latest()
        for name in self.documents():
            if name not in entered:
                self.journal.enter((name, _sha256_file(self.path / name)))
        for left in self.path.rglob(".tmp-*"):
            left.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing.

        Raises:
            AuditError: another process holds it.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise AuditError(
                    f"another process is writing {self.path}; wait for it or choose another --out"
                ) from error
            yield


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Reading Parquet that may be damaged; a question that is wrong stays an error of ours."""
    try:
        yield
    except duckdb.Error as error:
        if type(error) not in (duckdb.Error, duckdb.IOException, duckdb.InvalidInputException):
            raise
        line = " ".join(str(error).split())[:200]
        raise AuditError(
            f"a table of {path} is damaged: {line}; `t2i-audit verify` names the files"
        ) from error


def _sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def column_safe(name: str) -> str:
    """A name as part of a column's or view's name.

    >>> column_safe("safety-checker")
    'safety_checker'
    """
    return re.sub(r"\W", "_", name)
