"""Pools, sub-audits, result: each begun where it stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import plugins
from audit.atomic import replace
from audit.errors import AuditError

from .pool import MODELS, Pool, Size, Trials, make
from .result import PAGE, RESULT, document
from .tally import Answer, Tally

if TYPE_CHECKING:
    from audit.backends.base import Backend

PROCESSES = 4
"""At most at a time: each takes about 1.3 GB, and the longest trials take a third of the whole."""


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


def tally(made: Mapping[str, Pool], names: Collection[str], size: Size) -> Tally:
    """Draw and analyse the sub-audits of every probe: one in a process, as many at a time as there
    are cores, :data:`PROCESSES` at most.

    Every process computes on one thread and draws from seeds of its own, so what is found does not
    depend on their number.

    Raises:
        AuditError: of any of the trials; or a process was killed, perhaps for want of memory.
    """
    several, others = min(PROCESSES, os.cpu_count() or 1), active_children()
    with ProcessPoolExecutor(several, get_context("spawn"), _alone) as executor:
        asked = {name: executor.submit(_answers, name, made, size) for name in names}
        try:
            for one in wait(asked.values(), return_when=FIRST_EXCEPTION).done:
                one.result()
        except BrokenProcessPool as error:
            left = [name for name, one in asked.items() if not one.done() or one.exception()]
            raise AuditError(
                f"calibrate: a process was killed, perhaps for want of memory; {', '.join(left)}: "
                "not analysed; the same command begins the analysis anew"
            ) from error
        except BaseException:
            for process in {*active_children()} - {*others}:
                process.terminate()
            raise
    found = Tally()
    for one in asked.values():
        found.add(one.result())
    return found


def _alone() -> None:
    """One thread, also of NumPy; an interruption is the parent's to end."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threadpool_limits(1)


def _answers(name: str, made: Mapping[str, Pool], size: Size) -> list[Answer]:
    print(f"calibrate: {name}, {size.sub_audits} sub-audits of each kind", file=sys.stderr)
    return list(trials([name])[name].outcomes(made, size))


def calibrate(folder: Path, size: Size, names: Sequence[str] = ()) -> dict[str, Any]:
    """Make what is missing, and write the result and its page into `folder`.

    Raises:
        AuditError: the folder holds pools of another size or of other weights.
    """
    from .page import page

    asked = trials(names)
    folder.mkdir(parents=True, exist_ok=True)
    made = pools(folder, asked, size)
    result = document(tally(made, asked, size), made, size)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace(folder / RESULT, text.encode())
    replace(folder / PAGE, page(result).encode())
    return result
