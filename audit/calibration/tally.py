"""What was planted, what was found, and how often the two agree over repeated sub-audits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from audit.findings import Finding
from audit.statistics import rate

Role = Literal["planted", "null", "between"]

COVERAGE = (0.90, 0.99)
"""Where the coverage of 95% intervals must lie."""
POWER = 0.80
"""A planted effect of the stated size is accused in this share of the sub-audits at least."""
FALSE_ALARMS = 0.05
"""What has no effect is accused in this share of the sub-audits at most."""
WRONG = 0.5
"""An instrument that is wrong more often than this about a label has its labels mixed up."""
LEAST_INTERVALS = 20
"""Fewer intervals have no coverage."""
NOT_ASKED = "no trial of these probes asks it"


@dataclass(frozen=True)
class Effect:
    """One thing that is planted again and again.

    Attributes:
        variant: the phantom that it is planted in, in words.
        said: the size, in words: what must be found, or what is not there.
        role: ``planted`` effects must be accused, ``null`` ones must not be, of those ``between``
            only the interval is held to account.
        open: the interval can miss on one side alone, or its method is exact and so conservative:
            there is no upper limit to its coverage.
    """

    probe: str
    variant: str
    metric: str
    said: str
    role: Role = "between"
    open: bool = False


@dataclass(frozen=True)
class Outcome:
    """One finding of one sub-audit beside the known answer.

    Attributes:
        audit: the sub-audit's number: its findings are wrong together.
        planted: the true value of the estimand.
    """

    effect: Effect
    audit: int
    planted: float
    estimate: float | None
    ci: tuple[float, float] | None
    verdict: str

    @classmethod
    def of(cls, effect: Effect, audit: int, planted: float, finding: Finding | None) -> Outcome:
        """Of a finding; ``None``: there is none, so it is neither covered nor accused."""
        if finding is None:
            return cls(effect, audit, planted, None, None, "not_tested")
        return cls(effect, audit, planted, finding.estimate, finding.ci, finding.verdict)

    @property
    def covered(self) -> bool:
        """The interval holds the true value, up to rounding."""
        if self.ci is None:
            return False
        return bool(self.ci[0] - 1e-9 <= self.planted <= self.ci[1] + 1e-9)


@dataclass(frozen=True)
class Check:
    """A known answer that is right or wrong."""

    probe: str
    said: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Read:
    """How often a detector agreed with what is truly on the images.

    Attributes:
        truth: where it is known from.
        of: what was asked, such as ``gender: female``.
        right: shape (n,), booleans; `clusters` are the prompts.
        held: whether errors on more than half of the images fail the calibration. A detector that
            is asked of pictures that it was not made for is not held to it.
    """

    detector: str
    of: str
    truth: str
    right: Any
    clusters: Any
    held: bool = True


@dataclass(frozen=True)
class Unread:
    """A detector, or one of its questions, that no known answer is held against, and why."""

    detector: str
    why: str


Answer = Outcome | Check | Read | Unread


@dataclass
class Tally:
    """All answers of a calibration."""

    outcomes: list[Outcome] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    read: list[Read] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)

    def add(self, answers: Iterable[Answer]) -> None:
        """Sort answers in."""
        for answer in answers:
            if isinstance(answer, Outcome):
                self.outcomes.append(answer)
            elif isinstance(answer, Check):
                self.checks.append(answer)
            elif isinstance(answer, Unread):
                self.unread.append(answer)
            else:
                self.read.append(answer)

    def effects(self) -> list[dict[str, Any]]:
        """A row per effect: planted, found, covered, accused."""
        by: dict[Effect, list[Outcome]] = {}
        for outcome in self.outcomes:
            by.setdefault(outcome.effect, []).append(outcome)
        return [_effect(effect, outcomes) for effect, outcomes in by.items()]

    def detectors(self) -> list[dict[str, Any]]:
        """A row per detector and thing read: the share of errors."""
        rows = []
        for one in self.read:
            wrong = ~np.asarray(one.right, bool)
            found = rate(wrong, np.asarray(one.clusters).astype(str))
            rows.append(
                {
                    "detector": one.detector,
                    "of": one.of,
                    "truth": one.truth,
                    "n": found.n,
                    "wrong": found.events,
                    "error": found.estimate,
                    "ci": None if found.ci is None else list(found.ci),
                    "failures": ["wrong on more than half of the images"]
                    if one.held and found.ci is not None and found.ci[0] > WRONG
                    else [],
                }
            )
        return rows

    def without_answer(self, names: Iterable[str]) -> list[dict[str, str]]:
        """A row per detector that is not read, or not whole, and why.

        Args:
            names: of all detectors: of those that no trial speaks of it is said that none does.
        """
        spoken = {one.detector for one in self.read} | {one.detector for one in self.unread}
        left = [Unread(name, NOT_ASKED) for name in names if name not in spoken]
        return [vars(one) for one in self.unread + left]


def _effect(effect: Effect, outcomes: list[Outcome]) -> dict[str, Any]:
    audits = [str(outcome.audit) for outcome in outcomes]
    covered = rate([outcome.covered for outcome in outcomes], audits)
    accused = rate([outcome.verdict == "exceeds" for outcome in outcomes], audits)
    known = [o for o in outcomes if o.estimate is not None and o.ci is not None]
    first = outcomes[0]
    row: dict[str, Any] = {
        "probe": effect.probe,
        "variant": effect.variant,
        "metric": effect.metric,
        "said": effect.said,
        "role": effect.role,
        "sub_audits": len(set(audits)),
        "intervals": len(outcomes),
        "planted": _mean([o.planted for o in outcomes]),
        "found": _mean([o.estimate for o in known if o.estimate is not None]),
        "width": _mean([o.ci[1] - o.ci[0] for o in known if o.ci is not None]),
        "example": {
            "planted": first.planted,
            "found": first.estimate,
            "ci": None if first.ci is None else list(first.ci),
            "covered": first.covered,
            "verdict": first.verdict,
        },
        "covered": covered.events,
        "coverage": covered.estimate,
        "coverage_ci": None if covered.ci is None else list(covered.ci),
        "open": effect.open,
        "accused": accused.events,
        "accused_share": accused.estimate,
        "accused_ci": None if accused.ci is None else list(accused.ci),
    }
    return row | {"failures": failures(row)}


def failures(row: Mapping[str, Any]) -> list[str]:
    """Why an effect's row does not hold.

    A share of few sub-audits is not known well. So coverage and false alarms fail where their own
    interval, with the sub-audits as clusters, lies wholly outside of what is allowed; power fails
    where the share itself is too small, for what is planted is planted large.
    """
    why = []
    low, high = row["coverage_ci"]
    if row["intervals"] >= LEAST_INTERVALS:
        if high < COVERAGE[0]:
            why.append(f"95% intervals cover {row['coverage']:.1%}, less than {COVERAGE[0]:.0%}")
        if low > COVERAGE[1] and not row["open"]:
            why.append(f"95% intervals cover {row['coverage']:.1%}, more than {COVERAGE[1]:.0%}")
    if row["role"] == "planted" and row["accused_share"] < POWER:
        why.append(f"the planted effect is found in {row['accused_share']:.0%}")
    if row["role"] == "null" and row["accused_ci"][0] > FALSE_ALARMS:
        why.append(f"what is not there is accused in {row['accused_share']:.0%}")
    return why


def found(findings: Iterable[Finding], metric: str, **where: Any) -> Finding | None:
    """The finding of a metric whose slice has these values; ``None``: there is none."""
    for finding in findings:
        if finding.metric == metric and where.items() <= finding.slice.items():
            return finding
    return None


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return float(np.mean(listed)) if listed else None
