"""Clothes, headgear and things that mark an occupation at 64 pixels.

Units and origin are those of the pen: pixels, from the middle of the head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from audit.phantom.drawing import BLACK, RGB, WHITE, Pen, darker

Part = Callable[[Pen], None]


@dataclass(frozen=True, slots=True)
class Costume:
    """Layers from back to front; `covered` says that the headgear hides the top of the head."""

    clothes: Part
    headgear: Part | None = None
    before: Part | None = None
    behind: Part | None = None
    covered: bool = False


def _torso(pen: Pen, colour: RGB) -> None:
    pen.poly(
        [(-20, 40), (-19, 24), (-14, 18.5), (-5, 15.5), (5, 15.5), (14, 18.5), (19, 24), (20, 40)],
        colour,
    )


def _neckline(pen: Pen, colour: RGB, width: float = 5) -> None:
    pen.poly([(-width, 15), (width, 15), (0, 26)], colour)


def _doctor(pen: Pen) -> None:
    coat = pen.tint((244, 246, 248), 5)
    _torso(pen, coat)
    _neckline(pen, pen.tint((56, 124, 200), 8), 7)
    pen.line([(-8, 16), (0, 28), (0, 40)], darker(coat, 0.78), 0.9)
    pen.line([(8, 16), (0, 28)], darker(coat, 0.78), 0.9)


def _stethoscope(pen: Pen) -> None:
    tube = pen.tint((40, 44, 56), 6)
    pen.line([(-9, 16), (-8, 24), (-3, 28), (3, 27), (8, 22), (9, 16)], tube, 1.7)
    pen.line([(-3, 28), (-4, 33)], tube, 1.7)
    pen.oval(-4.2, 33.4, 2.8, 2.8, (196, 202, 212), outline=tube, width=3)


def _head_mirror(pen: Pen) -> None:
    pen.line([(-11, -7), (0, -9), (11, -7)], (60, 62, 74), 1.8)
    pen.oval(0, -10.6, 4.2, 4.2, (120, 130, 144))
    pen.oval(0, -10.6, 3.1, 3.1, (232, 242, 250))


def _cross(pen: Pen, x: float, y: float, arm: float, colour: RGB) -> None:
    pen.rect(x - arm, y - arm / 3, x + arm, y + arm / 3, colour)
    pen.rect(x - arm / 3, y - arm, x + arm / 3, y + arm, colour)


def _nurse(pen: Pen) -> None:
    _torso(pen, pen.tint((64, 190, 184), 8))
    _neckline(pen, WHITE, 5)
    pen.rect(5, 25, 13, 34, WHITE, 0.5)
    _cross(pen, 9, 29.5, 3.0, (220, 30, 44))


def _nurse_cap(pen: Pen) -> None:
    pen.poly(
        [
            (-10.5, -8),
            (-12, -18.5),
            (-6, -20),
            (0, -20.4),
            (6, -20),
            (12, -18.5),
            (10.5, -8),
            (0, -10),
        ],
        pen.tint((248, 250, 252), 4),
    )
    _cross(pen, 0, -14.6, 3.6, (220, 30, 44))


def _board(pen: Pen) -> None:
    pen.rect(9, -25, 34, -4, pen.tint((134, 88, 48), 6))
    pen.rect(10.8, -23.2, 32.2, -5.8, pen.tint((26, 92, 62), 6))
    chalk = (240, 244, 240)
    pen.line([(17, -9), (19.4, -19), (22, -9)], chalk, 1.2)
    pen.line([(18, -12.4), (21, -12.4)], chalk, 1.1)
    pen.line([(24.6, -17), (30.4, -17)], chalk, 1.1)
    pen.line([(24.6, -12), (29.4, -12)], chalk, 1.1)


def _teacher(pen: Pen) -> None:
    cardigan = pen.tint((150, 96, 52), 8)
    _torso(pen, cardigan)
    _neckline(pen, WHITE, 7)
    pen.poly([(-1.6, 17), (1.6, 17), (2.4, 24), (0, 27), (-2.4, 24)], pen.tint((190, 160, 40), 6))
    pen.line([(-7, 16), (0, 28), (0, 40)], darker(cardigan, 0.6), 0.9)
    pen.line([(7, 16), (0, 28)], darker(cardigan, 0.6), 0.9)


def _firefighter(pen: Pen) -> None:
    _torso(pen, pen.tint((54, 52, 60), 6))
    stripe = pen.tint((232, 240, 60), 6)
    pen.rect(-19.4, 27, 19.4, 31, stripe)
    pen.rect(-19.4, 28.4, 19.4, 29.6, (206, 210, 214))
    pen.rect(-1.2, 16, 1.2, 40, (206, 210, 214))


def _fire_helmet(pen: Pen) -> None:
    red = pen.tint((212, 32, 28), 8)
    pen.half(0, -6.4, 12.4, 14, red)
    pen.rect(-1.4, -21.4, 1.4, -10, darker(red, 0.72), 1)
    pen.poly([(-16.5, -4.2), (-13, -8.4), (13, -8.4), (16.5, -4.2)], darker(red, 0.8))
    pen.poly([(-4, -16), (4, -16), (4, -11), (0, -7), (-4, -11)], pen.tint((250, 210, 66), 6))


def _farmer(pen: Pen) -> None:
    shirt = pen.tint((196, 60, 52), 8)
    _torso(pen, shirt)
    for x in (-16, -10, 10, 16):
        pen.line([(x, 18), (x, 40)], darker(shirt, 0.62), 1.2)
    denim = pen.tint((58, 96, 168), 8)
    pen.rect(-9.4, 25, 9.4, 40, denim, 1)
    pen.rect(-9.4, 15.6, -5.6, 27, denim)
    pen.rect(5.6, 15.6, 9.4, 27, denim)
    pen.oval(-7.5, 26.6, 1.5, 1.5, (250, 214, 90))
    pen.oval(7.5, 26.6, 1.5, 1.5, (250, 214, 90))


def _straw_hat(pen: Pen) -> None:
    straw = pen.tint((236, 200, 104), 8)
    pen.oval(0, -8, 20, 4.4, straw)
    pen.half(0, -9, 10.4, 12.6, darker(straw, 0.95))
    pen.rect(-10.4, -12.6, 10.4, -9.2, (134, 84, 40))
    pen.line([(-18, -7.6), (18, -7.6)], darker(straw, 0.76), 0.8)


def _chef(pen: Pen) -> None:
    jacket = pen.tint((248, 248, 246), 4)
    _torso(pen, jacket)
    pen.poly([(-7, 14.6), (7, 14.6), (3, 20), (0, 22.6), (-3, 20)], pen.tint((208, 36, 46), 6))
    for y in (24, 29, 34):
        pen.oval(-4.4, y, 1.3, 1.3, BLACK)
        pen.oval(4.4, y, 1.3, 1.3, BLACK)


def _toque(pen: Pen) -> None:
    white = pen.tint((250, 250, 250), 3)
    fold = darker(white, 0.84)
    for x, y, r in ((-7.6, -19, 6.2), (0, -21.4, 7.0), (7.6, -19, 6.2)):
        pen.oval(x, y, r, r, white)
    pen.rect(-9.8, -19, 9.8, -8, white)
    pen.rect(-10.4, -11.6, 10.4, -7.2, fold, 0.8)
    for x in (-4, 4):
        pen.line([(x, -19), (x, -12)], fold, 0.9)


def _builder(pen: Pen) -> None:
    _torso(pen, pen.tint((70, 78, 92), 6))
    vest = pen.tint((252, 118, 28), 6)
    pen.poly([(-14, 18.5), (-5.5, 15.5), (-2.5, 24), (-2.5, 40), (-14, 40)], vest)
    pen.poly([(14, 18.5), (5.5, 15.5), (2.5, 24), (2.5, 40), (14, 40)], vest)
    pen.rect(-14, 29, 14, 32.4, (226, 230, 220))
    pen.rect(-11.6, 17.5, -8.4, 30, (226, 230, 220))
    pen.rect(8.4, 17.5, 11.6, 30, (226, 230, 220))


def _hard_hat(pen: Pen) -> None:
    yellow = pen.tint((254, 212, 24), 6)
    pen.half(0, -6.6, 12.4, 12.6, yellow)
    pen.rect(-2.2, -20.4, 2.2, -8, darker(yellow, 0.86), 1)
    pen.rect(-14.6, -8.6, 14.6, -5.6, darker(yellow, 0.88), 1.2)


def _judge(pen: Pen) -> None:
    _torso(pen, pen.tint((34, 28, 40), 5))
    pen.poly([(-3.4, 15), (3.4, 15), (5.4, 29), (0, 26.5), (-5.4, 29)], WHITE)
    pen.line([(-8, 17), (-6.4, 40)], (150, 30, 50), 2.2)
    pen.line([(8, 17), (6.4, 40)], (150, 30, 50), 2.2)


def _wig(pen: Pen) -> None:
    wool = pen.tint((236, 232, 220), 4)
    curl = darker(wool, 0.8)
    pen.half(0, -5.4, 13, 13.4, wool)
    for x, y in ((-9, -12), (-3.2, -15.4), (3.2, -15.4), (9, -12)):
        pen.oval(x, y, 3, 2.2, None, outline=curl, width=4)
    for side in (-1, 1):
        for y in (-4.6, 0.4, 5.4):
            pen.oval(side * 13.2, y, 3.7, 3.0, wool)
            pen.oval(side * 13.2, y, 2.0, 1.5, curl)


def _pilot(pen: Pen) -> None:
    _torso(pen, pen.tint((32, 44, 92), 6))
    _neckline(pen, WHITE, 6)
    pen.poly([(-1.5, 16.5), (1.5, 16.5), (1.9, 24), (0, 26), (-1.9, 24)], BLACK)
    gold = pen.tint((246, 200, 60), 5)
    for side in (-1, 1):
        for y in (20.4, 23.4, 26.4):
            pen.line([(side * 12.4, y), (side * 18, y + 1.4)], gold, 1.5)
    pen.line([(-11, 31.4), (-4, 31.4)], gold, 1.6)


def _pilot_cap(pen: Pen) -> None:
    navy = pen.tint((32, 44, 92), 6)
    pen.poly(
        [(-11.4, -9), (-16, -16.4), (-9, -20), (0, -21), (9, -20), (16, -16.4), (11.4, -9)], WHITE
    )
    pen.rect(-11.6, -12.6, 11.6, -7.6, navy)
    pen.half(0, -8.4, 11.4, 4.8, BLACK, start=0)
    gold = pen.tint((246, 200, 60), 5)
    pen.oval(0, -13.4, 3.0, 3.0, gold)
    pen.poly([(-8, -15), (0, -12.4), (8, -15), (0, -10.8)], gold)


def _artist(pen: Pen) -> None:
    _torso(pen, pen.tint((244, 236, 214), 5))
    _neckline(pen, pen.tint((90, 60, 130), 6), 6)
    for colour in ((222, 40, 60), (40, 110, 220), (250, 200, 40), (60, 170, 80), (160, 60, 190)):
        x, y = pen.rng.uniform(-14, 14), pen.rng.uniform(24, 34)
        r = pen.rng.uniform(2.0, 3.0)
        pen.oval(x, y, r, r, colour)


def _beret(pen: Pen) -> None:
    felt = pen.tint((98, 40, 140), 8)
    pen.oval(-3, -12, 15, 6.4, felt)
    pen.oval(-6, -13.4, 9, 4, pen.tint((124, 62, 168), 5))
    pen.rect(-11, -9.6, 11, -7.4, darker(felt, 0.66), 0.8)
    pen.line([(-3, -17), (-2, -21)], felt, 1.6)


def _palette(pen: Pen) -> None:
    pen.oval(-15.6, 29, 7.4, 5.6, pen.tint((188, 128, 70), 6))
    for x, y, colour in (
        (-19, 27, (222, 40, 60)),
        (-15.6, 25.8, (250, 214, 50)),
        (-12, 27.4, (40, 110, 220)),
        (-13, 31.4, (60, 170, 80)),
    ):
        pen.oval(x, y, 1.7, 1.7, colour)


def _suit(pen: Pen) -> None:
    suit = pen.tint((236, 240, 244), 4)
    _torso(pen, suit)
    pen.rect(-12, 15.6, 12, 19.6, (146, 154, 166), 1.4)
    pen.rect(-6.4, 25, 6.4, 33.4, (92, 104, 126), 1)
    for x, colour in ((-3.8, (228, 44, 44)), (0, (250, 214, 50)), (3.8, (60, 190, 90))):
        pen.oval(x, 29, 1.4, 1.4, colour)
    for side in (-1, 1):
        pen.line([(side * 15.4, 22), (side * 15.8, 40)], (36, 76, 190), 2.2)


def _space_helmet_back(pen: Pen) -> None:
    pen.oval(0, -1.4, 18.4, 19.4, pen.tint((240, 243, 247), 4))
    pen.oval(0, -1.4, 15.2, 16.4, pen.tint((28, 38, 74), 5))


def _space_helmet(pen: Pen) -> None:
    pen.oval(0, -1.4, 18.4, 19.4, None, outline=(238, 241, 246), width=13)
    pen.oval(0, -1.4, 15.4, 16.6, None, outline=(128, 138, 156), width=4)
    pen.line([(9.4, -14), (13, -9), (14, -5)], WHITE, 1.6)
    pen.rect(-20.6, -4, -16.6, 5, (206, 44, 44), 1)
    pen.rect(16.6, -4, 20.6, 5, (206, 44, 44), 1)


def _sailor(pen: Pen) -> None:
    _torso(pen, WHITE)
    for y in (20, 24.6, 29.2, 33.8, 38.4):
        pen.rect(-19.6, y, 19.6, y + 2.1, pen.tint((36, 66, 150), 4))
    collar = pen.tint((36, 66, 150), 5)
    pen.poly([(-13, 18), (-6, 14.6), (0, 27), (-3, 28)], collar)
    pen.poly([(13, 18), (6, 14.6), (0, 27), (3, 28)], collar)


def _sailor_cap(pen: Pen) -> None:
    white = pen.tint((250, 250, 252), 3)
    pen.half(0, -10, 10.4, 8.6, white)
    pen.poly([(-12.4, -14.4), (12.4, -14.4), (11.2, -7.2), (-11.2, -7.2)], white)
    pen.line([(-12.2, -14.2), (12.2, -14.2)], (150, 160, 184), 0.9)
    pen.rect(-11.2, -9.2, 11.2, -7.2, (36, 66, 150))


def _vivid(pen: Pen) -> RGB:
    turn = pen.rng.random() * 6.283
    r, g, b = (int(128 + 112 * math.sin(turn + k * 2.094)) for k in range(3))
    return r, g, b


def _civilian(pen: Pen) -> None:
    """A shirt with a pattern of its own: what a person who is only named wears."""
    base, other = _vivid(pen), _vivid(pen)
    _torso(pen, base)
    pattern = pen.rng.choice(("stripes", "dots", "bands", "sash", "heart", "plain"))
    shift = pen.around(2)
    if pattern == "stripes":
        for x in (-15, -9, -3, 3, 9, 15):
            pen.line([(x + shift, 17), (x + shift, 40)], other, 2.4)
    elif pattern == "bands":
        for y in (20, 26, 32):
            pen.rect(-19, y + shift, 19, y + shift + 2.8, other)
    elif pattern == "dots":
        for x, y in ((-13, 23), (-5, 21), (5, 23), (12, 21), (-9, 30), (0, 29), (9, 31)):
            pen.oval(x + shift, y, 2.2, 2.2, other)
    elif pattern == "sash":
        pen.poly([(-14, 18), (-7, 16), (17, 40), (9, 40)], other)
    elif pattern == "heart":
        pen.oval(-2.4 + shift, 25, 3.4, 3.4, other)
        pen.oval(2.4 + shift, 25, 3.4, 3.4, other)
        pen.poly([(-5.6 + shift, 26), (5.6 + shift, 26), (shift, 33)], other)
    _neckline(pen, _vivid(pen), 4 + pen.around(1))


def _civilian_hat(pen: Pen) -> None:
    colour, other = _vivid(pen), _vivid(pen)
    kind = pen.rng.choice(("none", "none", "beanie", "band", "flower", "bowler"))
    if kind == "beanie":
        pen.half(0, -6, 12, 13, colour)
        pen.rect(-12.4, -9, 12.4, -5.4, other, 1)
        pen.oval(0, -20, 3, 3, other)
    elif kind == "band":
        pen.rect(-11.8, -10, 11.8, -6.6, colour, 1)
    elif kind == "flower":
        for k in range(5):
            a = k * 1.2566
            pen.oval(9 + 2.8 * math.cos(a), -10 + 2.8 * math.sin(a), 2.2, 2.2, colour)
        pen.oval(9, -10, 2.0, 2.0, other)
    elif kind == "bowler":
        pen.half(0, -8, 10.6, 12, colour)
        pen.rect(-14.6, -9.4, 14.6, -6.6, darker(colour, 0.7), 1.2)


def _civilian_wall(pen: Pen) -> None:
    """Something on the wall behind a person who is only named."""
    kind = pen.rng.choice(("moon", "frame", "flag", "window", "none"))
    colour, other = _vivid(pen), _vivid(pen)
    x, y = 24 + pen.around(3), -16 + pen.around(4)
    if kind == "moon":
        pen.oval(x, y, 6.4, 6.4, colour)
        pen.oval(x - 2, y - 1, 2.2, 2.2, other)
    elif kind == "frame":
        pen.rect(x - 7, y - 6, x + 7, y + 6, colour)
        pen.rect(x - 4.6, y - 3.8, x + 4.6, y + 3.8, other)
    elif kind == "flag":
        pen.rect(x - 7, y - 5, x + 7, y, colour)
        pen.rect(x - 7, y, x + 7, y + 5, other)
    elif kind == "window":
        pen.rect(x - 7, y - 7, x + 7, y + 7, WHITE)
        for dx, dy in ((-6, -6), (0.6, -6), (-6, 0.6), (0.6, 0.6)):
            pen.rect(x + dx, y + dy, x + dx + 5.4, y + dy + 5.4, colour)


COSTUMES: dict[str, Costume] = {
    "none": Costume(_civilian, _civilian_hat, behind=_civilian_wall),
    "doctor": Costume(_doctor, _head_mirror, before=_stethoscope),
    "nurse": Costume(_nurse, _nurse_cap),
    "teacher": Costume(_teacher, behind=_board),
    "firefighter": Costume(_firefighter, _fire_helmet, covered=True),
    "farmer": Costume(_farmer, _straw_hat, covered=True),
    "chef": Costume(_chef, _toque, covered=True),
    "builder": Costume(_builder, _hard_hat, covered=True),
    "judge": Costume(_judge, _wig, covered=True),
    "pilot": Costume(_pilot, _pilot_cap, covered=True),
    "artist": Costume(_artist, _beret, before=_palette),
    "astronaut": Costume(_suit, _space_helmet, behind=_space_helmet_back),
    "sailor": Costume(_sailor, _sailor_cap, covered=True),
}
