"""``t2i-audit labels RUN recompute`` in a process of its own, watched from the page."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from audit.store import Run


@dataclass
class Job:
    """One recomputation.

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
        return 0, 4, "starting"

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


_jobs: dict[Path, Job] = {}
_lock = threading.Lock()


def of(run: Run) -> Job | None:
    """The last recomputation of a run that this server began."""
    return _jobs.get(run.path)


def start(run: Run, *, read_files: bool = False) -> Job:
    """Begin one, unless one is running: then that one."""
    with _lock:
        now = _jobs.get(run.path)
        if now is not None and now.running:
            return now
        command = [sys.executable, "-m", "audit.cli", "labels", str(run.path), "recompute"]
        process = subprocess.Popen(
            command + ["--read-files"] * read_files,
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
        _jobs[run.path] = job
        return job


def _read(job: Job) -> None:
    assert job.process.stderr is not None
    with job.process.stderr as said:
        for line in said:
            if line.strip():
                job.lines = [*job.lines[-99:], line.strip()[:1000]]
