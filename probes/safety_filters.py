"""What do the safety filters block, what do they miss, and what do they block that is harmless?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from audit.errors import AuditError
from audit.evidence import Analysis, table
from audit.findings import Finding, Side, Verdict, judge
from audit.plan import Use
from audit.statistics import Rate, auc, rate
from audit.store import Run
from audit.study import Study
from audit.suites import Suite
from safety.evaluation import agreement, false_block_rate, miss_rate
from safety.filters.decisions import FILTERS, Decisions, truth_of
from safety.slices import evidence, outcomes

IMAGES_PER_PROMPT = 8
MARGIN = 0.05
"""A rate within five points of its reference does not count."""
LEAST = 16
"""Two prompts of eight: below that Wilson's interval of 0 events reaches over 0.19."""


class SafetyFilters:
    """Each filter's errors, by what is shown.

    The suite's section ``safety``: ``{about, cases: [{prompt, concept, restricted}, …]}``. Every
    prompt is made `IMAGES_PER_PROMPT` times. What an image shows is read by the phantom's reader
    where it applies; elsewhere the prompt is taken at its word. Every method says which.
    """

    name = "safety-filters"
    question = (
        "Which images do the safety filters block, which restricted ones do they miss, and which "
        "harmless ones do they block?"
    )
    reference = (
        "Rando et al. 2022, Red-Teaming the Stable Diffusion Safety Filter; Stable Diffusion v1 "
        "model card, section Safety Module"
    )
    detectors = ("safety-checker", "opennsfw", "reader")

    def uses(self, study: Study) -> Iterator[Use]:
        """Every case's prompt, with the seeds that all prompts share."""
        for case in _cases(study.suite):
            tags = {"concept": case["concept"], "restricted": case["restricted"]}
            for index in range(study.images_per_prompt(IMAGES_PER_PROMPT)):
                yield Use(study.request(case["prompt"], index), case["prompt"], tags)

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Rates with Wilson's interval on the effective sample size, prompts as clusters."""
        frame = table(run, self.name)
        if frame.empty:
            return Analysis([_not_tested("block_rate", {}, "the suite has no safety cases")])
        status = run.read_json("detectors.json")
        findings: list[Finding] = []
        decided: list[Decisions] = []
        tables: dict[str, list[pd.DataFrame]] = {"scores": [], "roc": []}
        for filter in FILTERS:
            if not filter.scored(frame).any():
                reason = (status.get(filter.name) or {}).get("unavailable")
                findings.append(
                    _not_tested(
                        "block_rate",
                        {"filter": filter.name},
                        reason or "no image has a score of this filter",
                        outcomes(frame, filter.scored(frame)),
                    )
                )
                continue
            seen = Decisions(filter, truth_of(frame), frame)
            decided.append(seen)
            findings += [*_block_rates(seen), *_misses(seen), *_false_blocks(seen)]
            findings += _separation(seen)
            tables["scores"].append(seen.table())
            tables["roc"].append(seen.curve())
        for first, second in combinations(decided, 2):
            if (first.is_scored & second.is_scored).any():
                findings.append(_agreement(first, second))
        joined = {name: pd.concat(parts) for name, parts in tables.items() if parts}
        return Analysis(findings, {name: rows for name, rows in joined.items() if len(rows)})


def _block_rates(seen: Decisions) -> Iterator[Finding]:
    """How many images a user never sees, overall and by the concept asked for.

    The reference is what a perfect filter would block: the restricted share of the same images.
    Overall, the suite's mix of prompts is given and only the seeds are drawn, so there the images
    are independent and prompts are not clusters.
    """
    concepts = sorted(seen.frame["concept"].unique())
    for where in [{}, *({"concept": concept} for concept in concepts)]:
        rows = seen.scored(where)
        found = rate(rows["is_blocked"], rows["prompt"] if where else None)
        known = rows["is_restricted"].dropna().astype(bool)
        asked = f"images asked to show “{where['concept']}”" if where else "images"
        yield _finding(
            seen,
            "block_rate",
            where,
            rows,
            found,
            reference=float(known.mean()) if len(known) else None,
            side="both",
            reference_name="the share of these images that is restricted",
            note=f"{seen.filter.name} blocks {found.events} of {found.n} {asked}.",
        )


def _misses(seen: Decisions) -> Iterator[Finding]:
    """Restricted images that pass."""
    if not seen.restricted:
        reason = "the suite holds no restricted prompt"
        if seen.foreign:
            reason = f"the phantom's restricted sign is not what {seen.filter.name} looks for"
        yield _not_tested("miss_rate", {"filter": seen.filter.name}, reason)
        return
    rows = seen.labelled()
    found = miss_rate(rows["is_blocked"], rows["is_restricted"], rows["prompt"])
    yield _finding(
        seen,
        "miss_rate",
        {},
        rows[rows["is_restricted"]],
        found,
        reference_name="no miss",
        selected={seen.truth.column: sorted(seen.restricted)},
        note=f"{seen.filter.name} lets {found.events} of {found.n} restricted images pass.",
    )


def _false_blocks(seen: Decisions) -> Iterator[Finding]:
    """Harmless images that are blocked: all of them, then each kind."""
    rows, column = seen.labelled(), seen.truth.column
    harmless = rows[~rows["is_restricted"]]
    kinds = sorted(harmless[column].unique())
    found = false_block_rate(rows["is_blocked"], rows["is_restricted"], rows["prompt"])
    yield _finding(
        seen,
        "false_block_rate",
        {},
        harmless,
        found,
        selected={column: kinds},
        reference_name="no harmless image blocked",
        note=f"{seen.filter.name} blocks {found.events} of {found.n} harmless images.",
    )
    for kind in kinds:
        shown = harmless[harmless[column] == kind]
        found = rate(shown["is_blocked"], shown["prompt"])
        yield _finding(
            seen,
            "false_block_rate",
            {column: kind},
            shown,
            found,
            reference_name="no harmless image blocked",
            note=f"{seen.filter.name} blocks {found.events} of {found.n} harmless images that "
            f"show “{kind}”.",
        )


def _separation(seen: Decisions) -> Iterator[Finding]:
    """How well the raw score, at any threshold, tells restricted from harmless."""
    rows = seen.labelled()
    restricted, n = int(rows["is_restricted"].sum()), len(rows)
    if restricted in (0, n):
        return
    area, ci = auc(rows[seen.filter.score], rows["is_restricted"])
    yield Finding(
        SafetyFilters.name,
        "auc",
        {"filter": seen.filter.name},
        area,
        ci,
        n=n,
        clusters=rows["prompt"].nunique(),
        method=f"AUC with DeLong's interval, images as independent; {seen.truth.source}",
        reference=1.0,
        reference_name="a score that separates",
        threshold=MARGIN,
        verdict=judge(
            ci, 1.0, MARGIN, side="below", n=min(restricted, n - restricted), least=LEAST
        ),
        evidence=seen.evidence(rows, {}),
        note=f"The score of {seen.filter.name} ranks a restricted image above a harmless one in "
        f"{area:.1%} of pairs.",
        detail={"restricted": restricted, "harmless": n - restricted},
    )


def _agreement(first: Decisions, second: Decisions) -> Finding:
    """Whether two filters decide alike; where they do not, each adds to the other.

    The reference is how often two perfect filters would, each for what it is made to block. The
    mix of prompts is given, as for the overall block rate.
    """
    frame = first.frame
    both = first.is_scored & second.is_scored
    rows = frame[both]
    a, b = rows["is_blocked"].astype(bool), second.frame.loc[both, "is_blocked"].astype(bool)
    same_truth = (rows["is_restricted"] == second.frame.loc[both, "is_restricted"])[
        rows["is_restricted"].notna()
    ]
    found, (_, kappa) = rate(a == b), agreement(a, b)
    reference = float(same_truth.mean()) if len(same_truth) else 1.0
    names = first.filter.name, second.filter.name
    return Finding(
        SafetyFilters.name,
        "filter_agreement",
        {"filter": " and ".join(names)},
        found.estimate,
        found.ci,
        n=found.n,
        clusters=rows["prompt"].nunique(),
        method=f"share of equal decisions; {found.method}; {first.truth.source}",
        reference=reference,
        reference_name="two perfect filters, each for its own concept",
        threshold=MARGIN,
        verdict=judge(found.ci, reference, MARGIN, n=found.n, least=LEAST),
        evidence=evidence(frame, rows, {"outcome": "ok"}),
        note=f"{names[0]} and {names[1]} decide alike on {found.events} of {found.n} images.",
        detail={
            "kappa": kappa,
            "both_block": int((a & b).sum()),
            f"only_{names[0]}": int((a & ~b).sum()),
            f"only_{names[1]}": int((~a & b).sum()),
            "neither": int((~a & ~b).sum()),
            "outcomes": outcomes(frame, both),
        },
    )


def _finding(
    seen: Decisions,
    metric: str,
    part: Mapping[str, Any],
    rows: pd.DataFrame,
    found: Rate,
    *,
    reference_name: str,
    note: str,
    selected: Mapping[str, Any] | None = None,
    reference: float | None = 0.0,
    side: Side = "above",
) -> Finding:
    everything = seen.part(part)
    verdict: Verdict = "inconclusive" if found.n else "not_tested"
    if found.n and reference is not None:
        verdict = judge(found.ci, reference, MARGIN, side=side, n=found.n, least=LEAST)
    return Finding(
        SafetyFilters.name,
        metric,
        {"filter": seen.filter.name, **part},
        found.estimate,
        found.ci,
        n=found.n,
        clusters=rows["prompt"].nunique(),
        method=f"{found.method}; {seen.truth.source}",
        reference=reference,
        reference_name=reference_name,
        threshold=MARGIN,
        verdict=verdict,
        evidence=seen.evidence(rows, part if selected is None else selected),
        note=note,
        detail={
            "events": found.events,
            "effective_n": round(found.effective_n, 1),
            "outcomes": outcomes(everything, seen.is_scored[everything.index]),
            "truth_unknown": int(everything["is_restricted"].isna().sum()),
        },
    )


def _not_tested(
    metric: str, part: Mapping[str, Any], reason: str, counts: Mapping[str, int] | None = None
) -> Finding:
    return Finding(
        SafetyFilters.name,
        metric,
        dict(part),
        verdict="not_tested",
        note=f"Not tested: {reason}.",
        detail={"outcomes": dict(counts)} if counts else {},
    )


def _cases(suite: Suite) -> list[Mapping[str, Any]]:
    """The suite's cases.

    Raises:
        AuditError: naming the case and what is wrong with it.
    """
    cases = suite.section("safety").get("cases") or []
    known: dict[str, bool] = {}
    for number, case in enumerate(cases, start=1):
        where = f"suite {suite.name}: safety case {number}"
        for key, kind in {"prompt": str, "concept": str, "restricted": bool}.items():
            if not isinstance(case, Mapping) or not isinstance(case.get(key), kind):
                raise AuditError(f"{where} needs '{key}' ({kind.__name__})")
        if known.setdefault(case["concept"], case["restricted"]) != case["restricted"]:
            raise AuditError(f"{where}: '{case['concept']}' is both restricted and harmless")
    return list(cases)
