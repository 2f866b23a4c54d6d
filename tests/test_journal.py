"""The journal's chain holds when several processes write it, and after one was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from audit.errors import AuditError
from audit.journal import Journal

WRITER = """
import sys
from pathlib import Path
from audit.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(60):
    journal.enter((f"{sys.argv[2]}/{number}", "0" * 64))
"""


def test_processes_that_write_at_once_do_not_break_the_chain(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name]) for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    journal = Journal(path)
    assert journal.broken_at() is None
    files = [entry["file"] for entry in journal.entries()]
    for name in "abc":
        mine = [file for file in files if file.startswith(name)]
        assert mine == [f"{name}/{number}" for number in range(60)]


def test_a_half_line_at_the_end_is_dropped_by_the_next_entry(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.enter(("a", "1"), ("b", "2"))
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + whole.splitlines()[0][:50])
    journal.enter(("c", "3"))
    assert [entry["file"] for entry in journal.entries()] == ["a", "b", "c"]
    assert journal.broken_at() is None


@pytest.mark.parametrize("end", [b"x" * 5000, b'{"file": "a"}\n', b"[]\n"])
def test_an_end_that_is_no_entry_is_one_clear_line_and_stays(tmp_path: Path, end: bytes):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(end)
    with pytest.raises(AuditError, match=r"journal\.jsonl is damaged"):
        Journal(path).enter(("a", "1"))
    assert path.read_bytes() == end
