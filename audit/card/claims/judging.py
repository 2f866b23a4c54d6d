"""Claims against findings: supported, contradicted, inconclusive or not testable, and by what.

A claim that something happens is supported by one finding that exceeds its reference, and
contradicted when every finding lies within. A claim that it does not happen is contradicted by one
that exceeds, and supported when every one lies within; where some were not tested, neither follows
from the rest. A claimed share is held against the interval: supported when the whole of it lies
inside the claim, with the finding's own margin, contradicted when none of it does. Everything else
is inconclusive. Nothing is corrected for the number of claims; the verdicts keep the corrections of
their probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from audit.card.wording import metric
from audit.findings import Finding, judge

from .kinds import Kind
from .narrowing import Part, narrow
from .quantities import Quantity
from .reading import Document, Statement
from .statements import Claim, claims, pattern

Outcome = Literal["supported", "contradicted", "inconclusive", "not testable"]
_IF_ALL_WITHIN: dict[str, Outcome] = {"affirmed": "contradicted", "denied": "supported"}
OUTCOMES: tuple[Outcome, ...] = ("contradicted", "supported", "inconclusive", "not testable")


@dataclass(frozen=True)
class Judged:
    """A claim and what the run says of it.

    Attributes:
        kind: the kind of claim; ``co2`` for arithmetic of the card itself.
        says: what the claim was read as, in our words.
        statement: the claim's own words, their line and headings.
        because: the reason in one or two sentences.
        decisive: the finding that says so, or the one that comes nearest to it.
        findings: ids of every finding that was asked.
        arithmetic: the numbers of a recomputation.
    """

    kind: str
    says: str
    statement: Statement
    outcome: Outcome
    because: str
    decisive: Finding | None = None
    findings: tuple[str, ...] = ()
    arithmetic: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "kind": self.kind,
            "outcome": self.outcome,
            "claim": self.statement.text,
            "line": self.statement.line,
            "section": list(self.statement.section),
            "read_as": self.says,
            "because": self.because,
            "finding": self.decisive.id if self.decisive else None,
            "findings": list(self.findings),
            "arithmetic": self.arithmetic,
        }


def check(document: Document, findings: Sequence[Finding]) -> dict[str, Any]:
    """claims.json: every claim of a card, judged by the findings of a run.

    ``unread`` has the statements that speak of something testable in words that no pattern reads.
    """
    from .co2 import recomputed

    found = claims(document)
    judged = [answer(claim, findings) for claim in found.claims]
    judged += recomputed(document)
    judged.sort(key=lambda one: one.statement.line)
    return {
        "schema_version": 1,
        "card": document.name,
        "sha256": document.sha256,
        "title": document.title,
        "problems": document.problems,
        "counts": {
            **document.counts,
            "statements under headings that make no claims": found.passed_over,
            "claims": len(judged),
            **{name: sum(one.outcome == name for one in judged) for name in OUTCOMES},
            "statements on a testable subject that no pattern reads": len(found.unread),
        },
        "claims": [one.as_dict() for one in judged],
        "unread": [
            {"statement": said.text, "line": said.line, "subject": kinds}
            for said, kinds in found.unread
        ],
    }


def answer(claim: Claim, findings: Sequence[Finding]) -> Judged:
    """One claim against the findings of a run."""
    kind = claim.kind
    says = kind.denial if claim.reading == "denied" else kind.proposition

    def found(outcome: Outcome, because: str, part: Part, by: Finding | None = None) -> Judged:
        about = f"{says} ({', '.join(part.words)})" if part.words else says
        if claim.amount is not None:
            about += f": {claim.amount.words}"
        caution = f" {kind.caution}" if kind.caution and kind.rule != "none" else ""
        ids = tuple(finding.id for finding in part.findings)
        return Judged(kind.name, about, claim.statement, outcome, because + caution, by, ids)

    if kind.rule == "none":
        return found("not testable", kind.caution, Part([]))
    part = _part(claim, findings)
    measured = [f for f in part.findings if f.verdict != "not_tested" and f.estimate is not None]
    if not measured:
        return found("not testable", _untested(kind, part), part)
    untested = len(part.findings) - len(measured)
    rest = f" {untested} of {len(part.findings)} were not tested." if untested else ""
    if claim.amount is not None:
        outcome, because, by = _share(claim.amount, measured, part.inverse)
    elif kind.rule == "present":
        affirmed = claim.reading == "affirmed"
        outcome, by = ("supported" if affirmed else "contradicted"), measured[0]
        because = "It is there and scored the images of this run."
    else:
        outcome, because, by = _verdicts(claim, measured)
        if untested and outcome == _IF_ALL_WITHIN.get(claim.reading):
            outcome = "inconclusive"  # what was not tested may lie beyond
    return found(outcome, because + rest, part, by)


def _part(claim: Claim, findings: Sequence[Finding]) -> Part:
    kind, text = claim.kind, claim.statement.text
    patterns = kind.findings[:1] if claim.amount is not None else kind.findings
    part = Part(
        [
            f
            for f in findings
            if any(fnmatchcase(f"{f.probe}.{f.metric}", wanted) for wanted in patterns)
            and (not kind.columns or any(set(f.slice) == set(named) for named in kind.columns))
        ]
    )
    for column in kind.narrow:
        if part.findings:
            part = narrow(column, text, part)
    if claim.amount is not None and kind.inverse:
        part.inverse = bool(pattern(kind.inverse).search(text)) and not pattern(
            r"\b(?:miss|let)\w*"
        ).search(text)
    return part


def _untested(kind: Kind, part: Part) -> str:
    if part.missing:
        return f"{part.missing[:1].upper()}{part.missing[1:]}."
    notes = [f.note for f in part.findings if f.note]
    if notes:
        return notes[0]
    wanted = " or ".join(dict.fromkeys(name.partition(".")[0] for name in kind.findings))
    return f"This run has no finding of the probe {wanted} that answers it."


# ---- verdicts --------------------------------------------------------------------------------


def _verdicts(claim: Claim, findings: Sequence[Finding]) -> tuple[Outcome, str, Finding]:
    kind = claim.kind
    held = {f.id: _holds(kind, f) for f in findings}
    yes = [f for f in findings if held[f.id] is True]
    no = [f for f in findings if held[f.id] is False]
    affirmed = claim.reading == "affirmed"
    total = f"{len(findings)} findings" if len(findings) > 1 else "the one finding"
    if yes:
        outcome: Outcome = "supported" if affirmed else "contradicted"
        return outcome, f"Beyond the reference: {_of(len(yes), total)}.", _furthest(yes)
    if len(no) == len(findings):
        if kind.rule == "indirect":
            because = f"Within the margin: {_of('all', total)}, which alone does not decide it."
            return "inconclusive", because, _furthest(no)
        return (
            "contradicted" if affirmed else "supported",
            f"Within the margin of the reference: {_of('all', total)}.",
            _furthest(no),
        )
    undecided = [f for f in findings if held[f.id] is None]
    because = f"Neither beyond nor within: {_of(len(undecided), total)}."
    return "inconclusive", because, _furthest(undecided)


def _of(some: int | str, total: str) -> str:
    return f"{some} of {total}" if total[0].isdigit() else total


def _holds(kind: Kind, finding: Finding) -> bool | None:
    """Whether a finding affirms the proposition; ``None`` where it decides neither way."""
    verdict, reference = finding.verdict, finding.reference
    if kind.bound is not None and finding.reference is None:
        reference, margin = kind.bound
        verdict = judge(finding.ci, reference, margin, side="above")
    if verdict == "within":
        return False
    if verdict != "exceeds":
        return None
    if kind.side == "both" or reference is None or finding.ci is None:
        return True
    above = finding.ci[0] > reference
    return above == (kind.side == "above")


def _furthest(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda f: abs((f.estimate or 0.0) - (f.reference or 0.0)))


# ---- shares ----------------------------------------------------------------------------------


_WORST_FIRST: dict[Outcome, str] = {
    "contradicted": "lies wholly outside",
    "inconclusive": "lies partly inside",
    "supported": "lies wholly inside",
}


def _share(
    amount: Quantity, findings: Sequence[Finding], inverse: bool
) -> tuple[Outcome, str, Finding]:
    said = amount.complement() if inverse else amount
    results: dict[Outcome, list[Finding]] = {}
    for finding in findings:
        results.setdefault(_inside(said, finding), []).append(finding)
    for outcome in _WORST_FIRST:
        if chosen := results.get(outcome):
            by = chosen[0]
            low, high = said.range(by.threshold or 0.0)
            show = metric(by.metric).show
            where = _WORST_FIRST[outcome]
            other = ", of the complement," if inverse else ""
            because = (
                f"The claim{other} allows {show(low)} to {show(high)}; the interval {where} "
                f"({len(chosen)} of {len(findings)})."
            )
            return outcome, because, by
    raise AssertionError("a share is judged by at least one finding")


def _inside(said: Quantity, finding: Finding) -> Outcome:
    if finding.ci is None:
        return "inconclusive"
    low, high = said.range(finding.threshold or 0.0)
    if finding.ci[1] < low or finding.ci[0] > high:
        return "contradicted"
    if low <= finding.ci[0] and finding.ci[1] <= high:
        return "supported"
    return "inconclusive"
