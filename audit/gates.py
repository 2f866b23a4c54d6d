"""Gates: conditions of the spec on findings, held against the interval, not the point."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .errors import AuditError
from .findings import Finding

_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_GATE = re.compile(r"\s*([\w.\-\[\]=, ]+?)\s*(<=|>=|<|>)\s*(-?[\d.]+)\s*")


def parse(gate: str) -> tuple[str, str, float]:
    """Take ``'demographics.mean_deviation <= 0.2'`` apart.

    The left side is a finding's id, or probe and metric alone: then every such finding is held
    to it.

    >>> parse("languages.alignment_gap >= -0.1")
    ('languages.alignment_gap', '>=', -0.1)
    """
    match = _GATE.fullmatch(gate)
    try:
        if match is None or "." not in match[1]:
            raise ValueError
        return match[1], match[2], float(match[3])
    except ValueError as error:
        raise AuditError(
            f"gate '{gate}' is not of the form 'probe.metric <= number' (<, <=, >, >=)"
        ) from error


def evaluate(gates: Sequence[str], findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """For each gate: ``passed``, ``failed`` or ``undecided``, with the findings that decided.

    It holds when the whole interval satisfies it, fails when none of the interval does.
    A gate on a finding that was not tested, or that no finding answers, is undecided.
    """
    everything = list(findings)
    results = []
    for gate in gates:
        name, relation, bound = parse(gate)
        subjects = [f for f in everything if name in (f.id, f"{f.probe}.{f.metric}")]
        states = {finding.id: _state(finding, relation, bound) for finding in subjects}
        worst = "undecided"
        if "failed" in states.values():
            worst = "failed"
        elif states and set(states.values()) == {"passed"}:
            worst = "passed"
        results.append({"gate": gate, "state": worst, "findings": states})
    return results


def _state(finding: Finding, relation: str, bound: float) -> str:
    if finding.ci is None:
        return "undecided"
    low, high = finding.ci
    compare = _RELATIONS[relation]
    holds_low, holds_high = compare(low, bound), compare(high, bound)
    if holds_low and holds_high:
        return "passed"
    return "undecided" if holds_low or holds_high else "failed"
