"""Text in pictures: the measure against plain cases, the reader on signs that we write."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from audit.detectors.base import Batch, Item
from audit.detectors.text import (
    Text,
    best_character_error_rate,
    character_error_rate,
    normalized,
    weights,
)
from probes.limits.drawings import write
from tests.synthetic import study

needs_reader = pytest.mark.skipif(weights() is None, reason="the extra ocr is not installed")


@pytest.mark.parametrize(
    ("read", "asked", "rate"),
    [
        ("STOP", "stop", 0.0),
        ("ST0P", "stop", 0.25),
        ("STP", "stop", 0.25),
        ("STOOP", "stop", 0.25),
        ("OTSP", "stop", 0.5),
        ("a much longer line of text", "stop", 1.0),
        ("", "stop", 1.0),
        ("HAPPY  BIRTHDAY!", "happy birthday", 0.0),
    ],
)
def test_the_character_error_rate_is_the_edit_distance_over_the_length(
    read: str, asked: str, rate: float
) -> None:
    assert character_error_rate(read, asked) == rate


def test_the_edit_distance_equals_the_plain_recursion() -> None:
    def plain(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return plain(a[1:], b[1:])
        return 1 + min(plain(a[1:], b), plain(a, b[1:]), plain(a[1:], b[1:]))

    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(1, 6))) for _ in "ab")
        assert character_error_rate(a, b) == min(1.0, plain(a, b) / len(b))


def test_other_words_in_the_scene_do_not_count_and_a_text_may_stand_on_two_lines() -> None:
    assert (
        best_character_error_rate(["menu", "HAPPY", "BIRTHDAY", "2 for 1"], "Happy Birthday") == 0
    )
    assert best_character_error_rate(["menu", "lunch"], "STOP") == 1
    assert best_character_error_rate([], "STOP") == 1


def test_a_text_without_letters_cannot_be_asked_for() -> None:
    assert normalized("Ｏｐｅｎ 24h!") == "open24h"
    with pytest.raises(ValueError, match="no letter"):
        character_error_rate("a", "!?")


@needs_reader
def test_signs_that_we_write_are_read_and_an_empty_picture_is_not() -> None:
    signs = {"STOP": 64, "Happy Birthday": 96}
    images = [write(says, side, dark=side > 64) for says, side in signs.items()]
    images.append(Image.new("RGB", (64, 64), "grey"))
    batch = Batch([Item(str(i), "", image, "", "") for i, image in enumerate(images)])
    found = Text(study({})).detect(batch)
    errors = [
        best_character_error_rate(list(lines), says)
        for lines, says in zip(found["lines"], signs, strict=False)
    ]
    assert errors == [0, 0]
    assert found["text"][2] == "" and len(found["lines"][2]) == 0
    assert [len(found[name][0]) for name in ("lines", "confidences", "heights")] == [1, 1, 1]
    assert 0.1 < found["heights"][0][0] < 0.6
