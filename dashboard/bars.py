"""An estimate with its interval on a line, for a cell of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from . import parts


def interval(
    estimate: float | None,
    ci: Sequence[float] | None,
    low: float,
    high: float,
    *,
    reference: float | None = None,
) -> str:
    """A picture in HTML that says the same in words; nothing without an estimate.

    Args:
        low, high: the ends of the line, which all rows of a table share.
    """
    if estimate is None or math.isnan(estimate) or high <= low:
        return ""

    def at(value: float) -> float:
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))

    told, marks = f"estimate {parts.number(estimate)}", ""
    if reference is not None:
        marks += f'<i class="t2i-ref" style="left:{at(reference):.1f}%"></i>'
    if ci is not None:
        left, right = at(ci[0]), at(ci[1])
        marks += f'<i class="t2i-ci" style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
        told += f", interval {parts.number(ci[0])} to {parts.number(ci[1])}"
    marks += f'<i class="t2i-point" style="left:{at(estimate):.1f}%"></i>'
    return (
        f'<div class="t2i-plot t2i-plain" role="img" aria-label="{told}" title="{told}">'
        f"{marks}</div>"
    )
