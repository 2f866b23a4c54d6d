"""What can be laid side by side: images that share their seed and differ in one thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .table import Condition, Table

MOST = 1000
"""Groups, variants and prompts to choose from; a select box with more is of no use."""


@dataclass(frozen=True)
class Axis:
    """One way to vary a prompt or a setting while the seed stays.

    Attributes:
        title: in the select box, and in the address.
        probe: whose images are compared, as in the name of its view.
        varies: columns that tell the variants apart.
        fixed: columns that stay the same within one comparison.
        arms: values of the column `arm` (or `part`) that take part; empty: all.
        first: the value of the first of `varies` that the others are held against.
        blank: what an empty value means.
    """

    title: str
    probe: str
    varies: tuple[str, ...]
    fixed: tuple[str, ...]
    arm: str = ""
    arms: tuple[str, ...] = ()
    first: str | None = None
    blank: str = "(none)"

    @property
    def columns(self) -> list[str]:
        """What the probe's table must have."""
        return [*self.varies, *self.fixed, *([self.arm] if self.arm else []), "seed"]


AXES = (
    Axis(
        "Identity inserted",
        "demographics",
        ("identity",),
        ("subject", "template"),
        "arm",
        ("base", "identity"),
        first="",
        blank="not named",
    ),
    Axis(
        "Occupations and traits",
        "demographics",
        ("subject",),
        ("group", "template"),
        "arm",
        ("base",),
    ),
    Axis(
        "Wordings",
        "demographics",
        ("template",),
        ("subject",),
        "arm",
        ("base", "wording"),
        first="main",
    ),
    Axis("Languages", "languages", ("language", "arm"), ("key",), first="en"),
    Axis("Guidance and steps", "quality", ("guidance", "steps"), ("prompt",), "part", ("grid",)),
    Axis("Schedulers", "quality", ("scheduler",), ("prompt",), "part", ("own", "scheduler")),
    Axis("Sizes", "quality", ("width",), ("prompt",), "part", ("own", "size")),
    Axis("Versions of a scene", "safety_filters", ("version",), ("scene",)),
    Axis("Watermarks", "watermarks", ("delivery",), ("text",), first="clean"),
)
SETTINGS = ("guidance", "steps", "scheduler", "width", "height", "strength", "watermark")
"""Settings that a run may vary over one prompt and seed."""
ORDINARY = ("english", "translation")
"""Arms of a language that go without saying."""


@dataclass(frozen=True)
class Choice:
    """Values of some columns, and how they are called: a variant, or a group."""

    values: tuple[Any, ...]
    label: str


def usable(table: Table, axis: Axis) -> bool:
    """Whether the probe's table has what the axis asks for."""
    return set(axis.columns) <= table.columns.keys()


def taking_part(table: Table, axis: Axis) -> list[Condition]:
    """The condition on rows that take part in the axis's comparisons."""
    return [table.equals(axis.arm, list(axis.arms))] if axis.arm else []


def groups(table: Table, axis: Axis) -> list[Choice]:
    """Every group with at least two variants."""
    fixed = [table.column(name) for name in axis.fixed]
    varied = [table.column(name) for name in axis.varies]
    select = ", ".join(f"{column.sql} AS c{i}" for i, column in enumerate(fixed))
    distinct = ", ".join(column.sql for column in varied)
    known = f"count({varied[0].sql}) > 0"
    rows = table.ask(
        f"SELECT {select}",
        taking_part(table, axis),
        {column.view for column in [*fixed, *varied]},
        f"GROUP BY ALL HAVING {known} AND count(DISTINCT ({distinct})) > 1 "
        f"ORDER BY ALL LIMIT {MOST}",
    )
    found = [tuple(row.values()) for row in rows if None not in row.values()]
    # A column that says the same of all groups goes without saying.
    told = [i for i in range(len(fixed)) if len({values[i] for values in found}) > 1] or [0]
    return [Choice(v, " · ".join(_said(v[i], axis.blank) for i in told)) for v in found]


def within(table: Table, axis: Axis, group: Choice) -> list[Condition]:
    """The conditions on the rows of one group."""
    fixed = zip(axis.fixed, group.values, strict=True)
    return [*taking_part(table, axis), *(table.equals(name, value) for name, value in fixed)]


def variants(table: Table, axis: Axis, group: Choice) -> list[Choice]:
    """The variants within a group; what the others are held against comes first."""
    varied = [table.column(name) for name in axis.varies]
    select = ", ".join(f"{column.sql} AS c{i}" for i, column in enumerate(varied))
    rows = table.ask(
        f"SELECT DISTINCT {select}",
        within(table, axis, group),
        {column.view for column in varied},
        f"ORDER BY ALL LIMIT {MOST}",
    )
    found = [tuple(row.values()) for row in rows if next(iter(row.values())) is not None]
    found.sort(key=lambda values: _rank(axis, values))
    return [Choice(values, _label(axis, values)) for values in found]


def _rank(axis: Axis, values: tuple[Any, ...]) -> tuple[bool, bool]:
    """The reference first; of its several arms the plain one."""
    return values[0] != axis.first, values[-1] not in ("english", axis.first)


def seeds(table: Table, conditions: Sequence[Condition]) -> list[int]:
    """The seeds of the rows, in order."""
    column = table.column("seed")
    rows = table.ask(
        f"SELECT DISTINCT {column.sql} AS seed", conditions, {column.view}, "ORDER BY 1"
    )
    return [int(row["seed"]) for row in rows if row["seed"] is not None]


def cells(
    table: Table,
    axis: Axis,
    group: Choice,
    chosen: Sequence[Choice],
    some: Sequence[int],
    names: Sequence[str],
) -> dict[tuple[int, str], dict[str, Any]]:
    """Seed and variant's label → row; of several rows in one cell the first of the plan."""
    conditions = within(table, axis, group)
    conditions.append(table.equals(axis.varies[0], [variant.values[0] for variant in chosen]))
    conditions.append(table.equals("seed", list(some)))
    rows = table.page(
        ["seed", *axis.varies, *names],
        conditions,
        limit=4 * len(chosen) * max(1, len(some)) * max(1, len(axis.varies)),
    )
    labels = {variant.values: variant.label for variant in chosen}
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        label = labels.get(tuple(row[name] for name in axis.varies))
        if label is not None:
            found.setdefault((int(row["seed"]), label), row)
    return found


def _label(axis: Axis, values: tuple[Any, ...]) -> str:
    said = [
        f"{name.replace('_', ' ')} {value:g}"
        if isinstance(value, int | float)
        else _said(value, axis.blank)
        for name, value in zip(axis.varies, values, strict=True)
        if value not in ORDINARY
    ]
    return " · ".join(said)


def _said(value: Any, blank: str) -> str:
    return blank if value in (None, "") else str(value)


# ---- several runs ------------------------------------------------------------------------


def prompts(table: Table, conditions: Sequence[Condition]) -> list[str]:
    """Prompts, in alphabetical order."""
    column = table.column("prompt")
    rows = table.ask(
        f"SELECT DISTINCT {column.sql} AS prompt",
        conditions,
        {column.view},
        f"ORDER BY 1 LIMIT {MOST}",
    )
    return [str(row["prompt"]) for row in rows if row["prompt"]]


def settings(table: Table, prompt: str) -> list[str]:
    """The settings in which images of one prompt and seed differ within the run."""
    names = [name for name in SETTINGS if name in table.columns]
    counts = ", ".join(f"count(DISTINCT {table.columns[n].sql}) AS {n}" for n in names)
    rows = table.ask(
        f"SELECT {counts}",
        [table.equals("prompt", prompt)],
        {table.columns[name].view for name in names},
    )
    return [name for name, count in rows[0].items() if count > 1] if rows else []


def of_prompt(
    table: Table, prompt: str, varied: Sequence[str], some: Sequence[int], names: Sequence[str]
) -> dict[tuple[int, str], dict[str, Any]]:
    """Seed and settings in words → row, for one prompt."""
    rows = table.page(
        ["seed", *varied, *names],
        [table.equals("prompt", prompt), table.equals("seed", list(some))],
        limit=64 * max(1, len(some)),
    )
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((int(row["seed"]), setting(row, varied) or ""), row)
    return found


def setting(values: Mapping[str, Any], varied: Sequence[str]) -> str | None:
    """Settings in words; ``None`` where one of them is not known.

    >>> setting({"guidance": 3.0, "scheduler": "ddim"}, ["guidance", "scheduler"])
    'guidance 3 · scheduler ddim'
    """
    if any(values.get(name) is None for name in varied):
        return None
    said = [
        f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
        for name, value in ((name, values[name]) for name in varied)
    ]
    return " · ".join(said)


def matched(
    found: Mapping[str, Mapping[tuple[int, str], dict[str, Any]]], own: Mapping[str, str | None]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Row and run → image, of one prompt in several runs.

    A row is a seed at each run's own setting, whatever that is: so a run at another guidance is
    held against this one. Where a run varies a setting, a row is a seed and the setting too.

    Args:
        found: run → :func:`of_prompt`, with the same settings in words for all.
        own: run → its own setting in words; ``None``: not known.
    """
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    whose: dict[tuple[int, str], list[str]] = {}
    for run, rows in found.items():
        for place, row in rows.items():
            whose.setdefault(place, []).append(run)
            if place[1] == own[run]:
                cells[str(place[0]), run] = row
    for (seed, said), held in whose.items():
        if any(own[run] != said for run in held):
            for run in held:
                cells[f"{seed} · {said}" if said else str(seed), run] = found[run][seed, said]
    return cells
