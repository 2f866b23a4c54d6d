"""The runs that this process shows; the routes and the pages know a run by its place here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audit.errors import AuditError
from audit.store import Run

_shown: dict[str, Run] = {}


def show(paths: Sequence[Path]) -> None:
    """Open the runs to show, in place of those shown before.

    Raises:
        AuditError: there is none, or one of them is not a run.
    """
    if not paths:
        raise AuditError("no run to show; give one or more folders of runs")
    opened = [Run.open(path.resolve()) for path in paths]
    _shown.clear()
    for run in opened:
        label, number = run.path.name or "run", 2
        while label in _shown:  # several runs may have folders of the same name
            label, number = f"{run.path.name} ({number})", number + 1
        _shown[label] = run


def shown() -> dict[str, Run]:
    """Label → run, in the order given."""
    return _shown


def at(index: int) -> Run | None:
    """The run at a place, or ``None``."""
    everything = list(_shown.values())
    return everything[index] if 0 <= index < len(everything) else None


def inside(run: Run, path: Path) -> Path | None:
    """`path` when it is a file within the run's folder: a link that leads out of it is not."""
    real = path.resolve()
    return real if real.is_file() and real.is_relative_to(run.path.resolve()) else None
