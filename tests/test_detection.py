"""What is planned takes little memory however much it is, and every image is seen once."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from audit.detection import Unseen
from audit.plan import Request, Use, Uses
from audit.store import Run

MANY = 4000


def asked(number: int) -> Iterator[Use]:
    for index in range(number):
        tags = {"subject": f"subject {index % 20}", "arm": "base", "index": index}
        yield Use(Request(f"a portrait of {index % 20}", seed=index, height=768), "a", tags)


def test_uses_are_the_same_each_time_and_take_tens_of_bytes():
    tracemalloc.start()
    uses = Uses(asked(MANY))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / MANY < 30
    assert len(uses) == MANY
    assert list(uses) == list(uses) == list(asked(MANY))


def requests(store: Run, number: int) -> list[Request]:
    """As many requests; all but the last are made, and the first one failed."""
    found = [use.request for use in asked(number)]
    rows = {
        "request": [one.id for one in found[:-1]],
        "image": [None, *(one.id * 2 for one in found[1:-1])],
        "outcome": ["failed", *["ok"] * (number - 2)],
    }
    store.add_part("records", pd.DataFrame(rows))
    return found


def test_an_image_is_seen_once_by_each_detector_that_is_asked(tmp_path: Path):
    store = Run.create(tmp_path / "run")
    failed, first, second, third, unmade = requests(store, 5)
    faces = [Use(one, "faces") for one in (failed, second, first, second, unmade)]
    words = [Use(first, "words"), Use(third, unseen_by=("clip",)), Use(second, "words")]
    unseen = Unseen(store)
    unseen.want(faces, ("clip", "faces"))
    unseen.want(words, ("clip", "ocr"))
    assert unseen.detectors() == ["clip", "faces", "ocr"]
    assert len(unseen) == 3
    unseen.forget("clip", [second.id, unmade.id])
    unseen.forget("faces")
    assert unseen.detectors() == ["clip", "ocr"]
    sights = list(unseen.take([*faces, *words]))
    assert [(sight.request, dict(sight.texts)) for sight in sights] == [
        (second, {"ocr": "words"}),
        (first, {"clip": "faces", "ocr": "words"}),
        (third, {"ocr": third.prompt}),
    ]
    assert [sight.image for sight in sights] == [sight.id * 2 for sight in sights]
    assert len(unseen) == 0 and not list(unseen.take(faces))


def test_without_an_image_there_is_nothing_to_see(tmp_path: Path):
    unseen = Unseen(Run.create(tmp_path / "run"))
    unseen.want(asked(3), ("clip",))
    assert len(unseen) == 0 and unseen.detectors() == []
