"""The same seeds side by side: identities, occupations, languages, settings, or whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from audit.errors import AuditError
from audit.store import Run
from dashboard import parts, queries, reading, runs, sheet, variants
from dashboard.table import Table

ROWS = 6
"""Seeds a page."""
COLUMNS = 6
"""Variants that are shown before anybody chooses."""
MOST_COLUMNS = 12
RUNS = "Runs"
WORDS = {"key": "Content", "text": "Prompt"}
"""Columns that are called otherwise by readers."""
NAMES = ["request", "image", "prompt", "outcome", "error"]
USUAL = ("clip_alignment",)
"""Scores that are shown before anybody chooses, where there are any."""


def page() -> None:
    """The page."""
    index, run = parts.current()
    st.title("Side by side")
    axes = _axes(run)
    with run.connect() as database:
        titles = [axis.title for axis in axes] + [RUNS] * (len(runs.shown()) > 1)
        if not titles:
            parts.warn("No prompt of this run has two variants on the same seed.")
            return
        frame = st.container(border=True)
        boxes, wide = frame.grid(min_column_width=180), frame.columns([3, 2])
        with boxes:
            title = st.selectbox(
                "What varies", titles, key="vary", bind="query-params", on_change=_anew
            )
        if title == RUNS:
            found = _runs(database, boxes, wide)
        else:
            axis = next(axis for axis in axes if axis.title == title)
            found = _variants(index, database, axis, boxes, wide)
    if found is not None:
        sheet.show(found)


def _axes(run: Run) -> list[variants.Axis]:
    """The axes along which this run has something to compare."""
    asked = [run.path / "plan.parquet", *sorted(run.path.glob("uses/*.parquet"))]
    state = tuple((str(path), path.stat().st_mtime_ns) for path in asked if path.exists())
    return [variants.AXES[place] for place in _places(run, state)]


@st.cache_data(max_entries=32, show_spinner=False)
def _places(_run: Run, state: Any) -> list[int]:
    """Places in :data:`variants.AXES`; asked once of a run, for every axis is a pass over it."""
    del state  # it is the key
    found = []
    with _run.connect() as database:
        there = queries.probes(queries.catalog(database))
        for place, axis in enumerate(variants.AXES):
            if axis.probe in there:
                table = Table(database, axis.probe)
                if variants.usable(table, axis) and variants.groups(table, axis):
                    found.append(place)
    return found


def _variants(
    index: int, database: Any, axis: variants.Axis, boxes: Any, wide: Sequence[Any]
) -> sheet.Sheet | None:
    table = Table(database, axis.probe)
    groups = {group.label: group for group in variants.groups(table, axis)}
    with boxes:
        label = st.selectbox(
            WORDS.get(axis.fixed[0], axis.fixed[0].capitalize()),
            list(groups),
            key="of",
            bind="query-params",
            on_change=_anew,
        )
    group = groups[label]
    every = {variant.label: variant for variant in variants.variants(table, axis, group)}
    with wide[0]:
        chosen = st.multiselect(
            "Columns",
            list(every),
            default=list(every)[:COLUMNS],
            key="columns",
            bind="query-params",
            max_selections=MOST_COLUMNS,
        )
    if not chosen:
        parts.warn("Choose at least one column.")
        return None
    scores = _scores(table, wide[1])
    against, gain = _difference(chosen, boxes)
    seeds = variants.seeds(table, variants.within(table, axis, group))
    some = _some(seeds)
    picked = [every[name] for name in chosen]
    rows = variants.cells(table, axis, group, picked, some, [*NAMES, *scores])
    columns = [sheet.Column(name, index, axis.probe) for name in chosen]
    cells = {(str(seed), name): row for (seed, name), row in rows.items()}
    return sheet.Sheet(
        columns, [str(seed) for seed in some], cells, scores, against, gain, len(seeds)
    )


def _runs(database: Any, boxes: Any, wide: Sequence[Any]) -> sheet.Sheet | None:
    """One prompt in several runs; a row is a seed, with the settings that vary within a run."""
    labels = list(runs.shown())
    own = Table(database, None)
    wanted = _evidence(database)
    asked = variants.prompts(wanted[0], wanted[1]) if wanted else variants.prompts(own, [])
    if not asked:
        parts.warn("This run has asked for no image.")
        return None
    with boxes:
        prompt = st.selectbox(
            "Prompt",
            asked,
            key="of",
            bind="query-params",
            on_change=_anew,
        )
    with wide[0]:
        chosen = st.multiselect(
            "Runs",
            labels,
            default=labels[:COLUMNS],
            key="columns",
            bind="query-params",
            max_selections=MOST_COLUMNS,
        )
    if not chosen:
        parts.warn("Choose at least one run.")
        return None
    scores = _scores(own, wide[1])
    against, gain = _difference(chosen, boxes)
    seeds = variants.seeds(own, [own.equals("prompt", prompt)])
    some = _some(seeds)
    varied: dict[str, None] = {}
    for label in chosen:
        with runs.shown()[label].connect() as other:
            varied |= dict.fromkeys(variants.settings(Table(other, None), prompt))
    found, usual = {}, {}
    for label in chosen:
        run = runs.shown()[label]
        with run.connect() as other:
            table = Table(other, None)
            kept = [name for name in scores if name in table.columns]
            found[label] = variants.of_prompt(table, prompt, [*varied], some, [*NAMES, *kept])
        sampler = run.info.get("sampler")
        usual[label] = variants.setting(sampler if isinstance(sampler, dict) else {}, [*varied])
    cells = variants.matched(found, usual)
    rows = sorted({row for row, _ in cells}, key=lambda row: (int(row.split(" ")[0]), row))
    columns = [sheet.Column(label, labels.index(label), "") for label in chosen]
    if any(" · " in row for row in rows):
        st.caption(f"A seed without {' and '.join(varied)}: each run's own.")
    if not any(label == other for _, label in cells for other in chosen[1:]):
        st.caption("The other runs have no image of this prompt on these seeds.")
    return sheet.Sheet(columns, rows, cells, scores, against, gain, len(seeds))


def _evidence(database: Any) -> tuple[Table, list[Any]] | None:
    """The table and the conditions of the finding that the address names."""
    wanted = st.query_params.get("finding")
    if not wanted:
        return None
    _, run = parts.current()
    finding = next((f for f in reading.findings(run) if f.id == wanted), None)
    if finding is None:
        raise AuditError(f"this run has no finding '{wanted[:120]}'")
    st.html(
        f'<p class="t2i-dim">Prompts behind <b>{parts.words(finding.metric)}</b> '
        f"{parts.slice_of(finding)} · "
        f'<a href="{parts.link("side_by_side", vary=RUNS)}" target="_self">all prompts</a></p>'
    )
    table = Table(database, finding.probe)
    return table, table.evidence(finding.evidence)


def _scores(table: Table, box: Any) -> list[str]:
    with box:
        chosen: list[str] = st.multiselect(
            "Scores",
            table.scores,
            default=[name for name in USUAL if name in table.scores],
            key="scores",
            bind="query-params",
            format_func=lambda name: name.replace("_", " "),
            max_selections=4,
        )
    return chosen


def _difference(chosen: Sequence[str], boxes: Any) -> tuple[str | None, int]:
    """What the images are held against, and how much larger the difference is shown."""
    images = "Images"
    options = [images, *(f"Difference × {gain}" for gain in sheet.GAINS)]
    with boxes:
        shown = st.selectbox(
            "Show", options, key="show", bind="query-params", disabled=len(chosen) < 2
        )
        if shown == images or len(chosen) < 2:
            return None, 1
        against = st.selectbox("Held against", chosen, key="against", bind="query-params")
    return against, int(shown.rpartition(" ")[2])


def _some(seeds: Sequence[int]) -> list[int]:
    return list(seeds[parts.paged(len(seeds), ROWS)])


def _anew() -> None:
    """Another choice: what depended on the one before is forgotten."""
    for key in ("columns", "against", "page"):
        st.session_state.pop(key, None)
