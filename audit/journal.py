"""What was written into a run, an entry a file, each chained to the one before by its hash."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .atomic import cannot_write, replace
from .errors import AuditError

DROPPED = "dropped"
"""In place of a hash: the file is gone on purpose; of a folder, all that it held."""
_FIELDS = ("time", "file", "sha256", "prev")
_WRITING = threading.Lock()


class Journal:
    """``journal.jsonl``: lines with time, file, sha256, prev and hash."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def enter(self, *files: tuple[str, str]) -> None:
        """Enter files with their SHA-256 (or :data:`DROPPED`).

        Raises:
            Incomplete: it cannot be written; no half line is left.
        """
        with self._held() as file:
            previous = ""
            end = os.fstat(file.fileno()).st_size
            if end:
                # A line is a few hundred bytes; the last one is found from the end.
                file.seek(max(0, end - 4096))
                tail = file.read()
                whole = tail[: tail.rfind(b"\n") + 1]
                kept = end - len(tail) + len(whole)
                try:
                    previous = json.loads(whole.splitlines()[-1])["hash"] if kept else ""
                except (ValueError, TypeError, LookupError, RecursionError) as error:
                    raise AuditError(f"{self.path} is damaged: its end is no entry") from error
                if kept < end:  # whoever wrote the rest was killed
                    os.truncate(self.path, kept)
                    end = kept
            data = b""
            for name, digest in files:
                entry = {
                    "time": round(time.time(), 3),
                    "file": name,
                    "sha256": digest,
                    "prev": previous,
                }
                previous = entry["hash"] = entry_hash(entry)
                data += json.dumps(entry).encode() + b"\n"
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError as error:
                with suppress(OSError):
                    os.truncate(self.path, end)
                raise cannot_write(self.path, error) from error

    @contextmanager
    def _held(self) -> Iterator[IO[bytes]]:
        """The file for appending, held against other threads and processes.

        Raises:
            Incomplete: it cannot be opened.
        """
        with _WRITING:
            while True:
                try:
                    file = self.path.open("ab+", buffering=0)
                except OSError as error:
                    raise cannot_write(self.path, error) from error
                with file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    # Mending replaces the file, perhaps while this one waited for it.
                    try:
                        same = os.path.samestat(os.fstat(file.fileno()), self.path.stat())
                    except FileNotFoundError:
                        same = False
                    if same:
                        yield file
                        return

    def entries(self) -> list[dict[str, Any]]:
        """Every entry, oldest first.

        Raises:
            AuditError: a line is no entry.
        """
        if not self.path.is_file():
            return []
        found = []
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            if not isinstance(entry, dict) or not _is_entry(entry):
                raise AuditError(f"{self.path}:{number} is damaged: not an entry")
            found.append(entry)
        return found

    def latest(self) -> dict[str, str]:
        """File → the last SHA-256 entered, without those that were dropped since."""
        found: dict[str, str] = {}
        for entry in self.entries():
            if entry["sha256"] == DROPPED:
                found = {n: h for n, h in found.items() if not n.startswith(entry["file"])}
            else:
                found[entry["file"]] = entry["sha256"]
        return found

    def broken_at(self) -> int | None:
        """The first line, from 1, that does not follow from the one before."""
        previous = ""
        for number, entry in enumerate(self.entries(), start=1):
            if entry["prev"] != previous or entry_hash(entry) != entry["hash"]:
                return number
            previous = entry["hash"]
        return None

    def drop_half_line(self) -> None:
        """What a kill in the middle of a line left is not an entry."""
        if not self.path.is_file():
            return
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            replace(self.path, data[: data.rfind(b"\n") + 1])


def _is_entry(entry: dict[str, Any]) -> bool:
    """Whether it has the fields, and names a file that may lie in a run."""
    texts = [entry.get(name) for name in ("file", "sha256", "prev", "hash")]
    if "time" not in entry or not all(isinstance(text, str) for text in texts):
        return False
    parts = entry["file"].encode("utf-8", "replace").split(b"/")
    return (
        not entry["file"].startswith("/") and b".." not in parts and len(max(parts, key=len)) < 256
    )


def entry_hash(entry: dict[str, Any]) -> str:
    """SHA-256 of an entry's other fields, the hash of the entry before among them."""
    body = {key: entry[key] for key in _FIELDS}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
