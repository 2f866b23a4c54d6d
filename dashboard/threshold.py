"""A threshold that a reader moves: its slider, its place in the address, where it starts."""

from __future__ import annotations

import math
from contextlib import suppress

import streamlit as st

from . import parts

STEPS = 1000
"""About so many places has a slider."""


def slider(
    label: str,
    key: str,
    low: float,
    high: float,
    value: float,
    *,
    format: str | None = None,
    help: str | None = None,
) -> float:
    """A slider over the scores that there are; the address holds its value under `key`.

    Args:
        low, high: the least and the greatest score; the slider reaches a little beyond.
        value: where it stands until it is moved.
    """
    step = step_of(low, high)
    low, high = math.floor(min(low, value) / step) * step, math.ceil(max(high, value) / step) * step
    high = max(high, low + step)
    _check(key, low, high)
    found = st.slider(
        label,
        low,
        high,
        value,
        step,
        key=key,
        bind="query-params",
        format=format or f"%.{max(0, -round(math.log10(step)))}f",
        help=help,
    )
    return float(found)


def _check(key: str, low: float, high: float) -> None:
    """Say that a value of the address is not taken; Streamlit falls back to the start."""
    given = st.query_params.get(key)
    if given is None:
        return
    with suppress(ValueError):
        if low <= float(given) <= high:
            return
    parts.warn(
        f"The address asks for the threshold '{given[:40]}', which is no number from "
        f"{parts.number(low)} to {parts.number(high)}; the usual one is shown."
    )


def step_of(low: float, high: float) -> float:
    """A power of ten that divides the range into :data:`STEPS` or a few more.

    >>> step_of(0.02, 0.98), step_of(0, 4), step_of(5, 5)
    (0.0001, 0.001, 0.001)
    """
    reach = high - low
    if not (math.isfinite(reach) and reach > 0):
        return 1 / STEPS
    return float(f"1e{math.floor(math.log10(reach / STEPS))}")


def roundest(above: float, upto: float) -> float:
    """The number of fewest decimals in (above, upto].

    It blocks what `upto` blocks and lets pass what `above` lets pass, and reads better than either.

    >>> roundest(0.48, 0.5219), roundest(-0.031, 0.0123), roundest(0.1234, 0.1236)
    (0.5, 0.0, 0.1236)
    >>> roundest(0.3, math.inf)
    1.0
    """
    if math.isinf(upto):
        return math.floor(above) + 1.0
    for decimals in range(13):
        found: float = math.floor(upto * 10**decimals + 1e-9) / 10**decimals
        if above < found <= upto:
            return found + 0.0
    return upto
