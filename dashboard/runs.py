"""The runs that this process shows; the routes and the pages know a run by its place here."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from audit.errors import AuditError
from audit.flagged import catalog
from audit.store import Run

from . import index

LIMIT = 60.0
"""Seconds that a page may ask; then its question is ended, whatever a run's files claim."""

LONG = 5.0
"""Seconds; an index that took less is made again whenever the run has grown."""


@dataclass(frozen=True)
class _Open:
    database: duckdb.DuckDBPyConnection
    state: str
    taken: float
    at: float


class Shown(Run):
    """A run as the dashboard reads it: within bounds, and with its :mod:`.index`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()
        self._now: _Open | None = None

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The views of :meth:`audit.store.Run.connect`, and the index attached as ``idx``."""
        database = self._current().database.cursor()
        timer = threading.Timer(LIMIT, database.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield database
        except duckdb.InterruptException as error:
            raise AuditError(f"the question took longer than {LIMIT:.0f} s: ended") from error
        finally:
            timer.cancel()
            database.close()

    @property
    def ready(self) -> bool:
        """Whether questions can be answered at once."""
        return self._now is not None

    def prepare(self) -> None:
        """Make the index now, so that no page waits for it."""
        self._current()

    def close(self) -> None:
        """Let go of the database."""
        if self._now is not None:
            self._now.database.close()
            self._now = None

    def _current(self) -> _Open:
        """The database of the run as it is now.

        A run that is being made grows all the time: an index that takes long is made again only
        after ten times as long.
        """
        now = self._now
        if now and now.taken > LONG and time.monotonic() - now.at < 10 * now.taken:
            return now
        state = self._state()
        if now and now.state == state:
            return now
        if not self._lock.acquire(blocking=now is None):
            assert now is not None
            return now  # another thread is at it
        try:
            if self._now is None or self._now.state != state:
                self._now = self._opened(state)
            return self._now
        finally:
            self._lock.release()

    def _opened(self, state: str) -> _Open:
        start = time.monotonic()
        path = index.file_of(self)
        database = duckdb.connect(config=index.config())
        self.create_views(database)
        views = catalog(database)
        if not index.is_current(path, state):
            index.build(self, views, path, state)
        index.confine(database, self)
        database.execute(f"ATTACH {index.sql_text(str(path))} AS idx (READ_ONLY)")
        return _Open(database, state, time.monotonic() - start, time.monotonic())

    def _state(self) -> str:
        """Changes whenever a table of the run does."""
        found = [
            *self.path.glob("*.parquet"),
            *self.path.glob("uses/*.parquet"),
            *self.path.glob("tables/*.parquet"),
            self.path / "records",
            *self.path.glob("detections/*/"),
        ]
        times = sorted((str(path), path.stat().st_mtime_ns) for path in found if path.exists())
        return repr((str(self.path), times))


_shown: dict[str, Shown] = {}


def show(paths: Sequence[Path]) -> None:
    """Open the runs to show, in place of those shown before.

    Raises:
        AuditError: there is none, or one of them is not a run.
    """
    if not paths:
        raise AuditError("no run to show; give one or more folders of runs")
    opened = [Shown.open(path.resolve()) for path in paths]
    close()
    for run in opened:
        label, number = run.path.name or "run", 2
        while label in _shown:  # several runs may have folders of the same name
            label, number = f"{run.path.name} ({number})", number + 1
        _shown[label] = run


@atexit.register
def close() -> None:
    """Show nothing any more."""
    for run in _shown.values():
        run.close()
    _shown.clear()


def shown() -> Mapping[str, Shown]:
    """Label → run, in the order given."""
    return _shown


def at(place: int) -> Shown | None:
    """The run at a place, or ``None``."""
    everything = list(_shown.values())
    return everything[place] if 0 <= place < len(everything) else None


def inside(run: Run, path: Path) -> Path | None:
    """`path` when it is a file within the run's folder: a link that leads out of it is not."""
    real = path.resolve()
    return real if real.is_file() and real.is_relative_to(run.path.resolve()) else None
