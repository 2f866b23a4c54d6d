"""Labels that people give to a run's images: ``labels.sqlite``, which only grows.

A row is a label or the withdrawal of one; none is ever changed. Each carries the hash of the row
before, and its own hash is entered in the run's journal, so that ``t2i-audit verify`` names a label
that was edited, removed or added. Several people may label at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from .errors import AuditError, Incomplete
from .label_database import make, opened
from .plugins import did_you_mean
from .store import Run

NOT_A_LABEL = ("undetermined", "no_face")
"""What a person may say of any attribute instead of one of its labels."""
FILE = "labels.sqlite"
ANNOUNCED = "~"
MAX_REASON = 500
AUTHOR = re.compile(r"\w[\w .@'+-]{0,63}")
"""A name begins with a letter or digit: no spreadsheet takes it for a formula."""

_VALID = (
    "withdraws IS NULL AND NOT EXISTS "
    "(SELECT 1 FROM labels AS later WHERE later.withdraws = labels.id)"
)
_CURRENT = f"SELECT max(id) FROM labels WHERE {_VALID} GROUP BY attribute, author, image"


@dataclass(frozen=True)
class Label:
    """One row.

    Attributes:
        id: 1, 2, 3, …
        time: UTC, ISO 8601 with milliseconds.
        image, request: SHA-256 of the image and id of the request that it was shown for.
        label: one of the attribute's, or of :data:`NOT_A_LABEL`.
        blind: prompt, scores and model were not shown to the author.
        withdraws: the row that this one takes back; it repeats what that one said.
        prev, hash: SHA-256 of the row before and of this one.
    """

    id: int
    time: str
    author: str
    image: str
    request: str
    attribute: str
    label: str
    reason: str
    blind: bool
    withdraws: int | None
    prev: str
    hash: str = ""

    def digest(self) -> str:
        """SHA-256 over every field but `hash`."""
        fields = asdict(self)
        del fields["hash"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def entry(self) -> str:
        """What the journal calls this row."""
        return f"{FILE}#{self.id:09d}-{self.hash[:16]}"

    @property
    def announcement(self) -> str:
        """What the journal calls this row before it is kept."""
        return f"{self.entry}{ANNOUNCED}"


class Labels:
    """The labels of one run. Nothing stays open between two calls.

    Args:
        attributes: attribute → its labels; another one is refused.
    """

    def __init__(self, run: Run, attributes: Mapping[str, Sequence[str]]) -> None:
        self.run = run
        self.path = run.path / FILE
        self.attributes = attributes

    # ---- writing ---------------------------------------------------------------------------

    def give(
        self,
        author: str,
        image: str,
        request: str,
        attribute: str,
        label: str,
        reason: str = "",
        *,
        blind: bool = True,
    ) -> Label:
        """Keep a label; the author's earlier one of this image and attribute counts no more.

        Nothing is written where it is the author's label already.

        Raises:
            AuditError: author, label or reason is none that can be kept.
            Incomplete: another writer holds the file, or it cannot be written; nothing is kept.
        """
        self._check(author, image, attribute, label, reason)
        with self._writing() as database:
            before = _rows(
                database,
                f"WHERE {_VALID} AND attribute = ? AND author = ? AND image = ? "
                "ORDER BY id DESC LIMIT 1",
                [attribute, author, image],
            )
            if before and (before[0].label, before[0].reason) == (label, reason.strip()):
                return before[0]
            given = (author, image, request, attribute, label, reason.strip(), blind)
            return self._append(database, given, None)

    def withdraw(self, author: str, number: int) -> Label:
        """Take back the author's label `number`; the one before it counts again.

        Raises:
            AuditError: it is not the author's, or withdrawn already.
            Incomplete: as :meth:`give`.
        """
        with self._writing() as database:
            found = _rows(database, f"WHERE {_VALID} AND id = ?", [number])
            if not found or found[0].author != author:
                raise AuditError(f"there is no label {number} of yours to withdraw")
            [old] = found
            given = (author, old.image, old.request, old.attribute, old.label, "", old.blind)
            return self._append(database, given, number)

    def _append(
        self,
        database: sqlite3.Connection,
        given: tuple[str, str, str, str, str, str, bool],
        withdraws: int | None,
    ) -> Label:
        last = database.execute("SELECT id, hash FROM labels ORDER BY id DESC LIMIT 1").fetchone()
        number, prev = (last[0] + 1, last[1]) if last else (1, "")
        now = time.time()
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        row = Label(number, when, *given, withdraws, prev)
        row = replace(row, hash=row.digest())
        values = list(asdict(row).values())
        database.execute(f"INSERT INTO labels VALUES ({', '.join('?' * len(values))})", values)
        # Announced, kept, entered: a journal that cannot be written keeps no row, and a kill leaves
        # an announcement alone, or a row that was announced.
        self.run.journal.enter((row.announcement, row.hash))
        database.execute("COMMIT")
        with suppress(Incomplete):  # it is kept, and announced
            self.run.journal.enter((row.entry, row.hash))
        return row

    def _check(self, author: str, image: str, attribute: str, label: str, reason: str) -> None:
        check_author(author)
        if attribute not in self.attributes:
            hint = did_you_mean(attribute, self.attributes)
            raise AuditError(f"no attribute '{attribute}' in the suite{hint}")
        allowed = [*map(str, self.attributes[attribute]), *NOT_A_LABEL]
        if label not in allowed:
            raise AuditError(
                f"{attribute} must be one of {', '.join(allowed)}, not '{label}'"
                f"{did_you_mean(label, allowed)}"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", image):
            raise AuditError(f"not an image's SHA-256: {image[:80]!r}")
        if len(reason) > MAX_REASON:
            raise AuditError(f"a reason has at most {MAX_REASON} characters, not {len(reason):,}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self.run.journal.path.is_symlink():
            raise AuditError(f"{self.run.journal.path} is a link: labels are not kept in this run")
        if not os.path.lexists(self.path):
            make(self.path)
        with opened(self.path, write=True) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")

    # ---- reading ---------------------------------------------------------------------------

    def current(self, attribute: str | None = None, author: str | None = None) -> list[Label]:
        """The labels that count: of each author, image and attribute the last one not withdrawn."""
        where, values = f"WHERE id IN ({_CURRENT})", []
        for name, value in (("attribute", attribute), ("author", author)):
            if value is not None:
                where += f" AND {name} = ?"
                values.append(value)
        return self._read(where + " ORDER BY id", values)

    def last(self, author: str, attribute: str) -> Label | None:
        """The label that an undo would withdraw."""
        found = self._read(
            f"WHERE {_VALID} AND author = ? AND attribute = ? ORDER BY id DESC LIMIT 1",
            [author, attribute],
        )
        return found[0] if found else None

    def log(self) -> list[Label]:
        """Every row ever written, withdrawn ones and withdrawals included."""
        return self._read("ORDER BY id", [])

    def state(self) -> tuple[int, str]:
        """Number and hash of the last row: they change with every label."""
        last = self._read("ORDER BY id DESC LIMIT 1", [])
        return (last[0].id, last[0].hash) if last else (0, "")

    def _read(self, tail: str, values: list[str]) -> list[Label]:
        if not os.path.lexists(self.path):
            return []
        with opened(self.path) as database:
            return _rows(database, tail, values)


_TYPES: dict[str, Any] = {
    "id": int,
    **dict.fromkeys(("time", "author", "image", "request", "attribute", "label", "reason"), str),
    "blind": int,
    "withdraws": int | None,
    "prev": str,
    "hash": str,
}


def check_author(author: str) -> None:
    """Raise :class:`AuditError` where `author` is no name that labels can be kept under."""
    if not AUTHOR.fullmatch(author) or author != author.strip():
        raise AuditError(
            "a rater's name begins with a letter or digit and has up to 64 letters, digits, "
            "spaces and . @ ' + - _"
        )


def problems(run: Run) -> list[str]:
    """One line for each label that was edited, removed or added since it was given."""
    entered: dict[int, set[str]] = {}
    announced: set[str] = set()
    for name, digest in run.journal.latest().items():
        if match := re.fullmatch(rf"{re.escape(FILE)}#(\d{{9}})-[0-9a-f]{{16}}(~?)", name):
            if match[2]:
                announced.add(digest)
            else:
                entered.setdefault(int(match[1]), set()).add(digest)
    labels = Labels(run, {})
    if not os.path.lexists(labels.path):
        return [f"{FILE}: missing, with {len(entered)} labels"] if entered else []
    try:
        rows = labels.log()
    except AuditError as error:
        return [str(error)]
    found: dict[int, str] = {}
    before: Label | None = None
    for row in rows:
        known = entered.pop(row.id, set())
        if row.hash == row.digest() and (row.hash in known or row.hash in announced):
            follows = before is None or before.id + 1 != row.id or before.hash == row.prev
            if before and not follows and before.id not in found:
                found[row.id] = "does not follow from the one before"
            elif len(known) > 1:
                found[row.id] = "was removed and given again"
        elif known:
            found[row.id] = "was changed after it was given"
        else:
            found[row.id] = "was added by something else: it is not in the journal"
        before = row
    found |= dict.fromkeys(entered, "was removed after it was given")
    return [f"{FILE}: label {number} {what}" for number, what in sorted(found.items())]


def _rows(database: sqlite3.Connection, tail: str, values: Sequence[object]) -> list[Label]:
    names = ", ".join(_TYPES)
    found = []
    for row in database.execute(f"SELECT {names} FROM labels {tail}", values):
        fields = dict(zip(_TYPES, row, strict=True))
        if not all(isinstance(fields[name], kind) for name, kind in _TYPES.items()):
            raise AuditError(f"{FILE}: label {str(row[0])[:20]} is damaged: not the right types")
        found.append(Label(**fields | {"blind": bool(fields["blind"])}))
    return found
