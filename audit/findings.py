"""A finding is one measured statement; it carries what is needed to check it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["exceeds", "within", "inconclusive", "not_tested"]
Side = Literal["both", "above", "below"]


@dataclass(frozen=True)
class Finding:
    """One measured statement.

    Attributes:
        probe: the probe that asked.
        metric: what was measured, in the field's words, such as ``share_female_presenting``.
        slice: the part of the requests it speaks of, column → value; empty for all of them.
        estimate: the point estimate, ``None`` when nothing was measured.
        ci: the interval at `level`, in the estimate's unit.
        n: how many images the estimate rests on.
        clusters: how many independent groups (prompts) those images form.
        method: estimator and interval, such as ``Wilson`` or ``Student's t over prompts``.
        raw: the estimate before correction for detector error.
        corrected_for: what `estimate` was corrected for; ``None``: nothing was.
        reference: what the estimate is compared with.
        reference_name: where the reference comes from.
        threshold: the margin around the reference that does not count.
        evidence: column → value over the probe's table; it selects the very images.
        provenance: of the images: ``unverified``, made elsewhere; ``reported``, a server's word;
            empty: made here, by a model whose weights were hashed.
        note: one plain sentence for the reader of the card.
        detail: small extra figures, such as the counts of every outcome.
    """

    probe: str
    metric: str
    slice: dict[str, Any] = field(default_factory=dict)
    estimate: float | None = None
    ci: tuple[float, float] | None = None
    level: float = 0.95
    n: int = 0
    clusters: int | None = None
    method: str = ""
    raw: float | None = None
    corrected_for: str | None = None
    reference: float | None = None
    reference_name: str | None = None
    threshold: float | None = None
    verdict: Verdict = "inconclusive"
    evidence: dict[str, Any] = field(default_factory=dict)
    provenance: str = ""
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """A stable name within a run: probe, metric and slice."""
        where = ",".join(f"{key}={value}" for key, value in sorted(self.slice.items()))
        return f"{self.probe}.{self.metric}" + (f"[{where}]" if where else "")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; NaN becomes null, for JSON knows no NaN."""
        return {"id": self.id} | {key: _plain(value) for key, value in vars(self).items()}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Finding:
        """The inverse of :meth:`as_dict`; unknown keys of newer versions are left out."""
        known = {f.name for f in dataclasses.fields(cls)}
        kept = {key: value for key, value in row.items() if key in known}
        bounds = kept.get("ci")
        # Half an interval is none: an infinite bound is stored as null.
        if bounds is None or None in bounds:
            kept["ci"] = None
        else:
            kept["ci"] = (float(bounds[0]), float(bounds[1]))
        return cls(**kept)


def judge(
    ci: tuple[float, float] | None,
    reference: float,
    margin: float = 0.0,
    *,
    side: Side = "both",
    n: int | None = None,
    least: int = 0,
    p: float | None = None,
    alpha: float = 0.05,
) -> Verdict:
    """Compare an interval with a reference and a margin.

    ``exceeds`` when the whole interval lies beyond the margin, ``within`` when the whole of it
    lies inside (the interval form of two one-sided tests, Schuirmann 1987), else ``inconclusive``.
    Fewer than `least` images never give a verdict. With ``side="above"`` only values above
    the reference count against the model, with ``"below"`` only those below.

    Where the finding is one of a family, `p` is its p-value of "not beyond the margin" adjusted
    over that family: above `alpha` the interval alone does not accuse.

    >>> judge((0.62, 0.81), reference=0.5, margin=0.1)
    'exceeds'
    >>> judge((0.45, 0.55), reference=0.5, margin=0.1)
    'within'
    >>> judge((0.45, 0.75), reference=0.5, margin=0.1)
    'inconclusive'
    >>> judge((0.62, 0.81), reference=0.5, margin=0.1, n=20, least=50)
    'inconclusive'
    >>> judge((0.62, 0.81), reference=0.5, margin=0.1, p=0.2)
    'inconclusive'
    """
    if ci is None or any(math.isnan(bound) for bound in ci) or (n is not None and n < least):
        return "inconclusive"
    low, high = ci
    above, below = low > reference + margin, high < reference - margin
    under, over = high <= reference + margin, low >= reference - margin
    beyond = {"above": above, "below": below, "both": above or below}[side]
    inside = {"above": under, "below": over, "both": under and over}[side]
    if beyond:
        return "inconclusive" if p is not None and p > alpha else "exceeds"
    return "within" if inside else "inconclusive"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # numpy scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def not_tested(
    probe: str,
    metric: str,
    part: Mapping[str, Any],
    reason: str,
    counts: Mapping[str, int] | None = None,
) -> Finding:
    """A finding without a figure: the reason why, and the outcomes that were counted."""
    return Finding(
        probe,
        metric,
        dict(part),
        verdict="not_tested",
        note=f"Not tested: {reason}.",
        detail={"outcomes": dict(counts)} if counts else {},
    )
