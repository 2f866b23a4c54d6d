"""The index of a run: a row per image in the plan's order, all its scores beside it.

Joining a million requests of as many shards at every click takes seconds; here they are joined
once. The index is a DuckDB file in the cache folder; what the run says stays in the run. Lists and
structures, such as boxes and embeddings, are left there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb

from audit.errors import AuditError
from audit.flagged import Catalog, flags, quoted
from audit.store import Run

VERSION = 1
PLACE = "t2i_place"
"""An image's place in the plan, from 0; the key of every table here."""
CHUNK = 122_880
"""Rows joined at once: a row group of DuckDB's, so that memory does not grow with the run."""
MEMORY = "384MB"
SPILL = "32GB"
MOST = 50_000_000
"""Rows of a plan; a larger one is refused before it fills the disk."""


@dataclass(frozen=True)
class Source:
    """Where a column of an image comes from: a view of the run, its column there, its type."""

    view: str
    name: str
    type: str

    @property
    def nested(self) -> bool:
        """Whether it is a list or a structure, which the index leaves in the run."""
        return nested(self.type)


def nested(kind: str) -> bool:
    """Whether a type of DuckDB's is a list or a structure."""
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION"))


def sources(views: Catalog) -> dict[str, Source]:
    """Column of an image → its source: the request's, the record's, the detectors' with prefix."""
    found: dict[str, Source] = {}
    taken = {PLACE, "flagged"}  # DuckDB's names know no case

    def add(view: str, skip: tuple[str, ...], prefix: str = "") -> None:
        for name, kind in views.get(view, {}).items():
            full = prefix + name
            if name not in skip and full.lower() not in taken:
                found[full] = Source(view, name, kind)
                taken.add(full.lower())

    add("requests", ())
    add("records", ("request", "outcome"))
    found.pop("outcome", None)
    found["outcome"] = Source("records", "outcome", "VARCHAR")
    for view in views:
        if view.startswith("detections_"):
            add(view, ("request", "image"), view.removeprefix("detections_") + "_")
    return found


def folder() -> Path:
    """Where indexes are kept, for this user only; in a temporary folder where nothing can be."""
    base = Path(os.environ.get("T2I_AUDIT_CACHE") or "~/.cache/t2i-audit").expanduser()
    try:
        path = base / "dashboard"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError:
        path = Path(tempfile.gettempdir()) / f"t2i-audit-{os.getuid()}"
        path.mkdir(mode=0o700, exist_ok=True)
        if path.is_symlink() or path.stat().st_uid != os.getuid():
            raise AuditError(f"{path} belongs to somebody else; set T2I_AUDIT_CACHE") from None
    return path


def file_of(run: Run) -> Path:
    """The index of a run, there or not."""
    name = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:32]
    return folder() / f"{name}.duckdb"


def config(memory: str = MEMORY) -> dict[str, str | bool | int | float | list[str]]:
    """DuckDB within bounds, whatever a run's files claim."""
    return {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "memory_limit": memory,
        "max_temp_directory_size": SPILL,
        "temp_directory": str(folder() / "spill"),
    }


def confine(database: duckdb.DuckDBPyConnection, run: Run) -> None:
    """From here on no query of this database reads a file outside the run and the cache."""
    allowed = [f"{run.path}/", f"{run.path.resolve()}/", f"{folder()}/"]
    database.execute("SET allowed_directories = ?", [allowed])
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")


def is_current(path: Path, state: str) -> bool:
    """Whether the index at `path` was made from the run in `state`."""
    if not path.is_file():
        return False
    try:
        with duckdb.connect(str(path), read_only=True) as database:
            rows = database.execute("SELECT version, state FROM built").fetchall()
    except duckdb.Error:
        return False
    return rows == [(VERSION, state)]


def build(run: Run, views: Catalog, path: Path, state: str) -> None:
    """Write the index of `run` at `path`, whole or not at all."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with duckdb.connect(config=config()) as database:
            run.create_views(database)
            confine(database, run)
            database.execute(f"ATTACH {sql_text(str(temporary))} AS idx")
            if "requests" in views:
                _images(database, views)
            _digests(database, views)
            database.execute(
                f"CREATE TABLE idx.built AS SELECT {VERSION} AS version, ? AS state", [state]
            )
            database.execute("DETACH idx")
        temporary.chmod(0o600)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _images(database: duckdb.DuckDBPyConnection, views: Catalog) -> None:
    count = database.execute("SELECT count(*) FROM requests").fetchall()[0][0]
    if count > MOST:
        raise AuditError(f"the plan has {count:,} rows; the dashboard shows at most {MOST:,}")
    order = [name for name in ("batch", "slot") if name in views["requests"]]
    database.execute(
        f"CREATE TEMP TABLE places AS SELECT request, row_number() OVER "
        f"(ORDER BY {', '.join([*order, 'request'])}) - 1 AS {PLACE} FROM requests"
    )
    columns = {name: s for name, s in sources(views).items() if not s.nested}
    columns.pop("outcome")
    names = dict.fromkeys(["requests", *(source.view for source in columns.values()), "records"])
    parts = [name for name in names if name in views]
    for view in parts:
        wanted = [s.name for s in columns.values() if s.view == view]
        wanted += ["outcome"] if view == "records" else []
        chosen = "".join(f", {quoted(view)}.{quoted(name)}" for name in wanted)
        database.execute(
            f"CREATE TEMP TABLE {quoted('part ' + view)} AS SELECT places.{PLACE}{chosen} "
            f"FROM {quoted(view)} JOIN places USING (request)"
        )
    outcome = 'coalesce("records"."outcome", \'missing\')' if "records" in parts else "'missing'"
    flagged = " OR ".join(flags(views).values()) or "false"
    select = [f"places.{PLACE}"]
    select += [f"{quoted(s.view)}.{quoted(s.name)} AS {quoted(n)}" for n, s in columns.items()]
    select += [f"{outcome} AS outcome", f"({flagged}) AS flagged"]
    query = f"SELECT {', '.join(select)} FROM (SELECT * FROM places {{within}}) AS places"
    for view in parts:
        query += (
            f" LEFT JOIN (SELECT * FROM {quoted('part ' + view)} {{within}}) AS {quoted(view)} "
            f"USING ({PLACE})"
        )
    for start in range(0, max(count, 1), CHUNK):
        # Bounds as text, so that row groups outside them are not read.
        within = f"WHERE {PLACE} BETWEEN {start} AND {start + CHUNK - 1}"
        into = "CREATE TABLE idx.images AS" if start == 0 else "INSERT INTO idx.images"
        database.execute(f"{into} {query.format(within=within)} ORDER BY places.{PLACE}")
    for view in views:
        if view.startswith("uses_"):
            database.execute(
                f"CREATE TABLE idx.{quoted(view)} AS SELECT places.{PLACE}, used.* "
                f"FROM {quoted(view)} AS used LEFT JOIN places USING (request) "
                f"ORDER BY places.{PLACE}"
            )


def _digests(database: duckdb.DuckDBPyConnection, views: Catalog) -> None:
    """Every image that may be shown and whether it is flagged, sorted to be found.

    A training image counts as flagged when an image generated beside it is.
    """
    parts = ["SELECT '' AS image, false AS flagged, false AS own WHERE false"]
    if "image" in views.get("records", ()):
        parts.append("SELECT image, false, true FROM records WHERE image IS NOT NULL")
        parts += [
            f"SELECT image, true, false FROM {quoted('detections_' + name)} "
            f"WHERE {test} AND image IS NOT NULL"
            for name, test in flags(views).items()
        ]
    database.execute(
        "CREATE TEMP TABLE own AS SELECT image, bool_or(flagged) AS flagged "
        f"FROM ({' UNION ALL '.join(parts)}) GROUP BY 1 HAVING bool_or(own)"
    )
    query = "SELECT * FROM own"
    if {"image", "match"} <= set(views.get("table_memorization_neighbours", ())):
        query = (
            f'{query} UNION ALL SELECT "match", coalesce(flagged, false) '
            "FROM table_memorization_neighbours LEFT JOIN own USING (image) "
            'WHERE "match" IS NOT NULL AND "match" <> \'\''
        )
    database.execute(
        "CREATE TABLE idx.digests AS SELECT image, bool_or(flagged) AS flagged "
        f"FROM ({query}) GROUP BY 1 ORDER BY 1"
    )


def sql_text(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"
