"""Gates: conditions of the spec on findings, held against the interval, not the point.

``probe.metric <= number`` speaks of a finding's estimate. ``change(probe.metric) <= number`` speaks
of how much it rose since another run (negative: fell), ``abs(change(probe.metric)) <= number`` of
how much it changed in any direction; these two are held where runs are compared.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .errors import AuditError
from .findings import Finding
from .plugins import did_you_mean

Of = Literal["estimate", "change", "abs(change)"]

_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_GATE = re.compile(rf"\s*(.+?)\s*(<=|>=|<|>)\s*({_NUMBER})\s*")
_CHANGE = re.compile(r"change\(\s*(.+?)\s*\)")
_ABSOLUTE = re.compile(r"abs\(\s*(change\(.+\))\s*\)")
_NAME = re.compile(r"[\w-]+\.\w[\w.-]*(\[.*\])?")


@dataclass(frozen=True)
class Gate:
    """A gate, taken apart.

    Attributes:
        name: a finding's id; or probe and metric alone: then every such finding is held to it,
            that of all images and those of all slices.
    """

    text: str
    of: Of
    name: str
    relation: str
    bound: float

    def names(self, finding: Finding) -> bool:
        """Whether it speaks of this finding."""
        return self.name in (finding.id, f"{finding.probe}.{finding.metric}")


def parse(gate: str) -> Gate:
    """Take ``'demographics.mean_deviation <= 0.2'`` apart.

    >>> gate = parse("change(languages.alignment_gap[language=sw]) >= -0.1")
    >>> gate.of, gate.name, gate.relation, gate.bound
    ('change', 'languages.alignment_gap[language=sw]', '>=', -0.1)

    Raises:
        AuditError: it is not of that form.
    """
    match = _GATE.fullmatch(gate)
    name = match[1] if match else ""
    of: Of = "estimate"
    if absolute := _ABSOLUTE.fullmatch(name):
        name, of = absolute[1], "abs(change)"
    if change := _CHANGE.fullmatch(name):
        name, of = change[1], "change" if of == "estimate" else of
    if match is None or not _NAME.fullmatch(name):
        raise AuditError(
            f"gate '{gate}' is not of the form 'probe.metric <= number' (<, <=, >, >=); "
            "of a comparison: 'change(probe.metric) <= number'"
        )
    return Gate(gate, of, name, match[2], float(match[3]))


def evaluate(gates: Sequence[str], findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """For each gate on an estimate: ``passed``, ``failed`` or ``undecided``, and what decided.

    It holds when the whole interval satisfies it, fails when none of the interval does. Of a
    metric with several slices all must hold: one that fails fails the gate, one that is undecided
    or was not tested leaves it undecided. Gates on a change wait for a comparison.

    Raises:
        AuditError: a gate names a metric or slice that the probe has not reported.
    """
    everything = list(findings)
    return [_held(gate, everything) for gate in map(parse, gates) if gate.of == "estimate"]


def evaluate_changes(gates: Sequence[str], changes: Iterable[Finding]) -> list[dict[str, Any]]:
    """The same for gates on a change; `changes` are findings whose estimate is the change.

    Raises:
        AuditError: a gate names nothing that both runs hold.
    """
    everything = list(changes)
    return [_held(gate, everything) for gate in map(parse, gates) if gate.of != "estimate"]


def unmet(results: Iterable[dict[str, Any]]) -> list[str]:
    """Of gates that do not hold: each with what keeps it from holding, in one line."""
    lines = []
    for result in results:
        if result["state"] == "passed":
            continue
        states: dict[str, str] = result["findings"]
        worst = [name for name, state in states.items() if state == result["state"]]
        by = f" by {len(worst)} of {len(states)} findings" if len(states) > 1 else ""
        first = f", such as {worst[0]}" if by else ""
        lines.append(f"{result['gate']} ({result['state']}{by}{first})")
    return lines


def _held(gate: Gate, findings: Sequence[Finding]) -> dict[str, Any]:
    subjects = [finding for finding in findings if gate.names(finding)]
    if not subjects:
        _check_named(gate, findings)
    states = {finding.id: _state(finding, gate) for finding in subjects}
    worst = "undecided"
    if "failed" in states.values():
        worst = "failed"
    elif states and set(states.values()) == {"passed"}:
        worst = "passed"
    return {"gate": gate.text, "state": worst, "findings": states}


def _check_named(gate: Gate, findings: Sequence[Finding]) -> None:
    """A gate that names nothing would never fail.

    It is no error where the probe had reason to report nothing at all.
    """
    mine = [finding for finding in findings if gate.name.startswith(f"{finding.probe}.")]
    if mine and all(finding.verdict == "not_tested" for finding in mine):
        return
    known = {name for f in findings for name in (f.id, f"{f.probe}.{f.metric}")}
    raise AuditError(
        f"gate '{gate.text}' names no finding{did_you_mean(gate.name, known)}; "
        + (
            "findings.json lists those there are"
            if gate.of == "estimate"
            else "both runs must hold it"
        )
    )


def _state(finding: Finding, gate: Gate) -> str:
    if finding.ci is None:
        return "undecided"
    low, high = finding.ci
    if gate.of == "abs(change)":
        low, high = (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(-low, high)
    compare = _RELATIONS[gate.relation]
    holds_low, holds_high = compare(low, gate.bound), compare(high, gate.bound)
    if holds_low and holds_high:
        return "passed"
    return "undecided" if holds_low or holds_high else "failed"
