"""People's labels: kept for good, undone by new rows, and every later change is named."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from audit import label_database
from audit.errors import AuditError, Incomplete
from audit.labels import FILE, Labels, problems
from audit.store import Run

ATTRIBUTES = {"gender": ("female", "male"), "glasses": ("yes", "no")}
IMAGES = [f"{number:064x}" for number in range(8)]


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    run = Run.create(tmp_path / "run")
    run.write_json("run.json", {"schema_version": 1, "model": "planted"})
    return Labels(run, ATTRIBUTES)


def give(labels: Labels, author: str, image: int, label: str, reason: str = "") -> int:
    return labels.give(author, IMAGES[image], f"r{image}", "gender", label, reason).id


def said(labels: Labels) -> dict[tuple[str, int], str]:
    return {(row.author, IMAGES.index(row.image)): row.label for row in labels.current("gender")}


def tamper(labels: Labels, *statements: str) -> None:
    """As somebody with an editor for SQLite would: without our triggers."""
    with closing(sqlite3.connect(labels.path)) as database:
        triggers = database.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
        for _, sql in triggers:
            database.execute(sql)
        database.commit()


def test_an_undo_is_a_new_row_and_the_label_before_counts_again(labels: Labels):
    first = give(labels, "anna", 0, "female", "long hair")
    second = give(labels, "anna", 0, "male")
    assert said(labels) == {("anna", 0): "male"}
    labels.withdraw("anna", second)
    assert said(labels) == {("anna", 0): "female"}
    last = labels.last("anna", "gender")
    assert last is not None and (last.id, last.reason) == (first, "long hair")
    labels.withdraw("anna", first)
    assert said(labels) == {} and labels.last("anna", "gender") is None
    assert [row.withdraws for row in labels.log()] == [None, None, second, first]
    assert problems(labels.run) == []


def test_rows_tell_who_when_what_and_why(labels: Labels):
    labels.give("anna", IMAGES[3], "r3", "glasses", "undetermined", " dark ", blind=False)
    [row] = labels.log()
    assert (row.author, row.image, row.request) == ("anna", IMAGES[3], "r3")
    assert (row.attribute, row.label, row.reason) == ("glasses", "undetermined", "dark")
    assert not row.blind and row.prev == "" and row.hash == row.digest()
    assert row.time.endswith("Z") and len(row.time) == 24


def test_the_same_label_again_writes_nothing(labels: Labels):
    assert give(labels, "anna", 0, "male") == give(labels, "anna", 0, "male") == 1
    assert give(labels, "ben", 0, "male") == 2


def test_nobody_withdraws_another_s_label_or_one_twice(labels: Labels):
    number = give(labels, "anna", 0, "male")
    with pytest.raises(AuditError, match=f"no label {number} of yours"):
        labels.withdraw("ben", number)
    labels.withdraw("anna", number)
    for gone in (number, number + 1, 99):
        with pytest.raises(AuditError, match="of yours to withdraw"):
            labels.withdraw("anna", gone)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"author": "=cmd()"}, "name begins with a letter"),
        ({"author": "anna "}, "name begins with a letter"),
        ({"author": "a" * 65}, "up to 64"),
        ({"author": "a\nb"}, "name begins with a letter"),
        ({"attribute": "gendre"}, "no attribute 'gendre' in the suite; did you mean 'gender'"),
        ({"label": "femal"}, "gender must be one of female, male, undetermined, no_face"),
        ({"image": "../../x"}, "not an image's SHA-256"),
        ({"reason": "x" * 501}, "at most 500 characters"),
    ],
)
def test_a_label_that_cannot_be_kept_is_one_clear_line(
    labels: Labels, given: dict[str, str], message: str
):
    right = {
        "author": "anna",
        "image": IMAGES[0],
        "request": "r",
        "attribute": "gender",
        "label": "male",
    }
    with pytest.raises(AuditError, match=message):
        labels.give(**(right | given))
    assert not labels.path.exists()


def test_the_file_itself_refuses_a_change_and_a_removal(labels: Labels):
    give(labels, "anna", 0, "male")
    with closing(sqlite3.connect(labels.path)) as database:
        for statement in ("UPDATE labels SET label = 'female'", "DELETE FROM labels"):
            with pytest.raises(sqlite3.IntegrityError, match="withdraw it"):
                database.execute(statement)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


EDITS = {
    "label 2 was changed": ["UPDATE labels SET label = 'female' WHERE id = 2"],
    "label 3 was changed": ["UPDATE labels SET hash = prev WHERE id = 3"],
    "label 4 was removed": ["DELETE FROM labels WHERE id = 4"],
    "label 1 was removed": ["DELETE FROM labels WHERE id = 1"],
    "label 5 was added": [
        "INSERT INTO labels SELECT 5, time, author, image, request, attribute, label, reason, "
        "blind, withdraws, hash, 'x' FROM labels WHERE id = 4"
    ],
}


@pytest.mark.parametrize(("line", "statements"), EDITS.items(), ids=EDITS)
def test_an_edited_removed_or_added_label_is_named(
    labels: Labels, line: str, statements: list[str]
):
    for image in range(4):
        give(labels, "anna", image, "male")
    assert problems(labels.run) == []
    tamper(labels, *statements)
    found = problems(labels.run)
    assert len(found) == 1 and found[0].startswith(f"{FILE}: {line}")


def test_a_label_forged_with_its_right_hash_is_named(labels: Labels):
    import dataclasses

    give(labels, "anna", 0, "male")
    [row] = labels.log()
    other = dataclasses.replace(row, id=2, image=IMAGES[1], prev=row.hash)
    other = dataclasses.replace(other, hash=other.digest())
    with closing(sqlite3.connect(labels.path)) as database:
        values = list(dataclasses.asdict(other).values())
        database.execute(f"INSERT INTO labels VALUES ({', '.join('?' * 12)})", values)
        database.commit()
    assert problems(labels.run) == [
        f"{FILE}: label 2 was added by something else: it is not in the journal"
    ]


def test_a_last_label_that_was_removed_stays_named_when_another_takes_its_number(labels: Labels):
    give(labels, "anna", 0, "male")
    give(labels, "anna", 1, "male")
    tamper(labels, "DELETE FROM labels WHERE id = 2")
    give(labels, "anna", 2, "male")
    assert problems(labels.run) == [f"{FILE}: label 2 was removed and given again"]


def test_a_removed_file_is_named(labels: Labels):
    give(labels, "anna", 0, "male")
    labels.path.unlink()
    assert problems(labels.run) == [f"{FILE}: missing, with 1 labels"]


RATER = """
import sys
from pathlib import Path
from audit.labels import Labels
from audit.store import Run
labels = Labels(Run.open(Path(sys.argv[1])), {"gender": ("female", "male")})
for number in range(25):
    labels.give(sys.argv[2], f"{number:064x}", "r", "gender", "male")
    if number % 5 == 4:
        labels.withdraw(sys.argv[2], labels.last(sys.argv[2], "gender").id)
"""


def test_two_processes_label_at_once_and_nothing_is_lost(labels: Labels):
    command = [sys.executable, "-c", RATER, str(labels.run.path)]
    raters = [subprocess.Popen([*command, name]) for name in ("anna", "ben")]
    assert [rater.wait(120) for rater in raters] == [0, 0]
    rows = labels.log()
    assert [row.id for row in rows] == list(range(1, 61))
    for name in ("anna", "ben"):
        assert sum(row.author == name for row in labels.current()) == 20
    assert problems(labels.run) == []
    assert labels.run.journal.broken_at() is None


def test_a_file_that_another_holds_is_one_clear_line_and_then_works(
    labels: Labels, monkeypatch: pytest.MonkeyPatch
):
    give(labels, "anna", 0, "male")
    monkeypatch.setattr(label_database, "WAIT", 0.05)
    with closing(sqlite3.connect(labels.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Incomplete, match="held by another process; the label was not kept"):
            give(labels, "anna", 1, "male")
        assert said(labels) == {("anna", 0): "male"}  # reading goes on
        other.execute("ROLLBACK")
    assert give(labels, "anna", 1, "male") == 2
    assert problems(labels.run) == []


def test_a_journal_that_cannot_be_written_keeps_no_label(labels: Labels):
    give(labels, "anna", 0, "male")
    journal = labels.run.journal.path
    whole = journal.read_bytes()
    journal.unlink()
    journal.mkdir()
    with pytest.raises(Incomplete, match=r"cannot write .*journal\.jsonl"):
        give(labels, "anna", 1, "male")
    journal.rmdir()
    journal.write_bytes(whole)
    assert said(labels) == {("anna", 0): "male"}
    assert problems(labels.run) == []


def test_a_label_that_the_file_does_not_take_is_only_announced(
    labels: Labels, monkeypatch: pytest.MonkeyPatch
):
    give(labels, "anna", 0, "male")
    enter = type(labels.run.journal).enter

    def then_full(journal, *files):
        enter(journal, *files)
        if files[0][1] != "dropped":  # what a disk that is full at COMMIT does
            with closing(sqlite3.connect(labels.path)) as other:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)")
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(type(labels.run.journal), "enter", then_full)
    with pytest.raises(Incomplete, match="disk is full"):
        give(labels, "anna", 1, "male")
    monkeypatch.undo()
    assert said(labels) == {("anna", 0): "male"}
    assert problems(labels.run) == []
    give(labels, "anna", 1, "female")
    assert problems(labels.run) == []


def test_a_kill_between_the_row_and_its_entry_leaves_a_label_that_holds(
    labels: Labels, monkeypatch: pytest.MonkeyPatch
):
    enter = type(labels.run.journal).enter

    def killed(journal, *files):
        if not files[0][0].endswith("~"):
            raise KeyboardInterrupt
        enter(journal, *files)

    monkeypatch.setattr(type(labels.run.journal), "enter", killed)
    with pytest.raises(KeyboardInterrupt):
        give(labels, "anna", 0, "male")
    monkeypatch.undo()
    assert said(labels) == {("anna", 0): "male"}
    give(labels, "anna", 1, "female")
    assert problems(labels.run) == []


def test_a_read_only_run_is_one_clear_line_and_can_be_read(
    labels: Labels, monkeypatch: pytest.MonkeyPatch
):
    give(labels, "anna", 0, "male")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert said(labels) == {("anna", 0): "male"}
    monkeypatch.setattr(label_database, "_connect", _read_only)
    with pytest.raises(Incomplete, match="it is read-only; copy the run to a folder"):
        give(labels, "anna", 1, "male")


def _read_only(path: Path, write: bool) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


# ---- a file from a stranger ------------------------------------------------------------------


def hostile(labels: Labels, *statements: str) -> None:
    give(labels, "anna", 0, "male")
    with closing(sqlite3.connect(labels.path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["CREATE TABLE more (x)"], "'more'"),
        (["CREATE VIEW seen AS SELECT 1"], "'seen'"),
        (["CREATE VIRTUAL TABLE v USING fts5 (x)"], "'v'"),
        (
            ["CREATE TRIGGER t AFTER INSERT ON labels BEGIN UPDATE labels SET label = 1; END"],
            "'t'",
        ),
        (
            [
                "DROP TRIGGER labels_stay",
                "CREATE TRIGGER labels_stay AFTER INSERT ON labels BEGIN SELECT 1; END",
            ],
            "'labels_stay'",
        ),
        (
            [
                "DROP TABLE labels",
                "CREATE VIEW labels AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
                "FROM n) SELECT x FROM n",
            ],
            "'labels'",
        ),
        (["DROP TRIGGER labels_remain"], ""),
    ],
)
def test_no_view_and_no_trigger_of_a_stranger_is_trusted(
    labels: Labels, statements: list[str], named: str
):
    hostile(labels, *statements)
    for use in (labels.log, labels.current, lambda: give(labels, "anna", 1, "male")):
        with pytest.raises(AuditError, match=rf"no file of labels of ours.*{named}"):
            use()
    assert "no file of labels of ours" in problems(labels.run)[0]


def test_a_newer_file_says_so(labels: Labels):
    hostile(labels, "PRAGMA user_version = 2")
    with pytest.raises(AuditError, match="newer version"):
        labels.log()


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_a_link_out_of_the_run_is_not_followed(labels: Labels, tmp_path: Path, end: str):
    give(labels, "anna", 0, "male")
    target = Path(f"{labels.path}{end}")
    target.unlink(missing_ok=True)
    target.symlink_to(tmp_path / "elsewhere")
    for use in (labels.log, lambda: give(labels, "anna", 1, "male")):
        with pytest.raises(AuditError, match="is no plain file"):
            use()
    assert not (tmp_path / "elsewhere").exists()


def test_a_rollback_journal_is_not_played_back(labels: Labels):
    give(labels, "anna", 0, "male")
    Path(f"{labels.path}-journal").write_bytes(b"x")
    with pytest.raises(AuditError, match="-journal is not ours"):
        labels.log()


def test_a_journal_that_is_a_link_gets_no_line(labels: Labels, tmp_path: Path):
    journal = labels.run.journal.path
    journal.rename(tmp_path / "elsewhere")
    journal.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="is a link"):
        give(labels, "anna", 0, "male")


def test_sizes_are_bounded(labels: Labels, monkeypatch: pytest.MonkeyPatch):
    give(labels, "anna", 0, "male")
    tamper(labels, "UPDATE labels SET reason = printf('%.*c', 100000, 'x')")
    with pytest.raises(AuditError, match="too big"):
        labels.log()
    monkeypatch.setattr(label_database, "MAX_BYTES", 1000)
    with pytest.raises(AuditError, match="labels may have 1,000"):
        labels.log()


@pytest.mark.parametrize("data", [b"", b"no database at all", b"SQLite format 3\0" + b"x" * 5000])
def test_what_is_no_database_is_one_clear_line(labels: Labels, data: bytes):
    labels.path.write_bytes(data)
    for use in (labels.log, lambda: give(labels, "anna", 1, "male")):
        with pytest.raises(AuditError, match=r"labels\.sqlite"):
            use()
    assert labels.path.read_bytes() == data


def test_any_byte_may_be_damaged_without_a_traceback(labels: Labels):
    for image in range(8):
        give(labels, "anna", image, "male")
    whole = labels.path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        labels.path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with suppress(AuditError):
            labels.log()
            labels.current("gender", "anna")


def test_the_hash_is_that_of_the_row_as_documented(labels: Labels):
    import hashlib

    give(labels, "anna", 0, "male")
    give(labels, "ben", 0, "female")
    with closing(sqlite3.connect(labels.path)) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM labels ORDER BY id")]
    before = ""
    for row in rows:
        own = row.pop("hash")
        row["blind"] = bool(row["blind"])
        assert row["prev"] == before
        before = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
        assert own == before
