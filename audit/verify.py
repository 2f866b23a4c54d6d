"""Is a run still what was written? Journal chain, hashes, image names, tables that fit."""

from __future__ import annotations

import hashlib

from . import consistency
from .errors import AuditError
from .labels import FILE
from .labels import problems as label_problems
from .store import Run


def problems(run: Run) -> tuple[list[str], int]:
    """One line for every file that does not hold, and how many were checked.

    The chain shows a changed, removed or reordered journal entry; the hashes a changed file; an
    image's name is its own hash, and its thumbnail must look like it. An end cut off the journal
    shows as files that are not entered. That the tables fit each other shows a change by somebody
    who wrote the journal anew; what nobody can write anew is a signature (:mod:`.signing`).
    """
    found: list[str] = []
    try:
        broken, latest = run.journal.broken_at(), run.journal.latest()
    except AuditError as error:
        return [str(error)], 1
    latest = {name: digest for name, digest in latest.items() if not name.startswith(f"{FILE}#")}
    if broken:
        found.append(f"journal.jsonl:{broken}: the chain is broken here")
    for name, digest in sorted(latest.items()):
        path = run.path / name
        if not path.is_file():
            found.append(f"{name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            found.append(f"{name}: changed after it was written")
    found += [f"{name}: not in the journal" for name in run.documents() if name not in latest]
    found += label_problems(run)
    images = sorted(run.path.glob("images/*/*.webp"))
    for path in images:
        name = path.relative_to(run.path).as_posix()
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
            found.append(f"{name}: not the image of this name")
        elif problem := consistency.thumbnail_problem(run, path.stem):
            found.append(f"thumbs/{name.removeprefix('images/')}: {problem}")
    stored = {path.stem for path in images}
    try:
        named = consistency.images(run)
        found += consistency.problems(run)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return [*found, f"a table cannot be read: {reason}"], len(latest)
    for digest in sorted(named - stored):
        found.append(f"images/{digest[:2]}/{digest}.webp: missing")
    return found, len(latest) + len(images)
