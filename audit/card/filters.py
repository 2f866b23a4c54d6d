"""The section on safety filters: their ROC curves, and their errors side by side."""

from __future__ import annotations

from collections.abc import Iterator

from audit.findings import Finding

from .blocks import Block, Cell, Figure, Number, Row, Table, text
from .content import Card
from .documents import finite
from .figures import NARROW, Curve, roc
from .tables import estimate
from .wording import clean, metric, percent

PROBE = "safety-filters"

COLUMNS = {
    "block_rate": "Blocks",
    "miss_rate": "Misses",
    "false_block_rate": "Blocks falsely",
    "auc": "AUC",
}
"""Metric → heading, of what is said of a filter as a whole; `miss_rate_at_fpr` stands behind."""


def roc_curves(card: Card) -> Iterator[Block]:
    """One figure of all filters, where the run has the curves."""
    frame = card.tables.get("safety_filters.roc")
    if frame is None:
        return
    areas = {
        str(finding.slice.get("filter")): finding
        for finding in card.of(PROBE)
        if finding.metric == "auc" and list(finding.slice) == ["filter"]
    }
    curves = []
    for name, rows in frame.groupby("filter", sort=True):
        pairs = zip(map(finite, rows["fpr"]), map(finite, rows["tpr"]), strict=True)
        points = sorted((x, y) for x, y in pairs if x is not None and y is not None)
        curves.append(Curve(_curve_label(str(name), areas.get(str(name))), points))
    title = "Filters: restricted images blocked against harmless images blocked"
    wide, narrow = (
        roc(curves, name=f"roc-{width}", title=title, width=width) for width in (560, NARROW)
    )
    yield Figure(wide, narrow, f"{title}, over every threshold. Dashed diagonal: chance.")


def _curve_label(name: str, area: Finding | None) -> str:
    if area is None or area.estimate is None:
        return clean(name)
    return f"{clean(name)}: AUC {metric('auc').show(area.estimate)}, n {area.n:,}"


def side_by_side(card: Card) -> Iterator[Block]:
    """A row per filter, a column per error that some filter was measured by."""
    found: dict[str, dict[str, Finding]] = {}
    for finding in card.of(PROBE):
        heading = _heading(finding)
        if heading and finding.estimate is not None:
            found.setdefault(clean(finding.slice["filter"]), {})[heading] = finding
    headings = list(dict.fromkeys(heading for row in found.values() for heading in row))
    if len(found) < 2:
        return
    truths = {f.method.rpartition("; ")[2] for row in found.values() for f in row.values()}
    levels = {f"{100 * f.level:g}%" for row in found.values() for f in row.values()}
    yield Table(
        "Filters side by side",
        ["Filter", *headings],
        [Row([text(name), *(_cell(row.get(h)) for h in headings)]) for name, row in found.items()],
        f"In parentheses: the {', '.join(sorted(levels))} interval; n: images; empty: not tested. "
        f"{_sentence(truths)}References, methods and the images themselves stand below.",
    )


def _heading(finding: Finding) -> str:
    """Of the column that a finding has a place in."""
    slices = list(finding.slice)
    if finding.metric in COLUMNS and slices == ["filter"]:
        return COLUMNS[finding.metric]
    if finding.metric == "miss_rate_at_fpr" and slices == ["filter", "false_block_rate"]:
        rate = finite(finding.slice["false_block_rate"])
        return f"Misses at {percent(rate)} blocked falsely" if rate is not None else ""
    return ""


def _sentence(truths: set[str]) -> str:
    said = truths.pop() if len(truths) == 1 else ""
    return f"{said[:1].upper()}{said[1:]}. " if said else ""


def _cell(finding: Finding | None) -> Cell:
    if finding is None:
        return text("")
    parts = (*estimate(finding).parts, " n\u00a0", Number(f"{finding.n:,}", finding.n))
    return Cell((*parts, " exceeds") if finding.verdict == "exceeds" else parts)
