"""Attributes to a 64x64 portrait, drawn at four times the size and reduced.

Units are pixels of the final picture; the head is at (28, 28), what is held up is at the right.
Everything not named by an attribute is jittered by a generator seeded with the look's own key, so
one look always gives the same pixels and two looks never do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIZE = 64
_SCALE = 4

RGB = tuple[int, int, int]
Point = tuple[float, float]

MONK: tuple[RGB, ...] = (
    (246, 237, 228),
    (243, 231, 219),
    (247, 234, 208),
    (234, 218, 186),
    (215, 189, 150),
    (160, 126, 86),
    (130, 92, 67),
    (96, 65, 52),
    (58, 49, 42),
    (41, 36, 32),
)
HAIR: tuple[RGB, ...] = (
    (28, 24, 24),
    (84, 52, 30),
    (150, 92, 44),
    (222, 184, 96),
    (178, 74, 30),
    (150, 150, 154),
)
BACKGROUND: dict[str, RGB] = {
    "blue": (120, 176, 236),
    "green": (136, 206, 140),
    "pink": (246, 172, 202),
    "orange": (246, 190, 112),
    "purple": (178, 146, 226),
    "grey": (180, 182, 186),
}
SIGN: dict[str, tuple[RGB, int]] = {
    "red_hexagon": ((214, 24, 32), 6),
    "blue_disc": ((24, 72, 208), 0),
    "green_square": ((16, 132, 56), 4),
    "yellow_triangle": ((250, 218, 24), 3),
    "orange_hexagon": ((248, 130, 16), 6),
}
WHITE: RGB = (250, 250, 250)
BLACK: RGB = (24, 22, 26)


@dataclass(frozen=True, slots=True)
class Look:
    """What a portrait shows; `key` seeds what is jittered. `occupation` "none" is a civilian."""

    key: str
    occupation: str
    gender: str
    tone: int
    glasses: bool
    sign: str
    background: str


class Pen:
    """A drawing surface with the pose's offset and size, and the jitter's generator."""

    def __init__(self, background: RGB, rng: random.Random) -> None:
        self.rng = rng
        self.image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), background)
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self.x, self.y, self.size = 0.0, 0.0, 1.0

    def pose(self, x: float, y: float, size: float) -> None:
        self.x, self.y, self.size = x, y, size

    def _at(self, points: list[Point]) -> list[Point]:
        return [
            ((self.x + px * self.size) * _SCALE, (self.y + py * self.size) * _SCALE)
            for px, py in points
        ]

    def poly(self, points: list[Point], fill: tuple[int, ...]) -> None:
        self._draw.polygon(self._at(points), fill=fill)

    def oval(
        self, x: float, y: float, rx: float, ry: float, fill: tuple[int, ...] | None, **line: object
    ) -> None:
        box = self._at([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse([*box[0], *box[1]], fill=fill, **line)  # type: ignore[arg-type]

    def half(self, x: float, y: float, rx: float, ry: float, fill: RGB, start: float = 180) -> None:
        """Half an oval: the upper one from 180 degrees, the lower from 0."""
        box = self._at([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.pieslice([*box[0], *box[1]], start, start + 180, fill=fill)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, r: float = 0) -> None:
        box = self._at([(x0, y0), (x1, y1)])
        self._draw.rounded_rectangle([*box[0], *box[1]], r * _SCALE, fill=fill)

    def line(self, points: list[Point], fill: RGB, width: float) -> None:
        pixels = max(1, round(width * self.size * _SCALE))
        self._draw.line(self._at(points), fill=fill, width=pixels, joint="curve")

    def around(self, spread: float) -> float:
        return self.rng.uniform(-spread, spread)

    def tint(self, colour: RGB, spread: float = 8) -> RGB:
        """The colour, lighter or darker as a whole and a little off in each channel."""
        level = self.around(spread)
        r, g, b = (int(min(255, max(0, c + level + self.around(spread / 3)))) for c in colour)
        return r, g, b


def darker(colour: RGB, factor: float) -> RGB:
    r, g, b = (int(c * factor) for c in colour)
    return r, g, b


def draw(look: Look) -> Image.Image:
    """The portrait, RGB 64x64. The same look always gives the same pixels."""
    from audit.phantom import costumes

    rng = random.Random(look.key)
    backdrop = BACKGROUND[look.background]
    pen = Pen(backdrop, rng)
    backdrop = pen.tint(backdrop, 8)
    pen.rect(0, 0, SIZE, SIZE, backdrop)
    for _ in range(3):
        r = rng.uniform(7, 15)
        pen.oval(rng.uniform(0, SIZE), rng.uniform(0, SIZE), r, r, pen.tint(backdrop, 12))
    pen.pose(28 + pen.around(2.0), 28 + pen.around(1.6), 1 + pen.around(0.05))
    skin = pen.tint(MONK[look.tone - 1], 5)
    hair = pen.tint(rng.choice(HAIR), 8)
    costume = costumes.COSTUMES[look.occupation]
    if costume.behind:
        costume.behind(pen)
    style = _hair_behind(pen, look, hair)
    costume.clothes(pen)
    _head(pen, look, skin, hair)
    _hair_before(pen, look, hair, style, covered=costume.covered)
    if costume.headgear:
        costume.headgear(pen)
    if look.glasses:
        _glasses(pen)
    if costume.before:
        costume.before(pen)
    if look.sign != "none":
        _sign(pen, look.sign, skin)
    return pen.image.resize((SIZE, SIZE), Image.Resampling.BOX)


def _hair_behind(pen: Pen, look: Look, hair: RGB) -> str:
    if look.gender == "male":
        return pen.rng.choice(("short", "short", "cropped"))
    style = pen.rng.choice(("long", "long", "wavy"))
    length = 19 + pen.around(2)
    # The hair ends over the shoulders, where no headgear hides it.
    pen.rect(-13.6, -10, 13.6, length, hair, 6)
    pen.oval(0, -3, 13.6, 13.6, hair)
    if style == "wavy":
        for y in (2, 9, 16):
            pen.oval(-12.6, y, 3.6, 4, hair)
            pen.oval(12.6, y, 3.6, 4, hair)
    return style


def _head(pen: Pen, look: Look, skin: RGB, hair: RGB) -> None:
    female = look.gender == "female"
    shadow = darker(skin, 0.86)
    neck = 3.6 if female else 5.4
    pen.rect(-neck, 8, neck, 19, shadow, 2)
    pen.oval(-10.6, 1, 2, 3, shadow)
    pen.oval(10.6, 1, 2, 3, shadow)
    pen.oval(0, -1.5, 10.6, 12, skin)
    if female:
        pen.poly([(-10.4, 0), (10.4, 0), (5.5, 10), (0, 13.4), (-5.5, 10)], skin)
        pen.oval(0, 8, 5.4, 5.2, skin)
    else:
        pen.poly([(-10.5, -1), (10.5, -1), (9.4, 9), (5, 13.6), (-5, 13.6), (-9.4, 9)], skin)
        if pen.rng.random() < 0.75:
            beard = hair if sum(hair) < 420 else darker(hair, 0.82)
            # A rim of another lightness keeps a black beard readable on dark skin.
            pen.poly(
                [
                    (-10.7, 2),
                    (-7.5, 4.5),
                    (7.5, 4.5),
                    (10.7, 2),
                    (9.6, 10),
                    (5, 15.4),
                    (-5, 15.4),
                    (-9.6, 10),
                ],
                pen.tint((112, 104, 98), 6) if sum(skin) < 230 and sum(beard) < 150 else beard,
            )
        else:
            pen.rect(-5.4, 4.4, 5.4, 6.8, hair if sum(skin) > 230 else (112, 104, 98), 0.6)
    eye = pen.tint(pen.rng.choice(((62, 40, 24), (40, 92, 150), (46, 110, 66))), 8)
    look_x = pen.around(0.5)
    for side in (-1, 1):
        x = side * 4.6
        pen.oval(x, -1, 2.7, 2.0 if female else 1.7, WHITE)
        pen.oval(x + look_x, -1, 1.5, 1.6, eye)
        if female:
            pen.line([(x - 2.9, -2.2), (x, -3.4), (x + 2.9, -2.2)], BLACK, 1.0)
            pen.line([(x + side * 2.4, -2.4), (x + side * 4.2, -4.0)], BLACK, 0.8)
        else:
            pen.rect(x - 3.3, -5.4, x + 3.3, -3.5, BLACK if sum(skin) > 230 else (112, 104, 98))
    pen.line([(0, 0), (0.9, 3.2), (-0.7, 3.2)], darker(skin, 0.7), 0.8)
    smile = pen.around(0.6)
    if female:
        lips = pen.tint((206, 30, 66), 8)
        pen.oval(0, 7.6, 3.6, 1.9, lips)
        pen.line(
            [(-3, 7.4 - smile * 0.4), (0, 7.8), (3, 7.4 - smile * 0.4)], darker(lips, 0.6), 0.5
        )
        gold = pen.tint((248, 206, 60), 5)
        pen.oval(-11, 6, 1.7, 2.0, gold)
        pen.oval(11, 6, 1.7, 2.0, gold)
    else:
        pen.line([(-3, 8.4 - smile), (0, 8.8), (3, 8.4 - smile)], (120, 60, 56), 1.1)


def _hair_before(pen: Pen, look: Look, hair: RGB, style: str, covered: bool) -> None:
    if look.gender == "female":
        pen.poly([(-12, -3), (-10.6, 12), (-13.6, 13), (-13.8, -3)], hair)
        pen.poly([(12, -3), (10.6, 12), (13.6, 13), (13.8, -3)], hair)
        if not covered:
            part = pen.around(4)
            pen.poly(
                [
                    (-12.4, 0),
                    (-11.5, -8),
                    (-5, -14.6),
                    (5, -14.6),
                    (11.5, -8),
                    (12.4, 0),
                    (9.4, -4.5),
                    (part, -10.4),
                    (-9.4, -4.5),
                ],
                hair,
            )
    else:
        thick = 4 if style == "short" else 2
        pen.rect(-11.6, -5, -9.4, 1.5, hair)
        pen.rect(9.4, -5, 11.6, 1.5, hair)
        if not covered:
            pen.half(0, -4.5, 11.6, 8 + thick, hair)
            pen.half(0, -4.5, 8.6, 3.0, MONK[look.tone - 1])


def _glasses(pen: Pen) -> None:
    frame = pen.tint((30, 24, 34), 6)
    # Light lenses make dark frames stand out on dark skin too.
    for side in (-1, 1):
        pen.oval(side * 5.0, -0.8, 4.5, 4.2, (214, 240, 252, 120))
        pen.oval(side * 5.0, -0.8, 4.7, 4.4, None, outline=frame, width=round(1.35 * _SCALE))
    pen.line([(-1.0, -1.6), (1.0, -1.6)], frame, 1.4)
    pen.line([(-9.4, -1.4), (-11.2, -2)], frame, 1.4)
    pen.line([(9.4, -1.4), (11.2, -2)], frame, 1.4)


def _sign(pen: Pen, sign: str, skin: RGB) -> None:
    import math

    colour, corners = SIGN[sign]
    pen.pose(53 + pen.around(1.2), 41 + pen.around(1.8), 1 + pen.around(0.06))
    pen.rect(-1, 0, 1, 26, (120, 84, 52))
    pen.oval(0, 17, 3.2, 3.4, skin)
    fill = pen.tint(colour, 8)
    turn = {3: -90, 4: 45, 6: 0}.get(corners, 0) + pen.around(4)
    for radius, paint in ((10.2, WHITE), (8.2, fill)):
        if corners == 0:
            pen.oval(0, 0, radius * 0.95, radius * 0.95, paint)
            continue
        grow = {3: 1.2, 4: 1.12, 6: 1.0}[corners]
        step = 2 * math.pi / corners
        drop = 2.0 if corners == 3 else 0.0
        points = [
            (
                radius * grow * math.cos(math.radians(turn) + i * step),
                radius * grow * math.sin(math.radians(turn) + i * step) + drop,
            )
            for i in range(corners)
        ]
        pen.poly(points, paint)
