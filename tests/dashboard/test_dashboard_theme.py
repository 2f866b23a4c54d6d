"""Both themes can be read: contrasts as of WCAG 2.2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dashboard
from dashboard.server import OPTIONS

ENOUGH = 4.5
"""WCAG 2.2, success criterion 1.4.3, level AA, for text of usual size."""
PRIMARY = {scheme: str(OPTIONS[f"theme.{scheme}.primaryColor"]) for scheme in ("light", "dark")}
GROUNDS = {
    "light": ("#ffffff", "#f8f8f7"),  # Streamlit's own
    "dark": (
        str(OPTIONS["theme.dark.backgroundColor"]),
        str(OPTIONS["theme.dark.secondaryBackgroundColor"]),
    ),
}


def channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of #rrggbb, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours, 1 to 21."""

    def luminance(colour: str) -> float:
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
            for v in (value / 255 for value in channels(colour))
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def on_primary(scheme: str) -> str:
    """The colour of text on primary buttons and on tags."""
    style = Path(dashboard.__file__).with_name("style.css").read_text(encoding="utf-8")
    [rule] = re.findall(
        r'"stBaseButton-primary"\][^{]*\[data-tag\][^{]*\{\s*color: '
        r"light-dark\((#\w{6}), (#\w{6})\)",
        style,
    )
    return str(rule[scheme == "dark"])


def test_contrast_is_that_of_known_pairs() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#ff0000", "#ffffff") == pytest.approx(4.00, abs=0.005)


@pytest.mark.parametrize("scheme", PRIMARY)
def test_text_on_the_primary_colour_can_be_read(scheme: str) -> None:
    assert contrast(on_primary(scheme), PRIMARY[scheme]) >= ENOUGH


@pytest.mark.parametrize("scheme", PRIMARY)
def test_text_in_the_primary_colour_can_be_read(scheme: str) -> None:
    """What is chosen in a row of choices."""
    assert min(contrast(PRIMARY[scheme], ground) for ground in GROUNDS[scheme]) >= ENOUGH
