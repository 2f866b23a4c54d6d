"""A figure's marks lie where the data say."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from audit.card.figures import NARROW, Curve, against_reference, duplication, forest, ladder, roc
from audit.card.strokes import Mark
from audit.card.wording import percent, signed

SVG = "{http://www.w3.org/2000/svg}"
MARKS = [
    Mark("nurse", 0.9, 0.8, 0.96, 98, reference=0.88, verdict="within"),
    Mark("doctor", 0.1, 0.05, 0.2, 98, reference=0.44, verdict="exceeds"),
    Mark("judge", 0.5, None, None, 7),
    Mark('<script> & "pilot"', None, n=0),
]


def parsed(source: str) -> ElementTree.Element:
    return ElementTree.fromstring(source)


def points(svg: ElementTree.Element) -> list[tuple[float, float, float]]:
    """(estimate, cx, cy) of every point."""
    found = []
    for group in svg.iter(f"{SVG}g"):
        if "data-estimate" in group.attrib:
            shape = group[-1]
            x = shape.get("cx") or shape.get("data-cx")
            y = shape.get("cy") or shape.get("data-cy")
            assert x is not None
            assert y is not None
            found.append((float(group.attrib["data-estimate"]), float(x), float(y)))
    return found


def axis(svg: ElementTree.Element) -> tuple[float, float]:
    """Pixels of 0 and 1, read from the labels of the ticks."""
    ticks = {text.text: float(text.attrib["x"]) for text in svg.iter(f"{SVG}text")}
    return ticks["0%"], ticks["100%"]


def test_in_the_narrow_form_a_long_label_stands_above_its_value() -> None:
    short = [Mark("grey", 0.5, 0.4, 0.6, 9)]
    long = [Mark("denylist-stemmed · translation", 0.1, 0.05, 0.3, 9), *short]
    for marks, beside in ((short, True), (long, False)):
        svg = parsed(
            forest(marks, name="f", title="t", show=percent, axis="", domain=(0, 1), width=NARROW)
        )
        at = {str(text.text): float(text.attrib["y"]) for text in svg.iter(f"{SVG}text")}
        value = next(y for text, y in at.items() if text.startswith("50.0% (40"))
        assert (at["grey"] == value) is beside
        assert all(mark.label in at for mark in marks)  # whole
        assert points(svg)[-1][2] > value


@pytest.mark.parametrize("width", [760, NARROW])
def test_a_forests_points_lie_on_the_axis_of_its_ticks(width: int) -> None:
    svg = parsed(
        forest(MARKS, name="f", title="t", show=percent, axis="a", domain=(0, 1), width=width)
    )
    zero, one = axis(svg)
    drawn = points(svg)
    assert [estimate for estimate, *_ in drawn] == [0.9, 0.1, 0.5]
    for estimate, x, _ in drawn:
        assert x == pytest.approx(zero + estimate * (one - zero), abs=0.02)
    assert [y for *_, y in drawn] == sorted(y for *_, y in drawn)


def test_intervals_and_references_lie_on_the_axis_too() -> None:
    svg = parsed(forest(MARKS, name="f", title="t", show=percent, axis="a", domain=(0, 1)))
    zero, one = axis(svg)
    lines = [line for line in svg.iter(f"{SVG}line") if line.get("class") == "interval"]
    spans = [
        [(float(line.attrib[end]) - zero) / (one - zero) for end in ("x1", "x2")] for line in lines
    ]
    assert spans == [pytest.approx([0.8, 0.96], abs=1e-3), pytest.approx([0.05, 0.2], abs=1e-3)]
    marks = [line for line in svg.iter(f"{SVG}line") if line.get("class") == "reference"]
    at = [(float(line.attrib["x1"]) - zero) / (one - zero) for line in marks[1:]]  # 0: the legend
    assert at == pytest.approx([0.88, 0.44], abs=1e-3)


def test_every_number_in_a_figure_stands_with_its_n() -> None:
    svg = parsed(forest(MARKS, name="f", title="t", show=percent, axis="a"))
    said = [text.text or "" for text in svg.iter(f"{SVG}text")]
    assert "90.0% (80.0% to 96.0%) n 98" in said
    assert "50.0% n 7" in said
    assert "not measured" in said


def test_a_verdict_has_a_shape_and_not_only_a_colour() -> None:
    svg = parsed(forest(MARKS, name="f", title="t", show=percent, axis="a"))
    shapes = {
        (group.get("class") or "").split()[-1]: group[-1].tag.removeprefix(SVG)
        for group in svg.iter(f"{SVG}g")
        if "data-estimate" in group.attrib
    }
    assert shapes == {"within": "circle", "exceeds": "path", "inconclusive": "circle"}


def test_text_of_the_run_is_text_in_a_figure() -> None:
    svg = parsed(forest(MARKS, name="f", title="<b>", show=percent, axis="a"))
    assert not list(svg.iter(f"{SVG}script"))
    assert '<script> & "pilot"' in [text.text for text in svg.iter(f"{SVG}text")]
    assert svg[0].text == "<b>"


def test_a_ladder_puts_the_largest_loss_first_and_starts_at_zero() -> None:
    marks = [
        Mark("de", -0.01, -0.02, 0.0, 50),
        Mark("ru", -0.06, -0.07, -0.05, 50),
        Mark("zh", None),
        Mark("es", 0.02, 0.01, 0.03, 50),
    ]
    svg = parsed(ladder(marks, name="l", title="t", show=signed, axis="a"))
    drawn = points(svg)
    assert [estimate for estimate, *_ in drawn] == [-0.06, -0.01, 0.02]
    stems = [
        float(line.attrib["x1"]) for line in svg.iter(f"{SVG}line") if line.get("class") == "stem"
    ]
    zero = stems[0]
    assert set(stems) == {zero}
    scale = [(x - zero) / estimate for estimate, x, _ in drawn]
    assert scale == pytest.approx([scale[0]] * 3, rel=0.01)


def test_the_duplication_curve_is_logarithmic_and_keeps_zero_apart() -> None:
    shares = {0: 0.0, 1: 0.1, 10: 0.5, 100: 1.0}
    marks = [
        (copies, Mark(str(copies), share, share, share, 20)) for copies, share in shares.items()
    ]
    svg = parsed(duplication(marks, name="d", title="t", axis="copied"))
    (_, never, bottom), (_, one, _), (_, ten, half), (_, hundred, top) = points(svg)
    assert hundred - ten == pytest.approx(ten - one, abs=0.02)
    assert never < one
    assert half == pytest.approx((bottom + top) / 2, abs=0.02)
    curves = [line for line in svg.iter(f"{SVG}line") if line.get("class") == "curve"]
    assert len(curves) == 2  # no line leads to the captions that were never seen
    assert {float(c.attrib["x1"]) for c in curves} == {one, ten}


def test_a_share_stands_above_its_reference_and_the_unknown_has_no_place() -> None:
    svg = parsed(against_reference(MARKS, name="s", title="t", across="planted"))
    (_, x1, y1), (_, x2, y2) = points(svg)  # nurse .9 at .88, doctor .1 at .44
    diagonal = next(
        line for line in svg.iter(f"{SVG}line")
        if line.get("class") == "axis" and line.get("stroke-dasharray")
    )  # fmt: skip
    zero_x, zero_y, one_x, one_y = (float(diagonal.attrib[k]) for k in ("x1", "y1", "x2", "y2"))
    for at, (x, y) in {(0.88, 0.9): (x1, y1), (0.44, 0.1): (x2, y2)}.items():
        assert (x - zero_x) / (one_x - zero_x) == pytest.approx(at[0], abs=1e-3)
        assert (y - zero_y) / (one_y - zero_y) == pytest.approx(at[1], abs=1e-3)


def test_a_roc_curve_passes_through_its_points() -> None:
    corners = [(0.0, 0.0), (0.25, 0.75), (1.0, 1.0)]
    svg = parsed(roc([Curve("checker", corners)], name="r", title="t"))
    line = next(svg.iter(f"{SVG}polyline")).attrib["points"]
    (x0, y0), (x, y), (x1, y1) = (map(float, pair.split(",")) for pair in line.split())
    assert (x - x0) / (x1 - x0) == pytest.approx(0.25, abs=1e-3)
    assert (y - y0) / (y1 - y0) == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize(
    "marks",
    [
        [],
        [Mark("a", 0.5, 0.5, 0.5, 1)],
        [Mark("a", None)],
        [Mark("a", -3e6, -4e6, -2e6, 2)],
    ],
)
def test_odd_data_still_give_a_figure_with_finite_positions(marks: list[Mark]) -> None:
    pairs = [(index, mark) for index, mark in enumerate(marks)]
    for source in (
        forest(marks, name="f", title="t", show=percent, axis="a"),
        ladder(marks, name="f", title="t", show=signed, axis="a"),
        duplication(pairs, name="f", title="t", axis="a"),
        roc([Curve("empty", [])], name="f", title="t"),
    ):
        for value in re.findall(r'(?<!\w)(?:x|y|cx|cy|x1|x2|y1|y2)="([^"]*)"', source):
            assert math.isfinite(float(value))
        parsed(source)


def test_every_figure_is_described_for_those_who_do_not_see_it() -> None:
    svg = parsed(forest(MARKS, name="f", title="Shares", show=percent, axis="a"))
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-labelledby"] == "f-title f-desc"
    assert svg[0].text == "Shares"
    assert "nurse: 90.0% (80.0% to 96.0%) n 98, reference 88.0%, within" in (svg[1].text or "")
