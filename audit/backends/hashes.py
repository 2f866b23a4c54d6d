"""SHA-256 of files, computed once: remembered by path, size, times and inode."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

WORTH_REMEMBERING = 2**20
"""Bytes from which a file's digest is kept; a smaller file is hashed in no time."""
MOST_LINES = 10_000


def cache_dir() -> Path:
    """Where converted models and digests are kept: ``T2I_AUDIT_CACHE``, or the platform's place."""
    given = os.environ.get("T2I_AUDIT_CACHE")
    if given:
        return Path(given).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "t2i-audit"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file; a large one is read again only when it has changed.

    A file counts as unchanged while its size, inode, modification time and change time (which no
    ordinary program can set back) are the same.
    """
    before = os.stat(path)
    if before.st_size < WORTH_REMEMBERING:
        return _digest(path)
    key = _key(path, before)
    known = _read().get(key)
    if known is not None:
        return known
    digest = _digest(path)
    if _key(path, os.stat(path)) == key:
        _remember(key, digest)
    return digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(path: Path, stat: os.stat_result) -> str:
    times = f"{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    return f"{stat.st_size}:{times}:{stat.st_dev}:{stat.st_ino}:{os.path.realpath(path)}"


def _file() -> Path:
    return cache_dir() / "sha256.jsonl"


def _read() -> dict[str, str]:
    """The digests by key. A file with a line that makes no sense is written anew without it."""
    try:
        lines = _file().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    known: dict[str, str] = {}
    sound = True
    for line in lines:
        try:
            key, digest = json.loads(line)
            if not (isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", digest)):
                raise ValueError
            known[key] = digest
        except (ValueError, TypeError):
            sound = False
    if not sound or len(lines) > MOST_LINES:
        known = dict(list(known.items())[-MOST_LINES // 2 :])
        # A digest that another process adds meanwhile is lost, and computed again when needed.
        with contextlib.suppress(OSError):
            _write_whole(known)
    return known


def _write_whole(known: dict[str, str]) -> None:
    text = "".join(json.dumps(pair) + "\n" for pair in known.items())
    handle, name = tempfile.mkstemp(dir=cache_dir(), prefix=".sha256-")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, _file())
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _remember(key: str, digest: str) -> None:
    line = (json.dumps([key, digest]) + "\n").encode()
    # A read-only home is no reason to fail. One write of one line keeps processes apart.
    with contextlib.suppress(OSError):
        cache_dir().mkdir(parents=True, exist_ok=True)
        handle = os.open(_file(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
