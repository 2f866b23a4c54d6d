"""Findings of two runs, matched, and what may be said of the change of each."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from audit.errors import AuditError
from audit.findings import Finding, Verdict, judge
from audit.plugins import did_you_mean
from audit.statistics import benjamini_hochberg

from .differences import Difference, of_estimates, of_readings
from .opened import Opened
from .readings import reading
from .setup import Differs, barred, setup

LEAST = 20
"""Images on each side below which a change gets no verdict."""

_BY_SIZE = (
    "mean_deviation_", "mean_absolute_deviation", "diversity_", "total_variation_",
    "wording_spread_", "memorized_share", "clique_share", "expected_maximum",
)  # fmt: skip
"""Metrics whose expectation depends on the images per prompt."""


@dataclass(frozen=True)
class Change:
    """One finding of both runs.

    Attributes:
        first, second: the finding of either run.
        values: what was compared, of either run: the estimates, or the uncorrected ones.
        corrected: the difference of the corrected estimates, where `values` are not those.
        ci: of the difference ``values[1] − values[0]``; ``None`` where it is not judged.
        p: of "nothing changed"; `p_adjusted`: over all changes of the comparison.
        margin: the change that does not count; `p_beyond` of "not beyond it", adjusted likewise.
        verdict: of the change against the margin.
        reason: why there is no verdict.
    """

    first: Finding
    second: Finding
    values: tuple[float, float] | None = None
    corrected: float | None = None
    ci: tuple[float, float] | None = None
    level: float = 0.95
    method: str = ""
    pairs: int = 0
    p: float | None = None
    p_adjusted: float | None = None
    margin: float = 0.0
    p_beyond: float | None = None
    verdict: Verdict = "not_tested"
    reason: str = ""

    @property
    def id(self) -> str:
        """The finding's."""
        return self.first.id

    @property
    def estimate(self) -> float | None:
        """Second minus first."""
        return None if self.values is None else self.values[1] - self.values[0]

    @property
    def differs(self) -> bool:
        """It is shown to differ from no change."""
        return self.p_adjusted is not None and self.p_adjusted <= 1 - self.level

    @property
    def turned(self) -> bool:
        """The two findings have different verdicts."""
        return self.first.verdict != self.second.verdict

    def as_finding(self) -> Finding:
        """The change as a finding, for gates."""
        return dataclasses.replace(
            self.second, estimate=self.estimate, ci=self.ci, verdict=self.verdict
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        kept = {name: getattr(self, name) for name in _KEPT}
        return {
            "id": self.id,
            "probe": self.first.probe,
            "metric": self.first.metric,
            "slice": dict(self.first.slice),
            "estimate": self.estimate,
            **kept,
            "differs": self.differs,
            "first": self.first.as_dict(),
            "second": self.second.as_dict(),
        }


_KEPT = (
    "values", "corrected", "ci", "level", "method", "pairs", "p", "p_adjusted", "margin",
    "p_beyond", "verdict", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """All that two runs tell about what changed.

    Attributes:
        setup: what differs in how they were made.
        changes: findings of both, in the second run's order.
        only_first, only_second: findings that one run alone holds.
    """

    first: Opened
    second: Opened
    level: float
    setup: Sequence[Differs]
    changes: Sequence[Change]
    only_first: Sequence[Finding]
    only_second: Sequence[Finding]
    unjudged_probes: Mapping[str, str] = field(default_factory=dict)

    @property
    def judged(self) -> list[Change]:
        """Changes with an interval: the family."""
        return [change for change in self.changes if change.ci is not None]


def compare(
    first: Opened, second: Opened, margins: Mapping[str, float] | None = None, level: float = 0.95
) -> Comparison:
    """Match the findings of two runs by probe, metric and slice, and judge each change.

    The false discovery rate is held over all changes together (Benjamini and Hochberg 1995), once
    for "nothing changed" and once for "not beyond the margin".

    Args:
        margins: metric, ``probe.metric`` or a finding's id → the change that does not count; the
            empty name: of all. Default: the margin that the probe declared of the finding. A
            finding with none has 0: any change counts.

    Raises:
        AuditError: a margin names no finding of both runs.
    """
    margins = dict(margins or {})
    sides = [_by_key(run) for run in (first, second)]
    keys = [key for key in sides[1] if key in sides[0]]
    probes = list(dict.fromkeys(sides[1][key][0].probe for key in keys))
    closed = {probe: barred(first, second, probe) for probe in probes}
    _check(margins, [sides[1][key][0] for key in keys])
    raw: list[tuple[Change, Difference | None]] = []
    for key in keys:
        one, other = sides[0][key], sides[1][key]
        reason = closed[other[0].probe]
        if len(one) > 1 or len(other) > 1:
            reason = "a run holds several findings of this name"
        change = Change(one[0], other[0], level=level, margin=_margin(margins, other[0]))
        raw.append(_changed(first, second, change, reason))
    return Comparison(
        first,
        second,
        level,
        setup(first, second, probes),
        _judged(raw),
        [found for key, held in sides[0].items() if key not in sides[1] for found in held],
        [found for key, held in sides[1].items() if key not in sides[0] for found in held],
        {probe: reason for probe, reason in closed.items() if reason},
    )


def _by_key(run: Opened) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in run.findings:
        slice_ = json.dumps(finding.slice, sort_keys=True, ensure_ascii=False)
        found.setdefault(f"{finding.probe}\0{finding.metric}\0{slice_}", []).append(finding)
    return found


def _check(margins: Mapping[str, float], findings: Sequence[Finding]) -> None:
    known = {name for finding in findings for name in _names(finding)}
    for name, margin in margins.items():
        if name and name not in known:
            raise AuditError(
                f"a margin for '{name}', which no finding of both runs has"
                f"{did_you_mean(name, known)}"
            )
        if not (math.isfinite(margin) and margin >= 0):
            raise AuditError(f"the margin of '{name or 'all'}' is a number from 0, not {margin}")


def _names(finding: Finding) -> tuple[str, str, str]:
    return finding.id, f"{finding.probe}.{finding.metric}", finding.metric


def _margin(margins: Mapping[str, float], finding: Finding) -> float:
    for name in (*_names(finding), ""):
        if name in margins:
            return margins[name]
    return max(finding.threshold or 0.0, 0.0)


def _changed(
    first: Opened, second: Opened, change: Change, reason: str
) -> tuple[Change, Difference | None]:
    """The change with its interval, or with the reason why there is none."""
    a, b = change.first, change.second
    if not reason and (a.estimate is None or b.estimate is None):
        reason = "not measured in " + ("both runs" if a.estimate == b.estimate else
                                       "the first run" if a.estimate is None else
                                       "the second run")  # fmt: skip
    if reason or a.estimate is None or b.estimate is None:
        values = None if a.estimate is None or b.estimate is None else (a.estimate, b.estimate)
        return dataclasses.replace(change, values=values, reason=reason), None
    if b.metric.startswith(_BY_SIZE) and _other_size(a, b):
        reason = f"it depends on the images per prompt: {_size(a):g} and {_size(b):g}"
        return dataclasses.replace(change, values=(a.estimate, b.estimate), reason=reason), None
    corrected = a.corrected_for is not None or b.corrected_for is not None
    read = reading(first, a), reading(second, b)
    if read[0] is not None and read[1] is not None:
        found = of_readings(read[0], read[1], change.level)
        if found is not None:
            return dataclasses.replace(
                change,
                values=(read[0].mean, read[1].mean),
                corrected=b.estimate - a.estimate if corrected else None,
                method=found.method + ("; uncorrected shares" if corrected else ""),
                pairs=found.pairs,
                ci=found.ci,
            ), found
    change = dataclasses.replace(change, values=(a.estimate, b.estimate))
    if (a.corrected_for is None) != (b.corrected_for is None):
        return dataclasses.replace(
            change, reason="one of the two is corrected for the detector's error, the other not"
        ), None
    if a.ci is None or b.ci is None:
        return dataclasses.replace(change, reason="an interval is missing"), None
    if not a.level == b.level == change.level:
        return dataclasses.replace(
            change, reason=f"intervals of {a.level:g}, {b.level:g} and not {change.level:g}"
        ), None
    groups = min(a.clusters or 0, b.clusters or 0)
    freedom = groups - 1 if groups > 1 else math.inf
    found = of_estimates(a.estimate, a.ci, b.estimate, b.ci, change.level, freedom)
    return dataclasses.replace(change, method=found.method, ci=found.ci), found


def _other_size(a: Finding, b: Finding) -> bool:
    return abs(_size(a) - _size(b)) > 0.05 * max(_size(a), _size(b))


def _size(finding: Finding) -> float:
    """Images per prompt."""
    return finding.n / max(finding.clusters or 1, 1)


def _judged(raw: Sequence[tuple[Change, Difference | None]]) -> list[Change]:
    family = [(change, found) for change, found in raw if found is not None]
    nothing = [found.p_beyond() for _, found in family]
    beyond = [found.p_beyond(change.margin) for change, found in family]
    adjusted = benjamini_hochberg(nothing), benjamini_hochberg(beyond)
    at = iter(range(len(family)))
    changes = []
    for change, found in raw:
        if found is None:
            changes.append(change)
            continue
        i = next(at)
        n = min(change.first.n, change.second.n)
        verdict = judge(
            change.ci, 0.0, change.margin, n=n, least=LEAST,
            p=float(adjusted[1][i]), alpha=1 - change.level,
        )  # fmt: skip
        reason = f"fewer than {LEAST} images" if n < LEAST else ""
        if verdict == "within" and not _corrected_within(change):
            verdict = "inconclusive"
            reason = "within before the correction for the detector's error, which enlarges it"
        changes.append(
            dataclasses.replace(
                change,
                p=nothing[i],
                p_adjusted=float(adjusted[0][i]),
                p_beyond=float(adjusted[1][i]),
                verdict=verdict,
                reason=reason,
            )
        )
    return changes


def _corrected_within(change: Change) -> bool:
    """An instrument's error shrinks a difference; so of corrected findings both must lie within."""
    a, b = change.first, change.second
    if change.corrected is None:
        return True
    if a.ci is None or b.ci is None or a.estimate is None or b.estimate is None:
        return False
    found = of_estimates(a.estimate, a.ci, b.estimate, b.ci, change.level)
    return judge(found.ci, 0.0, change.margin) == "within"


def tally(changes: Sequence[Change]) -> dict[str, int]:
    """Verdict of the change → how many."""
    counts = Counter(change.verdict for change in changes)
    return {name: counts[name] for name in ("exceeds", "within", "inconclusive", "not_tested")}
