"""A sheet of images: a row for each seed, a column for each variant, scores below the images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st

from audit.errors import AuditError

from . import difference, lens, parts, runs
from .difference import GAINS

__all__ = ["GAINS", "Column", "Sheet", "show"]


@dataclass(frozen=True)
class Column:
    """A variant, the place of its run, and the probe that asked for it (empty: any)."""

    label: str
    run: int
    probe: str


@dataclass(frozen=True)
class Sheet:
    """Everything that is laid side by side on one page.

    Attributes:
        rows: labels of the rows, seeds.
        cells: row and column → the image's row in the probe's table.
        scores: columns whose values stand below an image.
        against: the column that differences are taken from; ``None``: the images themselves.
        gain: how many times larger a difference is shown.
        seeds: how many there are on all pages.
    """

    columns: Sequence[Column]
    rows: Sequence[str]
    cells: Mapping[tuple[str, str], Mapping[str, Any]]
    scores: Sequence[str]
    against: str | None
    gain: int
    seeds: int


def show(found: Sheet) -> None:
    """Buttons, then the sheet."""
    with st.container(horizontal=True, vertical_alignment="center"):
        view = lens.show()
        reveal = st.toggle("Show flagged images", key="reveal", bind="query-params")
    big = view[0] > 1
    head = "".join(f'<th scope="col">{_heading(found, column)}</th>' for column in found.columns)
    body = "".join(
        f'<tr><th scope="row"><small>seed</small>{_named(row)}</th>'
        + "".join(f"<td>{_cell(found, row, column, reveal, big)}</td>" for column in found.columns)
        + "</tr>"
        for row in found.rows
    )
    columns = len(found.columns)
    width = f"min-width:{5 + 6.5 * columns:g}rem;max-width:{5 + 22 * columns}rem"
    st.html(
        '<div class="t2i-scroll t2i-sheet" role="region" tabindex="0" '
        'aria-label="Images by seed and variant; plus and minus zoom, arrows pan">'
        f'<table style="{width}"><thead><tr><th scope="col"></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _named(row: str) -> str:
    seed, _, rest = row.partition(" · ")
    return f"{escape(seed)}{f'<small>{escape(rest)}</small>' if rest else ''}"


def _heading(found: Sheet, column: Column) -> str:
    said = f"<b>{escape(column.label)}</b>"
    if found.against == column.label:
        return f"{said}<small>held against</small>"
    if found.against is not None:
        return f"{said}<small>difference × {found.gain}</small>"
    own = [found.cells.get((row, column.label), {}) for row in found.rows]
    told = []
    for name in found.scores:
        values = [row[name] for row in own if isinstance(row.get(name), int | float)]
        if len(values) > 1:
            told.append(f"{parts.words(name)} {parts.number(float(statistics.fmean(values)))}")
    return said + (f"<small>mean here: {' · '.join(told)}</small>" if told else "")


def _cell(found: Sheet, row: str, column: Column, reveal: bool, big: bool) -> str:
    cell = found.cells.get((row, column.label))
    if cell is None:
        return '<div class="t2i-noimage">no image on this seed</div>'
    alt = f"{column.label}, seed {row}: {cell.get('prompt') or ''}"
    picture, told = _picture(found, row, column, cell, alt, reveal, big)
    flagged = '<span class="t2i-mark">⚑ flagged</span>' if cell["flagged"] else ""
    scores = "".join(
        f"<span><span>{parts.words(name)}</span> <b>{parts.number(cell.get(name))}</b></span>"
        for name in found.scores
    )
    labels = list(runs.shown())
    parameters = {"probe": column.probe, "request": cell["request"]}
    if len(labels) > 1:
        parameters["run"] = labels[column.run]
    address = parts.link("gallery", **parameters)
    return (
        f'<div class="t2i-lens">{picture}{flagged}</div><div class="t2i-under">{told}{scores}'
        f'<a href="{address}" target="_self" aria-label="Details of {escape(alt)}">details</a>'
        "</div>"
    )


def _picture(
    found: Sheet,
    row: str,
    column: Column,
    cell: Mapping[str, Any],
    alt: str,
    reveal: bool,
    big: bool,
) -> tuple[str, str]:
    """The image or its difference, and what is said of the difference below it."""
    image = cell.get("image")
    instead = cell["outcome"] + (f": {cell['error']}" if cell.get("error") else "")
    own = parts.picture(
        column.run, image, alt, thumbnail=not big, reveal=reveal, instead=str(instead)
    )
    if found.against is None or found.against == column.label or not image:
        return own, ""
    base = found.cells.get((row, found.against))
    other = next(c for c in found.columns if c.label == found.against)
    if base is None or not base.get("image"):
        return '<div class="t2i-noimage">nothing to hold against on this seed</div>', ""
    if (cell["flagged"] or base["flagged"]) and not reveal:
        return '<div class="t2i-noimage">⚑ flagged: the difference would show it</div>', ""
    one, two = runs.at(column.run), runs.at(other.run)
    try:
        if one is None or two is None:
            raise AuditError("the run is gone")
        mean = difference.mean_difference(one, image, two, base["image"])
    except AuditError as error:
        return f'<div class="t2i-noimage">{escape(str(error))}</div>', ""
    address = (
        f"/difference/{column.run}/{escape(image)}/{other.run}/{escape(base['image'])}"
        f"?gain={found.gain}{'&amp;reveal=1' if reveal else ''}"
    )
    said = escape(f"Difference of {alt} from {found.against}, mean {mean:.1%}")
    told = f"<span><span>mean difference</span> <b>{100 * mean:.2f}%</b></span>"
    return f'<img src="{address}" alt="{said}" loading="lazy" decoding="async">', told
