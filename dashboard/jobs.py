"""Commands of t2i-audit that a page begins, each in a process of its own, and watches."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from audit.store import Run

from . import parts


@dataclass
class Job:
    """One command.

    Attributes:
        lines: what it said, the newest last.
    """

    process: subprocess.Popen[str]
    started: float
    lines: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether it still works."""
        return self.process.poll() is None

    @property
    def error(self) -> str | None:
        """Why it failed, in one line; ``None`` when it has not."""
        if self.running or self.process.returncode == 0:
            return None
        self.wait()
        last = self.lines[-1] if self.lines else f"it ended with code {self.process.returncode}"
        return last.removeprefix("t2i-audit: ").removeprefix("Error: ")

    @property
    def step(self) -> tuple[int, int, str]:
        """Step, of how many, and what it is."""
        for line in reversed(self.lines):
            count, _, what = line.partition(" ")
            done, slash, total = count.partition("/")
            if slash and done.isdecimal() and total.isdecimal():
                return int(done), int(total), what
        return 0, 4, "working"

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it and its last line are there."""
        code = self.process.wait(timeout)
        if self.reader is not None:
            self.reader.join(timeout)
        return code


RECOMPUTE, CARD = "recompute", "card"
_jobs: dict[tuple[Path, str], Job] = {}
_lock = threading.Lock()


def of(run: Run, kind: str) -> Job | None:
    """The last command of this kind, :data:`RECOMPUTE` or :data:`CARD`, that this server began."""
    return _jobs.get((run.path, kind))


def recompute(run: Run, *, read_files: bool = False) -> Job:
    """``t2i-audit labels RUN recompute``."""
    return _start(run, RECOMPUTE, "labels", run.path, RECOMPUTE, *["--read-files"] * read_files)


def write_card(run: Run) -> Job:
    """``t2i-audit card RUN``."""
    return _start(run, CARD, CARD, run.path)


def _start(run: Run, kind: str, *words: str | Path) -> Job:
    """Begin a command, unless one of this kind is running: then that one."""
    with _lock:
        now = _jobs.get((run.path, kind))
        if now is not None and now.running:
            return now
        process = subprocess.Popen(
            [sys.executable, "-m", "audit.cli", *map(str, words)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        job = Job(process, time.monotonic())
        job.reader = threading.Thread(target=_read, args=(job,), daemon=True)
        job.reader.start()
        _jobs[run.path, kind] = job
        return job


def _read(job: Job) -> None:
    assert job.process.stderr is not None
    with job.process.stderr as said:
        for line in said:
            if line.strip():
                job.lines = [*job.lines[-99:], line.strip()[:1000]]


@st.fragment(run_every=1.0)
def watch(run: Run, kind: str) -> None:
    """How far a command is; the page is shown anew when it has ended."""
    job = of(run, kind)
    if job is None or not job.running:
        st.rerun()
    done, total, what = job.step
    st.progress(done / max(1, total), parts.plain(f"{what} … {job.seconds:.0f} s"))
