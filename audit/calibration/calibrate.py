"""Pools, sub-audits, result: each begun where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import plugins
from audit.atomic import replace

from .pool import MODELS, Pool, Size, Trials, make
from .result import PAGE, RESULT, document
from .tally import Tally

if TYPE_CHECKING:
    from audit.backends.base import Backend


def trials(names: Sequence[str] = ()) -> dict[str, Trials]:
    """Probe → its trials; all that are installed, or those named.

    Raises:
        AuditError: a probe has none.
    """
    return {name: plugins.load("trials", name)() for name in names or plugins.names("trials")}


def pools(
    folder: Path, asked: Mapping[str, Trials], size: Size, backend: Backend | None = None
) -> dict[str, Pool]:
    """The images of every model that some trial draws from."""
    others = {name for one in asked.values() for name in one.images_of} - set(asked)
    drawn_from = {**asked, **(trials(sorted(others)) if others else {})}
    return {
        model: make(folder / model, model, mine, size, backend)
        for model in MODELS
        if (mine := {name: one for name, one in drawn_from.items() if model in one.models})
    }


def tally(
    made: Mapping[str, Pool],
    asked: Mapping[str, Trials],
    size: Size,
    say: Callable[[str], None] = lambda line: None,
) -> Tally:
    """Draw and analyse the sub-audits of every probe."""
    found = Tally()
    for name, one in asked.items():
        say(f"calibrate: {name}, {size.sub_audits} sub-audits of each kind")
        found.add(one.outcomes(made, size))
    return found


def calibrate(folder: Path, size: Size, names: Sequence[str] = ()) -> dict[str, Any]:
    """Make what is missing, and write the result and its page into `folder`.

    Raises:
        AuditError: the folder holds pools of another size or of other weights.
    """
    from .page import page

    asked = trials(names)
    folder.mkdir(parents=True, exist_ok=True)
    made = pools(folder, asked, size)
    result = document(
        tally(made, asked, size, lambda line: print(line, file=sys.stderr)), made, size
    )
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace(folder / RESULT, text.encode())
    replace(folder / PAGE, page(result).encode())
    return result
