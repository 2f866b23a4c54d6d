"""Is a run still what was written? Journal chain, hashes, image names."""

from __future__ import annotations

import hashlib

from .errors import AuditError
from .store import Run


def problems(run: Run) -> tuple[list[str], int]:
    """One line for every file that does not hold, and how many were checked.

    The chain shows a changed, removed or reordered journal entry; the hashes a changed file; an
    image's name is its own hash. An end cut off the journal shows as files that are not entered.
    """
    found: list[str] = []
    try:
        broken, latest = run.journal.broken_at(), run.journal.latest()
    except AuditError as error:
        return [str(error)], 1
    if broken:
        found.append(f"journal.jsonl:{broken}: the chain is broken here")
    for name, digest in sorted(latest.items()):
        path = run.path / name
        if not path.is_file():
            found.append(f"{name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            found.append(f"{name}: changed after it was written")
    found += [f"{name}: not in the journal" for name in run.documents() if name not in latest]
    images = sorted(run.path.glob("images/*/*.webp"))
    for path in images:
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
            found.append(f"{path.relative_to(run.path).as_posix()}: not the image of this name")
    stored = {path.stem for path in images}
    try:
        records = run.read_table("records")
    except Exception as error:
        return [*found, f"records: cannot be read: {' '.join(str(error).split())[:200]}"], len(
            latest
        )
    if "image" in records:
        for digest in sorted(set(records["image"].dropna()) - stored):
            found.append(f"images/{digest[:2]}/{digest}.webp: missing")
    return found, len(latest) + len(images)
