"""What differs in how two runs were made, and which of it forbids a judgement."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audit import plugins
from audit.card.wording import flat
from audit.errors import AuditError

from .opened import Opened

_SEEN_ELSEWHERE = ("weights", "origin", "torch_threads", "scheduler_config", "options")
_NOT_THE_INSTRUMENT = ("device", "dtype", "versions")
_VERSION = re.compile(r"\d+(\.\d+)+\S*")


@dataclass(frozen=True)
class Differs:
    """One thing of the setup that is not the same in both runs.

    Attributes:
        consequence: what follows for the comparison; empty: the findings say by themselves.
    """

    what: str
    first: str
    second: str
    consequence: str = ""

    def as_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return dict(vars(self))


def weights_hash(run: Opened) -> str:
    """SHA-256 over the sorted lines ``<SHA-256>  <file>`` of every weight file, as on the card."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(run.weights.items()))
    return hashlib.sha256(lines.encode()).hexdigest() if lines else "unknown"


def setup(first: Opened, second: Opened, probes: list[str]) -> list[Differs]:
    """Every difference of the model, the sampler, the prompts, the instruments and the versions."""
    facts = _facts(first), _facts(second)
    found = [
        Differs(name, facts[0].get(name, "none"), facts[1].get(name, "none"))
        for name in dict.fromkeys([*facts[0], *facts[1]])
        if facts[0].get(name) != facts[1].get(name)
    ]
    for probe in probes:
        sides = [(_prompts(run, probe), _short(_prompts(run, probe))) for run in (first, second)]
        if sides[0][0] != sides[1][0]:
            found.append(
                Differs(f"prompts of {probe}", sides[0][1], sides[1][1], f"{probe} is not judged")
            )
        seeds = _seeds(first, probe), _seeds(second, probe)
        if seeds[0] != seeds[1]:
            found.append(Differs(f"seeds of {probe}", seeds[0], seeds[1]))
    for name in sorted({*first.detectors, *second.detectors}):
        about = first.detectors.get(name, {}), second.detectors.get(name, {})
        idle = [not one or "unavailable" in one for one in about]
        if about[0] == about[1] or all(idle):
            continue
        if not _other_instrument(first, second, name):
            own = all(_of_the_model(run, name) for run in (first, second))
            why = "part of the model that is audited" if own else "the same weights and settings"
        else:
            judged = [probe for probe in probes if name in _instruments(first, second, probe)]
            why = f"not judged: {', '.join(judged)}" if judged else ""
        found.append(Differs(f"detector {name}", _said(about[0]), _said(about[1]), why))
    return found


def barred(first: Opened, second: Opened, probe: str) -> str:
    """Why the findings of a probe must not be judged; empty: they may."""
    if _prompts(first, probe) != _prompts(second, probe):
        return "the prompts differ"
    others = [
        name
        for name in sorted(_instruments(first, second, probe))
        if _other_instrument(first, second, name)
    ]
    if others:
        return f"the detector{'s' if len(others) > 1 else ''} {', '.join(others)} differ" + (
            "" if len(others) > 1 else "s"
        )
    if _options(first, probe) != _options(second, probe):
        return "the settings of the probe differ"
    return ""


def _facts(run: Opened) -> dict[str, str]:
    info = run.info
    backend = {
        key: value
        for key, value in _mapping(info.get("backend")).items()
        if key not in _SEEN_ELSEWHERE
    }
    spec = _mapping(info.get("spec"))
    facts: dict[str, Any] = {
        "model": info.get("model"),
        "weights, SHA-256": weights_hash(run),
        "suite": info.get("suite"),
        "sampler": _mapping(info.get("sampler")),
        "backend": backend,
        "images per prompt": spec.get("images_per_prompt"),
        "limit": spec.get("limit"),
        "until conclusive": spec.get("until_conclusive"),
        "batch size": spec.get("batch_size"),
        "settings": {k: v for k, v in _mapping(spec.get("probes")).items() if v},
        "version": _mapping(info.get("versions")),
        "threads": info.get("threads"),
    }
    return {name.replace(".", " ", 1): value for name, value in flat(facts).items()}


def _prompts(run: Opened, probe: str) -> str:
    """SHA-256 of the JSON array of the probe's sorted distinct prompts; empty without any."""
    asked = run.asked(probe)
    if asked.empty:
        return ""
    prompts = sorted({str(prompt) for prompt in asked["prompt"]})
    return hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest()


def _seeds(run: Opened, probe: str) -> str:
    asked = run.asked(probe)
    if asked.empty or asked["seed"].isna().all():
        return "none"
    seeds = asked["seed"].dropna()
    return f"{int(seeds.min())} to {int(seeds.max())}, {seeds.nunique()} distinct"


def _options(run: Opened, probe: str) -> Any:
    given = _mapping(_mapping(_mapping(run.info.get("spec")).get("probes")).get(probe))
    return {name: value for name, value in given.items() if name != "images"}


def _instruments(first: Opened, second: Opened, probe: str) -> set[str]:
    """The detectors that a probe's findings may rest on.

    A probe whose detectors depend on the study may rest on any that both runs have beside its own:
    no finding of both rests on what one of them has not. One that is not installed may rest on any.
    """
    there = {*first.detectors, *second.detectors}
    try:
        asked = plugins.load("probes", probe)
    except AuditError:
        return there
    own = there & set(asked.detectors)
    return (
        own | (set(first.detectors) & set(second.detectors))
        if (hasattr(asked, "detectors_of"))
        else own
    )


def _other_instrument(first: Opened, second: Opened, name: str) -> bool:
    sides = [run.detectors.get(name, {"unavailable": ""}) for run in (first, second)]
    idle = ["unavailable" in about for about in sides]
    if any(idle):
        return not all(idle)
    if all(_of_the_model(run, name) for run in (first, second)):
        return False  # its change is a change of the model
    return bool(_identity(sides[0]) != _identity(sides[1]))


def _of_the_model(run: Opened, name: str) -> bool:
    """The detector's weights are files of the audited model, as its own safety checker's are."""
    held = _mapping(run.detectors.get(name, {}).get("weights"))
    return bool(held) and all(run.weights.get(str(file)) == value for file, value in held.items())


def _identity(about: Any) -> Any:
    """A detector without what runs it: device, number format and versions of packages."""
    if isinstance(about, Mapping):
        return {
            key: _identity(value)
            for key, value in about.items()
            if key not in _NOT_THE_INSTRUMENT
            and not (isinstance(value, str) and _VERSION.fullmatch(value))
        }
    return about


def _short(digest: str) -> str:
    return digest[:16] + "…" if digest else "none"


def _said(about: Mapping[str, Any]) -> str:
    if not about:
        return "not used"
    if "unavailable" in about:
        return f"not available: {about['unavailable']}"
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    return f"described by {hashlib.sha256(text.encode()).hexdigest()[:16]}…"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
