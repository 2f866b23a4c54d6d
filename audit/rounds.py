"""The rounds of a run that stops when it knows: which images of a plan are made when.

A sequential probe has a method ``open_prompts(run, study) -> set[str]``: the prompts
(``Request.prompt``) that have no verdict yet, judged from the run's tables and from nothing else;
none where it cannot judge at all. Its uses carry the tag ``index``. The first round makes every
use of the other probes and the first look's of these; each further round the next look's, of the
open prompts alone. The state is the table of uses, so a run that is killed goes on in its round,
and each decision sees the images of the rounds so far: the same as an undisturbed run's.
"""

from __future__ import annotations

import dataclasses
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from .errors import AuditError
from .plan import Use, Uses
from .sequential import BUDGET, looks
from .store import Run, column_safe
from .study import Probe, Study

Everything = Mapping[str, Uses]
"""Probe → its uses."""


class SequentialProbe(Probe, Protocol):
    """A probe whose prompts can have a verdict before the budget is spent."""

    def open_prompts(self, run: Run, study: Study) -> set[str]:
        """The prompts that need more images."""


def sequential(probe: Probe) -> TypeGuard[SequentialProbe]:
    """Whether a probe takes part in the rounds."""
    return hasattr(probe, "open_prompts")


def check(study: Study, probes: Mapping[str, Probe]) -> None:
    """Say before anything is made that rounds would be of no use.

    Raises:
        AuditError: no probe takes part in them.
    """
    if study.spec.until_conclusive and not any(sequential(probe) for probe in probes.values()):
        raise AuditError(
            f"until_conclusive: {', '.join(probes)} cannot say which prompts need more images; "
            "add a probe that can, such as demographics, or leave it away"
        )


def study_of(study: Study, probe: Probe) -> Study:
    """The study as a probe sees it: for a sequential one, images per prompt are the budget."""
    spec = study.spec
    if not (spec.until_conclusive and sequential(probe)) or spec.images_per_prompt:
        return study
    return dataclasses.replace(study, spec=spec.replace(images_per_prompt=BUDGET))


def declared(study: Study) -> list[int]:
    """The looks of this study, in images per prompt."""
    return looks(study.spec.images_per_prompt or BUDGET)


def check_declared(study: Study, before: Sequence[int], folder: Path) -> None:
    """Hold a run to the looks it was begun with: its error rate is theirs.

    Raises:
        AuditError: the study declares others.
    """
    if list(before) != (now := declared(study)):
        raise AuditError(
            f"{folder} was begun with at most {before[-1]} images per prompt until conclusive, "
            f"this command says {now[-1]}; choose another --out or the old number"
        )


def rounds(
    run: Run, study: Study, probes: Mapping[str, Probe], everything: Everything
) -> Iterator[Everything]:
    """The uses of each round, those of the earlier ones included.

    Whoever takes them makes and scores their images before it asks for the next.

    Args:
        everything: what the probes would use up to the budget.
    """
    if not study.spec.until_conclusive:
        yield everything
        return
    at = declared(study)
    progress = {
        name: _begun(run, name, everything[name], at)
        for name, probe in probes.items()
        if sequential(probe)
    }
    while True:
        yield _so_far(everything, progress)
        for name, state in progress.items():
            state.ask(probes[name], run, study)
        reached = {name: state.described() for name, state in progress.items()}
        run.write_json("run.json", run.info | {"design": {"looks": at, "probes": reached}})
        grown = sum(state.grow() for state in progress.values())
        if not grown:
            return
        print(f"t2i-audit: {grown} prompts have no verdict yet: more images", file=sys.stderr)


def without_verdicts(
    study: Study, probes: Mapping[str, Probe], everything: Everything
) -> Iterator[Everything]:
    """The uses of each round if no prompt ever has a verdict; the first is the least of all."""
    if not study.spec.until_conclusive:
        yield everything
        return
    at = declared(study)
    progress = {
        name: _Progress(everything[name], at) for name, probe in probes.items() if sequential(probe)
    }
    yield _so_far(everything, progress)
    while sum(state.grow() for state in progress.values()):
        yield _so_far(everything, progress)


class _Progress:
    """One probe's prompts: how many images are planned of each, and which are open.

    Attributes:
        there: prompt → images that the probe's uses allow.
        look: prompt → the number of the look that is planned.
    """

    def __init__(self, uses: Iterable[Use], at: list[int]) -> None:
        self.at = at
        self.there: dict[str, int] = {}
        for use in uses:
            before = self.there.get(use.request.prompt, 0)
            self.there[use.request.prompt] = max(before, use.tags.get("index", -1) + 1)
        self.look = dict.fromkeys(self.there, 0)
        self.open = set(self.there)

    def planned(self, use: Use) -> bool:
        images = self.at[self.look[use.request.prompt]]
        return bool(use.tags.get("index", -1) < images)

    def ask(self, probe: Probe, run: Run, study: Study) -> None:
        assert sequential(probe)
        self.open = probe.open_prompts(run, study_of(study, probe))
        if unknown := self.open - set(self.there):
            raise ValueError(f"{probe.name}.open_prompts: it uses no prompt {min(unknown)!r}")

    def grow(self) -> int:
        """Plan the next look of the open prompts; how many have one."""
        more = [
            prompt
            for prompt, look in self.look.items()
            if prompt in self.open and self.at[look] < min(self.there[prompt], self.at[-1])
        ]
        for prompt in more:
            self.look[prompt] += 1
        return len(more)

    def described(self) -> dict[str, Any]:
        """What run.json says of it."""
        made = [min(self.at[look], self.there[prompt]) for prompt, look in self.look.items()]
        return {
            "rounds": max(self.look.values(), default=-1) + 1,
            "prompts": len(made),
            "open": len(self.open),
            "images_per_prompt": [min(made, default=0), max(made, default=0)],
        }


def _begun(run: Run, name: str, uses: Iterable[Use], at: list[int]) -> _Progress:
    """Where the rounds stood when the run stopped: the looks that its table of uses reaches."""
    state = _Progress(uses, at)
    table = run.read_table(f"uses/{column_safe(name)}", ["request"])
    known = set() if table.empty else set(table.request)
    for use in uses if known else ():
        if use.request.id in known:
            look = min(bisect_left(at, use.tags.get("index", -1) + 1), len(at) - 1)
            state.look[use.request.prompt] = max(look, state.look[use.request.prompt])
    return state


def _so_far(everything: Everything, progress: Mapping[str, _Progress]) -> Everything:
    return {
        name: Uses(filter(progress[name].planned, uses)) if name in progress else uses
        for name, uses in everything.items()
    }
