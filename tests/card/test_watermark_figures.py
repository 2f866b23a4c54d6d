"""The figures of watermarks: points lie where the data say, and the card holds both."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from card_run import build

from audit.card import write
from audit.card.figures import NARROW
from audit.card.strokes import Mark
from audit.card.watermarks import PANELS, attack_curves, panels, promised_and_realised

SVG = "{http://www.w3.org/2000/svg}"
RATES = {"none": 1.0, "90": 0.5, "50": 0.0}


def _table(marks: tuple[str, ...] = ("sd-v1", "a<b>")) -> pd.DataFrame:
    rows = [
        {"mark": mark, "attack": attack, "strength": strength, "fpr": fpr, "tpr": tpr,
         "low": max(0.0, tpr - 0.1), "high": min(1.0, tpr + 0.1), "n": 24}
        for mark in marks
        for fpr in (1e-3, 1e-6)
        for attack, strength, tpr in (
            ("none", math.nan, 1.0), ("jpeg", 90.0, 0.5), ("jpeg", 50.0, 0.0), ("crop", 0.9, 0.25)
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _points(source: str) -> list[tuple[float, float]]:
    """(estimate, pixels from the top) of every point."""
    groups = [g for g in ElementTree.fromstring(source).iter() if "data-estimate" in g.attrib]
    return [(float(g.attrib["data-estimate"]), float(g[-1].attrib["cy"])) for g in groups]


@pytest.mark.parametrize("width", [PANELS, NARROW])
def test_attack_curves_put_every_rate_at_its_height(width: int) -> None:
    drawn = panels(_table(), 1e-6)
    assert [(panel.title, list(panel.ticks)) for panel in drawn] == [
        ("jpeg", ["none", "90", "50"]),
        ("crop", ["none", "0.9"]),
    ]
    found = _points(attack_curves(drawn, name="a", title="t", width=width))
    assert [estimate for estimate, _ in found] == [1, 0.5, 0, 1, 0.5, 0, 1, 0.25, 1, 0.25]
    one, half, zero = (y for _, y in found[:3])
    assert half - one == pytest.approx(zero - half)
    assert found[7][1] - found[6][1] == pytest.approx(0.75 * (zero - one))


def test_a_missing_strength_breaks_the_line_and_names_are_escaped() -> None:
    table = _table()
    table = table[~((table["mark"] == "sd-v1") & (table["strength"] == 90))]
    source = attack_curves(panels(table, 1e-3), name="a", title="<t>", width=PANELS)
    assert "a<b>" not in source and "a&lt;b&gt;" in source
    # none–50 of sd-v1 is interrupted; none–90–50 of the other, none–0.9 of both; two in the legend.
    curves = [e for e in ElementTree.fromstring(source).iter() if e.get("class") == "curve"]
    assert len(curves) == 2 + 2 + 2


def test_equal_promised_and_realised_rates_lie_on_the_diagonal() -> None:
    marks = {"m": [(rate, Mark("", rate, rate / 2, rate * 2, 1000)) for rate in (0.001, 0.01, 0.1)]}
    source = promised_and_realised(marks, name="n", title="t")
    (axis,) = (e for e in ElementTree.fromstring(source).iter() if e.get("class") == "axis")
    x1, y1, x2, y2 = (float(axis.attrib[name]) for name in ("x1", "y1", "x2", "y2"))
    groups = [g for g in ElementTree.fromstring(source).iter() if "data-estimate" in g.attrib]
    assert len(groups) == 3
    for group in groups:
        x, y = float(group[-1].attrib["cx"]), float(group[-1].attrib["cy"])
        assert y == pytest.approx(y1 + (x - x1) / (x2 - x1) * (y2 - y1), abs=0.02)


def test_a_rate_without_events_stands_on_the_edge_with_its_bound() -> None:
    marks = {"m": [(0.01, Mark("", 0.0, 0.0, 0.14, 24))]}
    source = promised_and_realised(marks, name="n", title="t")
    (point,) = (g for g in ElementTree.fromstring(source).iter() if "data-estimate" in g.attrib)
    interval, shape = point
    assert float(interval.attrib["y1"]) == float(shape.attrib["cy"])
    assert float(interval.attrib["y2"]) < float(interval.attrib["y1"])


def test_the_card_draws_both_figures_from_the_tables_of_the_run(tmp_path: Path) -> None:
    run = build(tmp_path / "run", images=1)
    run.write_table("tables/watermarks.robustness", _table().rename(columns={"mark": "codec"}))
    null = pd.DataFrame(
        [{"codec": "sd-v1", "nominal": 0.01, "realised": 0.25, "low": 0.1, "high": 0.4, "n": 24}]
    )
    run.write_table("tables/watermarks.null", null)
    run.write_json(
        "findings.json",
        [
            {"probe": "watermarks", "metric": "detection_rate", "slice": {"codec": "sd-v1"},
             "estimate": 0.0, "ci": [0.0, 0.14], "n": 24, "verdict": "within", "note": "None."}
        ],
    )  # fmt: skip
    page = write(run, ["html"])["html"].read_text(encoding="utf-8")
    assert "Marks found, by attack and strength: share of marked images" in page
    assert "False alarms on clean images: promised and realised, of 24 images" in page
    assert f'id="attacks-{PANELS}-title"' in page and 'id="false-alarms-560-title"' in page
