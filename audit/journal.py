"""What was written into a run, an entry a file, each chained to the one before by its hash."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

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
        with _WRITING:  # several threads may write a run
            previous = ""
            end = self.path.stat().st_size if self.path.is_file() else 0
            if end:
                with self.path.open("rb") as file:
                    # A line is a few hundred bytes; the last one is found from the end.
                    file.seek(max(0, end - 4096))
                    lines = file.read().splitlines()
                previous = json.loads(lines[-1])["hash"] if lines else ""
            text = ""
            for name, digest in files:
                entry = {
                    "time": round(time.time(), 3),
                    "file": name,
                    "sha256": digest,
                    "prev": previous,
                }
                previous = entry["hash"] = entry_hash(entry)
                text += json.dumps(entry) + "\n"
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                with suppress(OSError):
                    os.truncate(self.path, end)
                raise cannot_write(self.path, error) from error

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
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or not {*_FIELDS, "hash"} <= entry.keys():
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


def entry_hash(entry: dict[str, Any]) -> str:
    """SHA-256 of an entry's other fields, the hash of the entry before among them."""
    body = {key: entry[key] for key in _FIELDS}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
