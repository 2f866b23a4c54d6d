"""Pictures whose content is known because we draw them: what an instrument must get right."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from audit.errors import AuditError

SIDE = 256
_SMOOTH = 2
"""Drawn at twice the size and reduced, which smooths the edges."""
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "blue": (35, 75, 200),
    "green": (30, 140, 60),
    "yellow": (240, 205, 40),
    "purple": (130, 60, 170),
    "orange": (240, 130, 30),
    "black": (30, 30, 34),
    "white": (250, 250, 250),
}
SHAPES = ("cube", "sphere", "cone", "cylinder", "star", "heart")
PLACES: Mapping[str, tuple[float, float]] = {
    "left": (0.28, 0.5),
    "right": (0.72, 0.5),
    "above": (0.5, 0.28),
    "below": (0.5, 0.72),
}
_ENTRY = re.compile(r"(?:(?P<count>[1-9]) )?(?P<colour>\w+) (?P<shape>\w+)(?: (?P<place>\w+))?")

Point = tuple[float, float]


def check(drawing: Any, where: str) -> None:
    """Whether a drawing can be drawn.

    Raises:
        AuditError: one line with `where` and what cannot be understood.
    """
    if isinstance(drawing, Mapping):
        try:
            _portrait(drawing, "check")
        except (KeyError, TypeError, ValueError) as error:
            raise AuditError(f"{where}: no portrait of the phantom is {dict(drawing)}") from error
        return
    entries = drawing.split(",") if isinstance(drawing, str) else [""]
    for entry in entries:
        match = _ENTRY.fullmatch(entry.strip())
        if (
            not match
            or match["colour"] not in COLOURS
            or match["shape"] not in SHAPES
            or (match["place"] or "left") not in PLACES
        ):
            raise AuditError(
                f"{where}: cannot draw '{entry.strip()}': write [COUNT] COLOUR SHAPE [PLACE], with "
                f"the colours {', '.join(COLOURS)}, the shapes {', '.join(SHAPES)} and the places "
                f"{', '.join(PLACES)}"
            )


def draw(drawing: Any, seed: int, side: int = SIDE) -> Image.Image:
    """A scene, RGB, `side` × `side`; sizes, places and the background vary with the seed.

    Args:
        drawing: ``red cube left, blue sphere right`` or ``3 red sphere``; or a portrait of the
            phantom, as a mapping of ``occupation``, ``background``, ``sign``, ``glasses``,
            ``gender``; what it does not say varies with the seed.
    """
    if isinstance(drawing, Mapping):
        return _portrait(drawing, str(seed)).resize((side, side), Image.Resampling.BICUBIC)
    rng = random.Random(f"{drawing} {seed}")
    tone = rng.randint(205, 240)
    unit = side * _SMOOTH
    canvas = Image.new("RGB", (unit, unit), (tone, tone, min(255, tone + rng.randint(0, 10))))
    pen = ImageDraw.Draw(canvas)
    placed: list[tuple[str, str, Point | None]] = []
    for entry in drawing.split(","):
        match = _ENTRY.fullmatch(entry.strip())
        assert match
        at = PLACES[match["place"]] if match["place"] else None
        placed += [(match["colour"], match["shape"], at)] * int(match["count"] or 1)
    free = _grid(sum(at is None for _, _, at in placed), rng)
    size = 0.17 if len(placed) <= 4 else 0.12
    for colour, shape, at in placed:
        x, y = free.pop() if at is None else at
        x, y = x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)
        _shape(
            pen, shape, COLOURS[colour], (x * unit, y * unit), size * unit * rng.uniform(0.85, 1)
        )
    return canvas.resize((side, side), Image.Resampling.LANCZOS)


def write(text: str, side: int, height: float = 1.0, *, dark: bool = False) -> Image.Image:
    """Words in plain letters on a sign, RGB, `side` × `side`.

    Args:
        height: of the capitals as a share of the side, at most; they shrink to what fits.
        dark: light letters on a dark sign.
    """
    paper, ink = ((24, 60, 110), (250, 250, 250)) if dark else ((250, 250, 250), (24, 24, 28))
    image = Image.new("RGB", (side, side), (150, 165, 160))
    pen = ImageDraw.Draw(image)
    size = max(4, round(side * height))
    lines = _lines(text)
    font = ImageFont.load_default(size)
    while size > 4 and _width(pen, lines, font) > side * 0.86:
        size = min(size - 1, int(size * side * 0.86 / _width(pen, lines, font)) + 1)
        font = ImageFont.load_default(size)
    step = size * 1.25
    reach = step * len(lines) / 2 + size * 0.25
    pen.rectangle((side * 0.03, side / 2 - reach, side * 0.97, side / 2 + reach), fill=paper)
    for number, line in enumerate(lines):
        y = side / 2 + (number - (len(lines) - 1) / 2) * step
        pen.text((side / 2, y), line, fill=ink, font=font, anchor="mm")
    return image


def _lines(text: str) -> list[str]:
    """Two words and more stand on lines of at most ten letters, where they can."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < 10:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _width(pen: ImageDraw.ImageDraw, lines: Sequence[str], font: Any) -> float:
    return max(pen.textlength(line, font=font) for line in lines)


def _grid(count: int, rng: random.Random) -> list[Point]:
    columns = math.ceil(math.sqrt(count)) if count else 1
    rows = math.ceil(count / columns) if count else 1
    places = [
        ((column + 0.5) / columns, (row + 0.5) / rows)
        for row in range(rows)
        for column in range(columns)
    ]
    rng.shuffle(places)
    return places[:count]


def _shape(
    pen: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], at: Point, r: float
) -> None:
    x, y = at
    light, dark = _shaded(colour, 1.3), _shaded(colour, 0.65)
    if shape == "sphere":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=dark, width=int(r / 12) + 1)
        pen.ellipse((x - 0.55 * r, y - 0.65 * r, x - 0.1 * r, y - 0.25 * r), fill=light)
    elif shape == "cube":
        d = 0.45 * r
        x0, y0, x1, y1 = x - r, y - r + d, x + r - d, y + r
        pen.rectangle((x0, y0, x1, y1), fill=colour)
        pen.polygon([(x0, y0), (x0 + d, y0 - d), (x1 + d, y0 - d), (x1, y0)], fill=light)
        pen.polygon([(x1, y0), (x1 + d, y0 - d), (x1 + d, y1 - d), (x1, y1)], fill=dark)
    elif shape == "cone":
        pen.ellipse((x - r, y + 0.55 * r, x + r, y + r * 1.1), fill=dark)
        pen.polygon([(x - r, y + 0.82 * r), (x, y - 1.1 * r), (x + r, y + 0.82 * r)], fill=colour)
    elif shape == "cylinder":
        w, h = 0.75 * r, 0.28 * r
        pen.ellipse((x - w, y + r - h, x + w, y + r + h), fill=colour)
        pen.rectangle((x - w, y - r, x + w, y + r), fill=colour)
        pen.ellipse((x - w, y - r - h, x + w, y - r + h), fill=light, outline=dark)
    else:
        pen.polygon([(x + r * px, y + r * py) for px, py in _OUTLINES[shape]()], fill=colour)


def _shaded(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (min(255, int(part * factor + (30 if factor > 1 else 0))) for part in colour)
    return red, green, blue


def _star() -> list[Point]:
    return [
        (math.sin(k * math.pi / 5) * (1, 0.4)[k % 2], -math.cos(k * math.pi / 5) * (1, 0.4)[k % 2])
        for k in range(10)
    ]


def _heart() -> list[Point]:
    turns = [k * math.tau / 60 for k in range(60)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]


_OUTLINES: Mapping[str, Callable[[], list[Point]]] = {"star": _star, "heart": _heart}


def _portrait(asked: Mapping[str, Any], key: str) -> Image.Image:
    """The phantom's own drawing; what is not asked for varies with the key."""
    from audit.phantom import vocabulary as words
    from audit.phantom.drawing import Look
    from audit.phantom.drawing import draw as portrait

    rng = random.Random(f"{sorted(asked.items())} {key}")
    look: dict[str, Any] = {
        "occupation": rng.choice(words.OCCUPATIONS),
        "gender": rng.choice(words.GENDERS),
        "glasses": rng.random() < 0.5,
        "sign": "none",
        "background": rng.choice(words.BACKGROUNDS),
    }
    if unknown := set(asked) - set(look):
        raise KeyError(unknown)
    look |= asked
    known = (words.OCCUPATIONS, words.GENDERS, (True, False), words.SIGNS, words.BACKGROUNDS)
    if any(value not in among for value, among in zip(look.values(), known, strict=True)):
        raise ValueError(look)
    tone = rng.choice([tone for band in words.TONES.values() for tone in band])
    return portrait(Look(f"limits {key}", tone=tone, **look))
