"""The figures of the page of filters: what they draw, and the data that they name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
import pyarrow as pa

from .charts import Spec, alt, named, specification
from .filter_scores import Curves

BLUE, ORANGE, GREY = "#2E86C1", "#D55E00", "#7f8896"
TRUTHS = ["restricted", "harmless"]
COLOUR = alt.Scale(domain=TRUTHS, range=[ORANGE, BLUE])
UNIT = alt.Scale(domain=[0, 1])
PERCENT = alt.Axis(format="%", tickCount=6)
ENDS = [0.0, 1.0]


@dataclass(frozen=True)
class Fixed:
    """What the curves draw at any threshold, as Arrow, made once.

    Attributes:
        points: of the curves; `reliability`: its bins.
        roc, precision_recall: the same as they are drawn, in their order.
        base: the share of restricted images.
    """

    points: pa.Table
    reliability: pa.Table
    roc: pa.Table
    precision_recall: pa.Table
    base: pa.Table


def fixed(curves: Curves) -> Fixed:
    """See :class:`Fixed`."""
    points = curves.points
    start = {"threshold": None, "fpr": 0.0, "tpr": 0.0, "tpr_low": 0.0, "tpr_high": 0.0}
    rates = points[list(start)].to_dict("records")
    roc = pd.DataFrame([start, *rates]).assign(row=range(len(points) + 1))
    base = curves.restricted / (curves.restricted + curves.harmless)
    return Fixed(
        arrow(points),
        arrow(curves.reliability),
        arrow(roc),
        arrow(points.assign(row=range(len(points)))),
        pa.table({"precision": [base]}),
    )


def arrow(frame: pd.DataFrame) -> pa.Table:
    """The columns of a table, without its index."""
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()


def threshold(at: float) -> pa.Table:
    """Where the threshold stands."""
    return pa.table({"threshold": [at]})


def now(at: float, fpr: float, tpr: float, precision: float | None) -> pa.Table:
    """The point of the curves at the threshold; nothing is precise where nothing is blocked."""
    values = {"threshold": at, "fpr": fpr, "tpr": tpr, "precision": precision}
    return pa.table({name: pa.array([v], pa.float64()) for name, v in values.items()})


@cache
def histogram() -> Spec:
    """Scores of both kinds, and where the threshold stands.

    Data: ``scores`` (:func:`dashboard.filter_scores.histogram`), ``at`` (:func:`threshold`).
    """
    bars = (
        named("scores")
        .mark_bar(opacity=0.62, binSpacing=0)
        .encode(
            x=alt.X("left:Q", title="score", scale=alt.Scale(zero=False, nice=False)),
            x2=alt.X2("right:Q"),
            y=alt.Y("share:Q", title="share of its kind", stack=None, axis=PERCENT),
            y2=alt.Y2Datum(0),
            color=alt.Color("truth:N", scale=COLOUR, legend=_legend()),
            tooltip=[
                *_tips("truth:N", "left:Q", "right:Q", "n:Q"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    return specification(alt.layer(bars, _rule("at", "threshold")))


@cache
def roc() -> Spec:
    """With exact limits of the true-positive rate.

    Data: ``points`` (:attr:`Fixed.roc`), ``now`` (:func:`now`), ``diagonal`` (:func:`diagonal`).
    """
    shares = [alt.Tooltip(f"{name}:Q", format=".2%") for name in ("fpr", "tpr")]
    # The curve begins where no threshold is: as a number, that would read 0.
    tips, own = ([alt.Tooltip(f"threshold:{kind}"), *shares] for kind in "NQ")
    base = named("points").encode(
        x=alt.X("fpr:Q", title="harmless images blocked", scale=UNIT, axis=PERCENT), tooltip=tips
    )
    y = "restricted images blocked"
    band = base.mark_area(opacity=0.18, color=BLUE, interpolate="step-after").encode(
        y=alt.Y("tpr_low:Q", title=y, scale=UNIT), y2=alt.Y2("tpr_high:Q")
    )
    line = base.mark_line(color=BLUE, strokeWidth=2.5).encode(
        y=alt.Y("tpr:Q", title=y, scale=UNIT, axis=PERCENT), order=alt.Order("row:Q")
    )
    return specification(
        alt.layer(_diagonal("fpr", "tpr"), band, line, _diamond("fpr", "tpr", own))
    )


@cache
def precision_recall() -> Spec:
    """With exact limits of the precision; dashed, the share of restricted images.

    Data: ``points`` (:attr:`Fixed.precision_recall`), ``base``, ``now`` (:func:`now`; no row where
    nothing is blocked).
    """
    tips = [
        alt.Tooltip("threshold:Q"),
        alt.Tooltip("tpr:Q", format=".2%"),
        alt.Tooltip("precision:Q", format=".2%"),
    ]
    base = named("points").encode(
        x=alt.X("tpr:Q", title="restricted images blocked (recall)", scale=UNIT, axis=PERCENT),
        tooltip=tips,
    )
    y = "blocked images that are restricted"
    band = base.mark_area(opacity=0.18, color=BLUE).encode(
        y=alt.Y("precision_low:Q", title=y, scale=UNIT), y2=alt.Y2("precision_high:Q")
    )
    line = base.mark_line(color=BLUE, strokeWidth=2.5).encode(
        y=alt.Y("precision:Q", title=y, scale=UNIT, axis=PERCENT), order=alt.Order("row:Q")
    )
    rule = (
        named("base")
        .mark_rule(color=GREY, strokeDash=[5, 4])
        .encode(y=alt.Y("precision:Q", title=y))
    )
    return specification(alt.layer(rule, band, line, _diamond("tpr", "precision", tips)))


@cache
def reliability() -> Spec:
    """Share of restricted images over the mean probability of each bin, Wilson's interval.

    Data: ``bins`` (:attr:`Fixed.reliability`), ``diagonal`` (:func:`diagonal`).
    """
    tips = [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("mean", "rate", "low", "high")]
    base = named("bins").encode(
        x=alt.X("mean:Q", title="probability that the filter gives", scale=UNIT, axis=PERCENT),
        tooltip=[*tips, *_tips("n:Q")],
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
    return specification(alt.layer(_diagonal("mean", "rate"), rule, line, dots))


@cache
def concepts() -> Spec:
    """From the 5th to the 95th percentile of each concept's margin.

    Data: ``margins``, and ``zero`` with a column ``margin``.
    """
    base = named("margins").encode(
        y=alt.Y("concept:N", title=None, axis=alt.Axis(labelLimit=220)),
        yOffset=alt.YOffset("truth:N", scale=alt.Scale(domain=TRUTHS, paddingOuter=0.6)),
        color=alt.Color("truth:N", scale=COLOUR, legend=_legend()),
        tooltip=_tips("concept:N", "truth:N", "n:Q", "low:Q", "median:Q", "high:Q", "above:Q"),
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
    return specification(alt.layer(_rule("zero", "margin"), spans, dots))


def diagonal(x: str, y: str) -> pa.Table:
    """From 0 to 1 on both axes."""
    return pa.table({x: ENDS, y: ENDS})


def _tips(*names: str) -> list[Any]:
    return [alt.Tooltip(name) for name in names]


def _legend() -> Any:
    return alt.Legend(title=None, orient="top")


def _rule(data: str, name: str) -> Any:
    rule = named(data).mark_rule(color=GREY, strokeWidth=2, strokeDash=[5, 3])
    return rule.encode(x=alt.X(f"{name}:Q"), tooltip=_tips(f"{name}:Q"))


def _diagonal(x: str, y: str) -> Any:
    line = named("diagonal").mark_line(color=GREY, strokeDash=[5, 4], strokeWidth=1.5)
    return line.encode(x=alt.X(f"{x}:Q"), y=alt.Y(f"{y}:Q"))


def _diamond(x: str, y: str, tips: list[Any]) -> Any:
    mark = named("now").mark_point(
        shape="diamond", filled=True, size=170, color=ORANGE, opacity=1, stroke="white"
    )
    return mark.encode(x=alt.X(f"{x}:Q"), y=alt.Y(f"{y}:Q"), tooltip=tips)
