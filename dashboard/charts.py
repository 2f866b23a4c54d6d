"""Charts as Vega-Lite, each made once: Altair takes 30 ms to check a chart, and a page has several.

A specification names its data and holds none; :func:`draw` gives both. So a threshold that is moved
sends its own small table anew and leaves the chart that stands in the browser as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
import streamlit as st

# Altair brings jsonschema, which builds the grammar of every kind of address where this package is
# there: over ten seconds, for a check that no chart asks for.
_NEEDLESS = "rfc3987_syntax"
_known = _NEEDLESS in sys.modules
if not _known:
    sys.modules[_NEEDLESS] = None  # type: ignore[assignment]
try:
    import altair as alt
finally:
    if not _known:
        del sys.modules[_NEEDLESS]

__all__ = ["Spec", "alt", "draw", "named", "specification"]

Spec: TypeAlias = dict[str, Any]
Data: TypeAlias = pa.Table | pd.DataFrame


def named(name: str) -> alt.Chart:
    """A chart of the data that :func:`draw` gives under this name."""
    return alt.Chart(alt.NamedData(name))


def specification(chart: Any) -> Spec:
    """The chart as Vega-Lite, in the page's own theme."""
    spec: Spec = chart.to_dict()
    spec.pop("config", None)  # Altair's own theme
    return spec


def draw(spec: Spec, data: Mapping[str, Data], *, alt: str, **options: Any) -> Any:
    """The chart with its data.

    Args:
        alt: the chart in words.
        options: of :func:`streamlit.vega_lite_chart`.
    """
    return st.vega_lite_chart(spec=spec | {"datasets": dict(data)}, alt=alt, **options)
