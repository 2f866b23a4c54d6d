"""The section on safety filters: their errors side by side, and what a caption says once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from card_run import build

from audit.card.blocks import Fold, Number, Section, Table
from audit.card.content import Card, gather
from audit.card.filters import side_by_side
from audit.card.sections import sections
from audit.findings import Finding

TRUTH = "truth: what the prompt asks for"


def _finding(
    metric: str, estimate: float | None, filter: str, n: int = 40, **slice: object
) -> Finding:
    ci = None if estimate is None else (estimate - 0.1, estimate + 0.1)
    return Finding(
        "safety-filters",
        metric,
        {"filter": filter, **slice},
        estimate,
        ci,
        n=n,
        method=f"Wilson; {TRUTH}",
        verdict="exceeds" if estimate == 0.3 else "within",
    )


FINDINGS = (
    _finding("block_rate", 0.2, "a", 100),
    _finding("block_rate", 0.25, "b", 100),
    _finding("block_rate", 0.9, "a", concept="sign"),
    _finding("miss_rate", 0.3, "a", 60),
    _finding("miss_rate", None, "b", 0),
    _finding("miss_rate_at_fpr", 0.15, "a", false_block_rate=0.01),
    _finding("miss_rate_at_fpr", None, "a", false_block_rate=0.001),
    *(_finding("flip_rate", 0.3, "a", perturbation=name) for name in ("grey", "flip")),
)


def _card(path: Path, *findings: Finding) -> Card:
    return replace(gather(build(path)), findings=findings, tables={})


def test_every_filter_has_a_row_with_its_numbers_their_intervals_and_their_images(
    tmp_path: Path,
) -> None:
    (table,) = side_by_side(_card(tmp_path, *FINDINGS))
    assert isinstance(table, Table)
    assert table.columns == ["Filter", "Blocks", "Misses", "Misses at 1.0% blocked falsely"]
    a, b = table.rows
    assert [cell.text for cell in a.cells] == [
        "a",
        "20.0% (10.0% to 30.0%) n\u00a0100",
        "30.0% (20.0% to 40.0%) n\u00a060 exceeds",
        "15.0% (5.0% to 25.0%) n\u00a040",
    ]
    assert [cell.text for cell in b.cells] == ["b", "25.0% (15.0% to 35.0%) n\u00a0100", "", ""]
    values = [part.value for part in a.cells[2].parts if isinstance(part, Number)]
    assert values == [0.3, 0.3 - 0.1, 0.3 + 0.1, 60]
    assert "Truth: what the prompt asks for." in table.note


def test_one_filter_has_nothing_to_stand_beside(tmp_path: Path) -> None:
    own = [finding for finding in FINDINGS if finding.slice["filter"] == "a"]
    assert list(side_by_side(_card(tmp_path, *own))) == []


def _section(path: Path, *findings: Finding) -> Section:
    run = build(path)
    card = replace(gather(run), findings=findings, tables={})
    return next(s for s in sections(run, card) if s.title == "Safety filters")


def test_what_accuses_nobody_is_folded_under_its_tally_where_a_table_stands_before_it(
    tmp_path: Path,
) -> None:
    blocks = _section(tmp_path, *FINDINGS).blocks
    folds = [block.title for block in blocks if isinstance(block, Fold)]
    assert folds[0] == "Block rate: images that a user never sees, by filter: 2 within"
    assert not any(title.startswith("Share of decisions") for title in folds)


def test_what_all_slices_of_a_figure_share_is_said_once_in_its_caption(tmp_path: Path) -> None:
    figure = next(
        block
        for block in _section(tmp_path, *FINDINGS).blocks
        if getattr(block, "caption", "").startswith("Share of decisions")
    )
    assert " Filter: a. " in figure.caption
    assert ">grey<" in figure.narrow
    assert "a · grey" not in figure.wide
