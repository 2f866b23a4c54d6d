"""A comparison as sections of tables and figures, for its own page and for the model card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from audit.card.blocks import Block, Cell, Figure, Fold, Number, Prose, Row, Section, Table, text
from audit.card.sections import PROBES
from audit.card.strokes import Mark
from audit.card.wording import VERDICTS, clean, markdown, metric, plain, where
from audit.findings import Finding

from . import drawing
from .changes import Change, Comparison, tally
from .report import difference, margin, named, notable, ordered, turn

POINTS = "percentage points"

MOST = 24
"""Changes in one figure."""

READING = (
    "**Exceeds**: the whole interval of the change lies beyond its margin, and its p-value holds "
    "among all changes compared. **Within**: the whole interval lies inside the margin. "
    "**Inconclusive**: neither can be said from these images. **Not tested**: the change is not "
    "judged, and the reason stands beside it. A verdict that turned is not yet a change: two "
    "intervals on either side of a line may be the same model."
)


def sections(compared: Comparison, gates: Sequence[dict[str, Any]]) -> list[Section]:
    """The page's sections."""
    found = [
        Section("What changed", list(_summary(compared, gates))),
        Section("What differs in the setup", [setup_table(compared)]),
    ]
    for probe in dict.fromkeys(change.first.probe for change in compared.changes):
        mine = [change for change in compared.changes if change.first.probe == probe]
        title = PROBES.get(probe, f"Probe {clean(probe)}")
        found.append(Section(title, list(_probe(compared, probe, mine))))
    if compared.only_first or compared.only_second:
        found.append(Section("In one run only", list(_only(compared))))
    return found


def summary_table(compared: Comparison) -> Table:
    """What is shown to have changed, and findings whose verdict turned."""
    note = (
        "In parentheses: the interval of the change; p: of no change, adjusted over all "
        f"{len(compared.judged):,} changes (Benjamini and Hochberg 1995)"
    )
    title = "Changes that are shown, and verdicts that turned"
    return changes_table(title, notable(compared), note=note, methods=False)


def changes_table(
    title: str,
    changes: Sequence[Change],
    *,
    label: Callable[[Change], str] = named,
    note: str = "",
    methods: bool = True,
    folded: bool = False,
) -> Table:
    """A row for each change; what all rows share is said once, above them."""
    columns = ["Measured", "First", "Second", "Change", "p, adjusted", "Margin", "The change",
               "Verdicts"]  # fmt: skip
    said = [note] if note else []
    more: list[list[Cell]] = [[] for _ in changes]
    asked: list[tuple[str, Callable[[Change], str]]] = [
        ("Method", _method), ("Why no verdict", lambda change: change.reason),
    ]  # fmt: skip
    for heading, read in asked if methods else asked[1:]:
        held = {read(change) for change in changes}
        if len(held) == 1 and held != {""}:
            said.append(f"{heading.lower()}: {held.pop()}")
        elif held != {""}:
            columns.append(heading)
            for cells, change in zip(more, changes, strict=True):
                cells.append(text(read(change)))
    rows = [
        Row([*row(change, label), *cells], change.id)
        for change, cells in zip(changes, more, strict=True)
    ]
    shared = "; ".join(map(clean, said))
    return Table(title, columns, rows, f"{shared[:1].upper()}{shared[1:]}." if shared else "",
                 folded)  # fmt: skip


def _method(change: Change) -> str:
    return change.method + (f"; {change.pairs:,} pairs" if change.pairs else "")


def setup_table(compared: Comparison) -> Block:
    """What is not the same in both runs."""
    if not compared.setup:
        return Prose("Nothing that either run tells of its setup differs from the other.")
    return Table(
        "Setup that differs",
        ["What", "First", "Second", "Consequence"],
        [
            Row([text(one.what), text(_cut(one.first)), text(_cut(one.second)),
                 text(one.consequence)])
            for one in compared.setup
        ],
    )  # fmt: skip


def row(change: Change, label: Callable[[Change], str] = named) -> list[Cell]:
    """A change as cells: what was measured, both values, the change, and what it means."""
    show = metric(change.first.metric).show
    sides = [
        text("not measured") if value is None else Cell((Number(show(value), value),), "number")
        for value in (change.values or (change.first.estimate, change.second.estimate))
    ]
    p = change.p_adjusted
    return [
        text(label(change)),
        *sides,
        _change(change),
        text("") if p is None else Cell((Number(f"{p:.2g}", p),), "number"),
        Cell((Number(margin(change), change.margin),), "number"),
        Cell((VERDICTS[change.verdict],), "verdict"),
        text(turn(change)),
    ]


def _change(change: Change) -> Cell:
    if change.estimate is None:
        return text("")
    unit = " pp" if _unit(change) == POINTS else ""

    def number(value: float) -> Number:
        return Number(difference(change, value).removesuffix(" pp"), value)

    parts: list[str | Number] = [number(change.estimate)]
    if change.ci is not None:
        parts += [" (", number(change.ci[0]), " to ", number(change.ci[1]), ")"]
    return Cell((*parts, unit), "number")


def _summary(compared: Comparison, gates: Sequence[dict[str, Any]]) -> Iterator[Block]:
    yield Prose(sentence(compared))
    table = summary_table(compared)
    if table.rows:
        yield from figures("notable", notable(compared), slice_first)
        yield table
    for probe, reason in compared.unjudged_probes.items():
        yield Prose(f"**Not judged: {markdown(plain(probe))}**, for {markdown(reason)}.")
    yield Prose(READING)
    if gates:
        yield gates_table(gates)


def gates_table(gates: Sequence[dict[str, Any]]) -> Table:
    """Each gate with its state and what decided."""
    rows = []
    for gate in gates:
        decided = [f"{name}: {state}" for name, state in gate["findings"].items()]
        more = f", and {len(decided) - 6:,} more" if len(decided) > 6 else ""
        rows.append(
            Row([text(gate["gate"]), text(gate["state"]), text(", ".join(decided[:6]) + more)])
        )
    note = "Held against the whole interval."
    return Table("Gates", ["Gate", "State", "Decided by"], rows, note)


def sentence(compared: Comparison) -> str:
    """The result in a sentence or two."""
    counts = tally(compared.changes)
    differ = sum(change.differs for change in compared.changes)
    turned = sum(change.turned for change in compared.changes)
    return (
        f"{len(compared.changes):,} findings stand in both runs, and {len(compared.judged):,} of "
        f"their changes could be judged: {differ:,} are shown to have changed "
        f"at all, {counts['exceeds']:,} by more than their margin; {counts['within']:,} lie "
        f"within it, {counts['inconclusive']:,} are inconclusive. {turned:,} findings "
        "have another verdict than before."
    )


def _probe(compared: Comparison, probe: str, mine: list[Change]) -> Iterator[Block]:
    """What holds for all images first, then each metric by its slices."""
    if reason := compared.unjudged_probes.get(probe):
        yield Prose(f"**Not judged**, for {markdown(reason)}. Both values stand side by side.")
    whole = [change for change in mine if not change.first.slice]
    if whole:
        yield from figures(f"{probe}-all", whole, named)
        yield changes_table("Over all images", whole)
    for (name, columns), group in _by_metric(mine).items():
        if not columns:
            continue
        label = clean(f"{metric(name).label}, by {' and '.join(map(plain, columns))}")
        drawn: list[Block] = [*figures(f"{probe}-{name}-{'-'.join(columns)}", group, _slice)]
        table = changes_table(label, group, label=_slice, folded=bool(drawn))
        blocks: list[Block] = [*drawn, table]
        if any(change.differs or change.verdict == "exceeds" for change in group):
            yield from blocks
        else:
            counts = ", ".join(f"{n:,} {VERDICTS[v]}" for v, n in tally(group).items() if n)
            yield Fold(f"{label}: {counts}", blocks)


def _slice(change: Change) -> str:
    return clean(where(change.first))


def slice_first(change: Change) -> str:
    """What tells it from its neighbours stands where a narrow figure does not cut it."""
    label = clean(metric(change.first.metric).label)
    return f"{_slice(change)}: {label}" if change.first.slice else label


def _by_metric(mine: Sequence[Change]) -> dict[tuple[str, tuple[str, ...]], list[Change]]:
    groups: dict[tuple[str, tuple[str, ...]], list[Change]] = {}
    for change in mine:
        key = (change.first.metric, tuple(sorted(change.first.slice)))
        groups.setdefault(key, []).append(change)
    return groups


def _unit(change: Change) -> str:
    """Changes of one unit share an axis: shares, and each other metric for itself."""
    name = change.first.metric
    return POINTS if metric(name).show(0.5).endswith("%") else name


def figures(
    slug: str, changes: Sequence[Change], label: Callable[[Change], str]
) -> Iterator[Figure]:
    """The judged changes, a figure for each unit of which there are several."""
    drawn = [change for change in changes if change.ci is not None]
    for unit in dict.fromkeys(map(_unit, drawn)):
        kept = ordered([change for change in drawn if _unit(change) == unit])
        if len(kept) > 1:
            yield _figure(f"change-{slug}-{unit}", unit, kept, label)


def _figure(
    name: str, unit: str, group: Sequence[Change], label: Callable[[Change], str]
) -> Figure:
    points = unit == POINTS
    metrics = dict.fromkeys(metric(change.first.metric).label for change in group)
    what = next(iter(metrics)) if len(metrics) == 1 else "Shares and rates"
    title = f"{what}: change from the first run to the second"
    lines = []
    for change in group[:MOST]:
        values = " → ".join(map(metric(change.first.metric).show, change.values or ()))
        low, high = change.ci or (None, None)
        mark = Mark(
            label(change), change.estimate, low, high, change.second.n, None, change.verdict
        )
        lines.append(drawing.Line(mark, values, change.margin))

    def show(value: float) -> str:
        return difference(group[0], value).removesuffix(" pp")

    slug = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
    wide, narrow = (
        drawing.changes(
            lines,
            name=f"{slug}-{width}",
            title=title,
            show=show,
            axis="change, percentage points" if points else "change",
            width=width,
        )
        for width in (drawing.WIDE, drawing.NARROW)
    )
    left = f" The {MOST} clearest of {len(group):,}; all are in the table." * (len(group) > MOST)
    caption = f"{title}. Line through the point: interval; grey: the margin.{left}"
    return Figure(wide, narrow, caption)


def _only(compared: Comparison) -> Iterator[Block]:
    for name, only in (("first", compared.only_first), ("second", compared.only_second)):
        if only:
            rows = [Row(_alone(finding), finding.id) for finding in only]
            columns = ["Measured", "Estimate", "Images", "Verdict"]
            title = f"Findings of the {name} run alone"
            yield Table(title, columns, rows, folded=len(rows) > 12)


def _alone(finding: Finding) -> list[Cell]:
    words = metric(finding.metric)
    value = finding.estimate
    return [
        text(f"{words.label}: {where(finding)}"),
        text("not measured")
        if value is None
        else Cell((Number(words.show(value), value),), "number"),
        Cell((Number(f"{finding.n:,}", finding.n),), "number"),
        Cell((VERDICTS.get(finding.verdict, plain(finding.verdict)),), "verdict"),
    ]


def _cut(value: str) -> str:
    value = clean(value)
    return value if len(value) <= 160 else f"{value[:160]}… ({len(value):,} characters)"
