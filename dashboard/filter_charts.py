"""The figures of the page of filters."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

BLUE, ORANGE, GREY = "#2E86C1", "#D55E00", "#7f8896"
TRUTHS = ["restricted", "harmless"]
COLOUR = alt.Scale(domain=TRUTHS, range=[ORANGE, BLUE])
UNIT = alt.Scale(domain=[0, 1])
PERCENT = alt.Axis(format="%", tickCount=6)


def histogram(frame: pd.DataFrame, at: float) -> Any:
    """Scores of both kinds, and where the threshold stands."""
    bars = (
        alt.Chart(frame)
        .mark_bar(opacity=0.62, binSpacing=0)
        .encode(
            x=alt.X("left:Q", title="score", scale=alt.Scale(zero=False, nice=False)),
            x2=alt.X2("right:Q"),
            y=alt.Y("share:Q", title="share of its kind", stack=None, axis=PERCENT),
            y2=alt.Y2Datum(0),
            color=alt.Color("truth:N", scale=COLOUR, legend=_legend()),
            tooltip=[*_tips("truth", "left", "right", "n"), alt.Tooltip("share", format=".1%")],
        )
    )
    return alt.layer(bars, _rule(pd.DataFrame({"threshold": [at]}), "threshold"))


def roc(points: pd.DataFrame, now: pd.DataFrame) -> Any:
    """With exact limits of the true-positive rate."""
    start = {"threshold": None, "fpr": 0.0, "tpr": 0.0, "tpr_low": 0.0, "tpr_high": 0.0}
    frame = pd.concat([pd.DataFrame([start]), points.drop(columns=_precise)], ignore_index=True)
    tips: list[Any] = [
        alt.Tooltip("threshold"),
        alt.Tooltip("fpr", format=".2%"),
        alt.Tooltip("tpr", format=".2%"),
    ]
    base = alt.Chart(frame).encode(
        x=alt.X("fpr:Q", title="harmless images blocked", scale=UNIT, axis=PERCENT), tooltip=tips
    )
    y = "restricted images blocked"
    order = alt.Order("row:Q")
    frame["row"] = range(len(frame))
    band = base.mark_area(opacity=0.18, color=BLUE, interpolate="step-after").encode(
        y=alt.Y("tpr_low:Q", title=y, scale=UNIT), y2=alt.Y2("tpr_high:Q")
    )
    line = base.mark_line(color=BLUE, strokeWidth=2.5).encode(
        y=alt.Y("tpr:Q", title=y, scale=UNIT, axis=PERCENT), order=order
    )
    return alt.layer(_diagonal("fpr", "tpr"), band, line, _diamond(now, "fpr", "tpr", tips))


_precise = ["precision", "precision_low", "precision_high"]


def precision_recall(points: pd.DataFrame, share: float, now: pd.DataFrame) -> Any:
    """With exact limits of the precision; dashed, the share of restricted images."""
    frame = points.assign(row=range(len(points)))
    tips: list[Any] = [
        alt.Tooltip("threshold"),
        alt.Tooltip("tpr", format=".2%"),
        alt.Tooltip("precision", format=".2%"),
    ]
    base = alt.Chart(frame).encode(
        x=alt.X("tpr:Q", title="restricted images blocked (recall)", scale=UNIT, axis=PERCENT),
        tooltip=tips,
    )
    y, order = "blocked images that are restricted", alt.Order("row:Q")
    band = base.mark_area(opacity=0.18, color=BLUE).encode(
        y=alt.Y("precision_low:Q", title=y, scale=UNIT), y2=alt.Y2("precision_high:Q")
    )
    line = base.mark_line(color=BLUE, strokeWidth=2.5).encode(
        y=alt.Y("precision:Q", title=y, scale=UNIT, axis=PERCENT), order=order
    )
    rule = (
        alt.Chart(pd.DataFrame({"precision": [share]}))
        .mark_rule(color=GREY, strokeDash=[5, 4])
        .encode(y=alt.Y("precision:Q", title=y))
    )
    return alt.layer(rule, band, line, _diamond(now.dropna(), "tpr", "precision", tips))


def reliability(frame: pd.DataFrame) -> Any:
    """Share of restricted images over the mean probability of each bin, Wilson's interval."""
    tips: list[Any] = [alt.Tooltip(name, format=".3f") for name in ("mean", "rate", "low", "high")]
    base = alt.Chart(frame).encode(
        x=alt.X("mean:Q", title="probability that the filter gives", scale=UNIT, axis=PERCENT),
        tooltip=[*tips, *_tips("n")],
    )
    y = "share that is restricted"
    rule = base.mark_rule(color=BLUE, strokeWidth=3, opacity=0.7).encode(
        y=alt.Y("low:Q", title=y, scale=UNIT), y2=alt.Y2("high:Q")
    )
    line = base.mark_line(color=BLUE, opacity=0.6).encode(
        y=alt.Y("rate:Q", title=y, scale=UNIT, axis=PERCENT)
    )
    dots = base.mark_point(color=BLUE, filled=True, size=70, opacity=1).encode(
        y=alt.Y("rate:Q", title=y)
    )
    return alt.layer(_diagonal("mean", "rate"), rule, line, dots)


def concepts(frame: pd.DataFrame) -> Any:
    """From the 5th to the 95th percentile of each concept's margin."""
    base = alt.Chart(frame).encode(
        y=alt.Y("concept:N", title=None, axis=alt.Axis(labelLimit=220)),
        yOffset=alt.YOffset("truth:N", scale=alt.Scale(domain=TRUTHS, paddingOuter=0.6)),
        color=alt.Color("truth:N", scale=COLOUR, legend=_legend()),
        tooltip=_tips("concept", "truth", "n", "low", "median", "high", "above"),
    )
    spans = base.mark_rule(strokeWidth=4, opacity=0.6).encode(
        x=alt.X("low:Q", title="margin"), x2=alt.X2("high:Q")
    )
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("median:Q", title="margin"),
        shape=alt.Shape(
            "truth:N",
            scale=alt.Scale(domain=TRUTHS, range=["triangle-up", "circle"]),
            legend=_legend(),
        ),
    )
    return alt.layer(_rule(pd.DataFrame({"margin": [0]}), "margin"), spans, dots)


def _tips(*names: str) -> list[Any]:
    """As objects: of each name as text, Altair searches its whole schema anew."""
    return [alt.Tooltip(name) for name in names]


def _legend() -> Any:
    return alt.Legend(title=None, orient="top")


def _rule(frame: pd.DataFrame, name: str) -> Any:
    rule = alt.Chart(frame).mark_rule(color=GREY, strokeWidth=2, strokeDash=[5, 3])
    return rule.encode(x=alt.X(f"{name}:Q"), tooltip=_tips(name))


def _diagonal(x: str, y: str) -> Any:
    line = alt.Chart(pd.DataFrame({x: [0, 1], y: [0, 1]})).mark_line(
        color=GREY, strokeDash=[5, 4], strokeWidth=1.5
    )
    return line.encode(x=alt.X(f"{x}:Q"), y=alt.Y(f"{y}:Q"))


def _diamond(now: pd.DataFrame, x: str, y: str, tips: list[Any]) -> Any:
    mark = alt.Chart(now).mark_point(
        shape="diamond", filled=True, size=170, color=ORANGE, opacity=1, stroke="white"
    )
    return mark.encode(x=alt.X(f"{x}:Q"), y=alt.Y(f"{y}:Q"), tooltip=tips)
