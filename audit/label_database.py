"""The file of :mod:`.labels`, opened with care: it may come from a stranger.

It is opened only when it is a plain file of bounded size whose schema is word for word ours, so
that no view and no trigger of someone else's ever runs.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from .atomic import cannot_write
from .errors import AuditError, Incomplete

WAIT = 10.0
"""Seconds for which a writer waits for another one."""
MAX_BYTES = 2**30
MAX_VALUE = 64 * 1024
"""Bytes of the longest value that is read."""

_VERSION = 1
_SCHEMA = {
    "labels": """CREATE TABLE labels (
  id INTEGER PRIMARY KEY,
  time TEXT NOT NULL,
  author TEXT NOT NULL,
  image TEXT NOT NULL,
  request TEXT NOT NULL,
  attribute TEXT NOT NULL,
  label TEXT NOT NULL,
  reason TEXT NOT NULL,
  blind INTEGER NOT NULL,
  withdraws INTEGER REFERENCES labels (id),
  prev TEXT NOT NULL,
  hash TEXT NOT NULL
) STRICT""",
    "labels_given": "CREATE INDEX labels_given ON labels (attribute, author, image)",
    "labels_withdrawn": "CREATE UNIQUE INDEX labels_withdrawn ON labels (withdraws)",
    "labels_stay": """CREATE TRIGGER labels_stay BEFORE UPDATE ON labels BEGIN
  SELECT RAISE(ABORT, 'a label is never changed: withdraw it and give another');
END""",
    "labels_remain": """CREATE TRIGGER labels_remain BEFORE DELETE ON labels BEGIN
  SELECT RAISE(ABORT, 'a label is never removed: withdraw it');
END""",
}


def make(path: Path) -> None:
    """An empty file of labels, there whole or not at all; another process may be first."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            for statement in _SCHEMA.values():
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_VERSION}")
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not os.path.lexists(path):
                temporary.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise _cannot_write(path, error) from error
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                Path(f"{temporary}{end}").unlink()


@contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection to a checked file.

    Raises:
        AuditError: it is not one of ours, or damaged.
        Incomplete: it cannot be written now.
    """
    _check_files(path)
    try:
        with closing(_connect(path, write)) as database:
            _check_schema(database, path)
            yield database
    except UnicodeDecodeError as error:
        raise AuditError(f"{path} is damaged: {error}") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Incomplete(
                f"{path} is held by another process; the label was not kept: give it again"
                if write
                else f"{path} is held by another process; try again"
            ) from error
        if write and code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _cannot_write(path, error) from error
        raise AuditError(f"{path} is damaged: {error}") from error


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    mode = "rw" if write else "ro"
    if not write and not os.access(path.parent, os.W_OK):
        # SQLite cannot make its index of the log beside it; without a log it needs none.
        log = Path(f"{path}-wal")
        if log.is_file() and log.stat().st_size:
            raise Incomplete(
                f"{path} has a log that cannot be read in a read-only folder; copy the run to a "
                "folder that can be written"
            )
        mode = "ro&immutable=1"
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT, isolation_level=None
    )
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA cell_size_check = ON")
    if not write:
        database.execute("PRAGMA query_only = ON")
    return database


def _check_files(path: Path) -> None:
    total = 0
    for end in ("", "-wal", "-shm"):
        try:
            found = os.lstat(f"{path}{end}")
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode):
            raise AuditError(f"{path}{end} is no plain file: its labels are not read")
        total += found.st_size
    if total > MAX_BYTES:
        raise AuditError(f"{path} has {total:,} bytes; labels may have {MAX_BYTES:,}")
    # Ours never has one; SQLite would play it back, and a forged one names files to delete.
    if os.path.lexists(f"{path}-journal"):
        raise AuditError(f"{path}-journal is not ours: remove it if you trust where it comes from")


def _check_schema(database: sqlite3.Connection, path: Path) -> None:
    [[version]] = database.execute("PRAGMA user_version").fetchall()
    if version > _VERSION:
        raise AuditError(f"{path} was written by a newer version of t2i-audit; use that one")
    found = database.execute("SELECT name, sql FROM sqlite_schema LIMIT 20").fetchall()
    if len(found) != len(_SCHEMA) or dict(found) != _SCHEMA:
        odd = sorted(str(name)[:40] for name, sql in found if _SCHEMA.get(name) != sql)
        raise AuditError(
            f"{path} is no file of labels of ours"
            + (f": it holds {', '.join(map(repr, odd))}" if odd else "")
        )


def _cannot_write(path: Path, error: Exception) -> Incomplete:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    denied = isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS
    if denied or code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return Incomplete(
            f"labels cannot be kept in {path.parent}: it is read-only; copy the run to a folder "
            "that can be written"
        )
    return cannot_write(path, error)
