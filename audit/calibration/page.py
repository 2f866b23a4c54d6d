"""The result as one HTML file that fetches nothing and runs nothing, in the card's style."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from audit.card import page as card_page
from audit.card.blocks import Figure, Prose, Row, Section, Table, count, text
from audit.card.strokes import STYLE, Scale, line, px, short, svg
from audit.card.strokes import text as words
from audit.card.wording import clean, metric, plain

from .shipped import sentence

TEMPLATES = Path(__file__).parent / "templates"
STEP = 22.0
LOWEST = 0.7
"""Where the axis of coverage begins; what lies below is drawn at its end."""

HOW = """
One pool of images is made of each phantom, on seeds that no audit uses, and read by the phantom's
exact reader. Sub-audits are drawn from it **with replacement**: the pool is then the population,
every true value is known exactly, and each draw is independent of the others. (Without replacement
the draws would tell of each other, and intervals made for independent images would seem to cover
more often than they do.) Where an interval speaks of prompts too, the prompts are drawn with
replacement as well. Each sub-audit is analysed by the probe's own analysis; nothing is
re-implemented. What this cannot tell is how well the pool stands for the phantom: a test of the
pool against the phantom's own many samples stands among the known answers.

A row's coverage has an interval of its own, with the sub-audits as clusters, for the findings of
one are wrong together. It fails where that interval lies outside of {low:.0%} to {high:.0%}.
Intervals that can miss on one side alone, or of exact methods, have no upper limit.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page. Text of the result is escaped by the template."""
    from jinja2 import ChoiceLoader, FileSystemLoader

    environment = card_page.environment().overlay(
        loader=ChoiceLoader([FileSystemLoader(TEMPLATES), FileSystemLoader(card_page.TEMPLATES)])
    )
    css = (card_page.TEMPLATES / "card.css").read_text(encoding="utf-8")
    everything = result["overall"]
    tiles = [
        ("of the intervals hold the true value", everything["coverage"]),
        ("of the planted effects are found", everything["power"]),
        ("of what is not there is accused", everything["false_alarms"]),
    ]
    nothing = SimpleNamespace(model="", images=0, findings=())
    return environment.get_template("calibration.html.jinja").render(
        result=result,
        said=sentence(result),
        tiles=[(name, percent(value)) for name, value in tiles if value is not None],
        parts=sections(result),
        css=css + STYLE,
        card=nothing,
        sections=(),
        verdicts=(),
        style="",
    )


def sections(result: Mapping[str, Any]) -> list[Section]:
    """The page's sections."""
    low, high = result["allowed"]["coverage"]
    failed = [Prose("\n".join(f"- {clean(why)}" for why in result["failures"]))]
    return [
        *([Section("What did not hold", failed)] if result["failures"] else []),
        Section("By probe", [_by_probe(result)]),
        Section("Planted and found", [_figure(result), _effects(result)]),
        Section("Known answers", [_checks(result)]),
        Section("Errors of the detectors", [_detectors(result), _without(result)]),
        Section("How this was done", [Prose(HOW.format(low=low, high=high)), _made(result)]),
    ]


def _by_probe(result: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            [
                text(plain(name).capitalize()),
                count(row["intervals"]),
                text(interval(row["coverage"], row["coverage_ci"])),
                text(interval(row["power"], row["power_ci"])),
                text(interval(row["false_alarms"], row["false_alarms_ci"])),
            ]
        )
        for name, row in {**result["probes"], "all probes": result["overall"]}.items()
    ]
    head = ["Probe", "Intervals", "Hold the true value", "Planted effects found", "False alarms"]
    return Table("Shares with their 95% intervals, sub-audits as clusters", head, rows)


def _effects(result: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            [
                text(f"{plain(row['probe']).capitalize()}: {metric(row['metric']).label}"),
                text(f"{row['variant']}: {row['said']}"),
                text(value(row["planted"])),
                text(value(row["found"])),
                text(_example(row["example"])),
                text(f"{row['covered']} of {row['intervals']}"),
                text(interval(row["coverage"], row["coverage_ci"])),
                text(f"{row['accused']} of {row['intervals']}"),
            ]
        )
        for row in result["effects"]
    ]
    head = [
        "Measured",
        "Variant",
        "Planted, mean",
        "Found, mean",
        "The first sub-audit",
        "Covered",
        "Coverage",
        "Accused",
    ]
    return Table("Every planted effect over the sub-audits", head, rows)


def _example(one: Mapping[str, Any]) -> str:
    if one["ci"] is None or one["found"] is None:
        return "not measured"
    low, high = one["ci"]
    held = "covered" if one["covered"] else "not covered"
    planted = value(one["planted"])
    return f"{planted} planted, {value(one['found'])} ({value(low)} to {value(high)}), {held}"


def _checks(result: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            [
                text(check["said"]),
                text(plain(check["probe"]).capitalize()),
                text("right" if check["passed"] else "wrong"),
                text(check["detail"]),
            ]
        )
        for check in result["checks"]
    ]
    return Table(
        "Answers that are right or wrong", ["Known answer", "Probe", "Found", "Counted"], rows
    )


def _detectors(result: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            [
                text(row["detector"]),
                text(row["of"]),
                text(row["truth"]),
                count(row["n"]),
                text(interval(row["error"], row["ci"])),
            ]
        )
        for row in result["detectors"]
    ]
    head = ["Detector", "Of", "Truth", "Images", "Wrong"]
    return Table("Against what is known of the same images", head, rows)


def _without(result: Mapping[str, Any]) -> Table:
    # Results of earlier versions do not tell.
    rows = [
        Row([text(one["detector"]), text(one["why"])]) for one in result.get("without_answer", [])
    ]
    return Table("Not held against a known answer", ["Detector", "Why"], rows)


def _made(result: Mapping[str, Any]) -> Table:
    rows = [
        ("Toolkit", result["toolkit"]),
        ("Calibration", f"{result['size']}, {result['sub_audits']} sub-audits of each kind"),
        ("First seed of the pools", str(result["seed"])),
        *(
            (f"Images of {name}", f"{about['images']:,}")
            for name, about in result["models"].items()
        ),
        *((name, number) for name, number in result["versions"].items()),
    ]
    return Table("Made with", ["Property", "Value"], [Row([text(a), text(b)]) for a, b in rows])


def _figure(result: Mapping[str, Any]) -> Figure:
    """Coverage of every effect with its interval, the allowed band behind."""
    title = "Share of 95% intervals that hold the true value"
    caption = (
        f"{title}, with its own 95% interval; grey: where it must lie. What lies below "
        f"{LOWEST:.0%} is drawn there. The table has every figure."
    )
    wide, narrow = (
        _drawn(result, title, *size) for size in ((430.0, 930.0, 58), (165.0, 370.0, 21))
    )
    return Figure(wide, narrow, caption)


def _drawn(result: Mapping[str, Any], title: str, left: float, width: float, letters: int) -> str:
    """The figure with labels of so many letters on its left."""
    low, high = result["allowed"]["coverage"]
    x = Scale(LOWEST, 1.0, left, width - 60)
    effects = result["effects"]
    groups = len({row["probe"] for row in effects})
    bottom = 34 + STEP * (len(effects) + groups)
    parts = [
        f'<rect x="{px(x(low))}" y="24" width="{px(x(high) - x(low))}" height="{px(bottom - 24)}" '
        'fill="var(--panel)"/>'
    ]
    for tick in (0.7, 0.8, 0.9, 0.95, 1.0) if letters > 40 else (0.7, 0.95):
        parts.append(line("axis" if tick == 0.95 else "grid", x(tick), 24, x(tick), bottom))
        parts.append(words(x(tick), 16, f"{tick:.0%}", "quiet middle"))
    y, group = 18.0, ""
    for row in effects:
        if row["probe"] != group:
            group, y = row["probe"], y + STEP
            parts.append(words(0, y + 4, plain(group).capitalize(), "quiet"))
        y += STEP
        name = f"{row['said']} ({row['variant']})"
        whole = f"{name}: {metric(row['metric']).label}"
        parts.append(words(left - 12, y + 4, short(name, letters), "end", whole))
        if row["coverage"] is None or row["coverage_ci"] is None:
            continue
        ends = [x(max(LOWEST, end)) for end in row["coverage_ci"]]
        kind = "exceeds" if any("cover" in why for why in row["failures"]) else "within"
        at = x(max(LOWEST, row["coverage"]))
        parts.append(
            f'<g class="{kind}">{line("interval", ends[0], y, ends[1], y)}'
            f'<circle class="shape" cx="{px(at)}" cy="{px(y)}" r="4.4"/></g>'
        )
        parts.append(words(width - 50, y + 4, f"{row['coverage']:.1%}", "quiet"))
    said = "; ".join(f"{row['metric']} {row['coverage']:.1%}" for row in effects)
    return svg(f"coverage-{letters}", title, said, width, bottom + 8, parts)


def percent(share: float) -> str:
    """A share in percent, one decimal."""
    return f"{share:.1%}"


def interval(share: float | None, ci: Any) -> str:
    """A share with its interval."""
    if share is None or ci is None:
        return "none planted"
    return f"{share:.1%} ({ci[0]:.1%} to {ci[1]:.1%})"


def value(number: float | None) -> str:
    """A value with three digits."""
    return "–" if number is None else f"{number:.3f}"
