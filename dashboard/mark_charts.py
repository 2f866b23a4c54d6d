"""The figures of the page of watermarks."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

COLOURS = ["#2E86C1", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
SHAPES = ["circle", "triangle-up", "square", "diamond", "cross", "triangle-down"]
GREY = "#7f8896"
SHARE = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
UNIT = alt.Scale(domain=[0, 1])


def _codec(frame: pd.DataFrame) -> Any:
    names = sorted(set(frame.codec))
    colours = [COLOURS[at % len(COLOURS)] for at in range(len(names))]
    return alt.Color(
        "codec:N",
        scale=alt.Scale(domain=names, range=colours),
        legend=alt.Legend(title=None, orient="top", symbolOpacity=1),
    )


def _shape(frame: pd.DataFrame) -> Any:
    names = sorted(set(frame.codec))
    return alt.Shape(
        "codec:N",
        scale=alt.Scale(domain=names, range=[SHAPES[at % len(SHAPES)] for at in range(len(names))]),
        legend=alt.Legend(title=None, orient="top", symbolOpacity=1),
    )


def strengths(frame: pd.DataFrame, attack: str) -> Any:
    """One attack: marks found at each of its strengths, with exact limits."""
    order = [s for s in dict.fromkeys(frame.strength) if s == s]
    # Weakest first, as the probe tried them: a quality falls, a noise grows.
    mean = frame[frame.attack != "none"].groupby("strength").tpr.mean()
    if len(order) > 1 and mean.iloc[0] < mean.iloc[-1]:
        order = sorted(order, reverse=True)
    drawn = frame.assign(
        at=[
            "none" if a == "none" else f"{s:g}"
            for a, s in zip(frame.attack, frame.strength, strict=True)
        ]
    )
    places = ["none", *(f"{s:g}" for s in order)]
    base = alt.Chart(drawn).encode(
        x=alt.X(
            "at:N",
            title=attack,
            sort=places,
            axis=alt.Axis(labelAngle=0),
            scale=alt.Scale(padding=0.3),
        ),
        color=_codec(drawn),
        tooltip=_tips(),
    )
    y = "marked images found"
    offset = alt.XOffset("codec:N")
    return alt.layer(
        base.mark_rule(strokeWidth=2.5, opacity=0.55).encode(
            y=alt.Y("low:Q", title=y, scale=UNIT), y2="high:Q", xOffset=offset
        ),
        base.mark_line(opacity=0.45).encode(y=alt.Y("tpr:Q", title=y), xOffset=offset),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            y=alt.Y("tpr:Q", title=y, scale=UNIT, axis=SHARE), shape=_shape(drawn), xOffset=offset
        ),
    )


def costs(frame: pd.DataFrame, name: str, title: str) -> Any:
    """Marks found over what the attack costs in quality."""
    base = alt.Chart(frame).encode(
        x=alt.X(
            f"{name}:Q", title=f"{title} after the attack", scale=alt.Scale(zero=False, padding=36)
        ),
        color=_codec(frame),
        tooltip=[*_tips(), alt.Tooltip(f"{name}:Q", format=".3g")],
    )
    y = "marked images found"
    return alt.layer(
        base.mark_rule(strokeWidth=2, opacity=0.4).encode(
            y=alt.Y("low:Q", title=y, scale=UNIT), y2="high:Q"
        ),
        base.mark_point(filled=True, size=80, opacity=0.95).encode(
            y=alt.Y("tpr:Q", title=y, scale=UNIT, axis=SHARE), shape=_shape(frame)
        ),
        alt.Chart(_labels(frame))
        .mark_text(dx=5, dy=-7, align="left", angle=320, fontSize=11, color=GREY)
        .encode(x=alt.X(f"{name}:Q"), y=alt.Y("tpr:Q", title=y), text="label:N"),
    )


def _labels(frame: pd.DataFrame) -> pd.DataFrame:
    """One label for each attack and strength, at the mark that survives best."""
    best = frame.sort_values("tpr").drop_duplicates(["attack", "strength"], keep="last")
    names = [f"{a} {s:g}" for a, s in zip(best.attack, best.strength, strict=True)]
    return best.assign(label=names)


def realised(frame: pd.DataFrame) -> Any:
    """Realised over nominal rate, both logarithmic; a rate of 0 is below what can be drawn."""
    floor = 0.3 / max(float(frame.n.max()), 1.0)
    drawn = frame.assign(low=frame.low.clip(lower=floor), high=frame.high.clip(lower=floor))
    some = drawn[drawn.events > 0]
    span = [max(floor, float(frame.nominal.min())), 1.0]
    axis = alt.Axis(format="~g", tickCount=6)
    base = alt.Chart(drawn).encode(
        x=alt.X(
            "nominal:Q",
            title="nominal p-value",
            scale=alt.Scale(type="log", domain=[float(frame.nominal.min()), 1.0], nice=False),
            axis=axis,
        )
    )
    y = "share of unmarked images"
    scale = alt.Scale(type="log", domain=[floor, 1.0], nice=False, clamp=True)
    band = base.mark_area(opacity=0.12, clip=True).encode(
        y=alt.Y("low:Q", title=y, scale=scale), y2="high:Q", color=_codec(drawn)
    )
    line = (
        alt.Chart(some)
        .mark_line(strokeWidth=2.5, clip=True, interpolate="step-after")
        .encode(
            x=alt.X("nominal:Q"),
            y=alt.Y("realised:Q", title=y, scale=scale, axis=axis),
            color=_codec(drawn),
            tooltip=["codec", "nominal", "realised", "events", "n"],
        )
    )
    promise = (
        alt.Chart(pd.DataFrame({"nominal": span, "realised": span}))
        .mark_line(color=GREY, strokeDash=[5, 4], clip=True)
        .encode(x="nominal:Q", y=alt.Y("realised:Q", title=y, scale=scale))
    )
    return alt.layer(promise, band, line)


def _tips() -> list[Any]:
    share = [alt.Tooltip(f"{name}:Q", format=".1%") for name in ("tpr", "low", "high")]
    return ["codec:N", "attack:N", "strength:Q", *share, "events:Q", "n:Q"]
