"""Drawings, captions and planted shares: no torch needed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from audit.phantom import corpus, path, truth
from audit.phantom import vocabulary as v


def portraits(name: str, occupation: str) -> list[corpus.Item]:
    return [i for i in corpus.load(name).items if i.occupation == occupation]


def test_one_item_always_gives_the_same_pixels() -> None:
    item = corpus.load("phantom").items[321]
    again = corpus.item(item.id)
    assert np.array_equal(np.asarray(item.draw()), np.asarray(again.draw()))
    assert item.draw().size == (64, 64)


def test_two_items_never_give_the_same_pixels() -> None:
    items = corpus.load("phantom").items[::97]
    assert len({i.draw().tobytes() for i in items}) == len(items)


@pytest.mark.parametrize("occupation", v.OCCUPATIONS)
def test_the_corpus_has_exactly_the_planted_shares(occupation: str) -> None:
    own = portraits("phantom", occupation)
    assert np.mean([i.gender == "female" for i in own]) == pytest.approx(
        corpus.PLANTED_FEMALE[occupation], abs=0.002
    )
    assert np.mean([i.glasses for i in own]) == pytest.approx(corpus.PLANTED_GLASSES, abs=0.005)
    for band, wanted in zip(v.SKINS, corpus.PLANTED_SKIN[occupation], strict=True):
        assert np.mean([i.skin == band for i in own]) == pytest.approx(wanted, abs=0.005)


@pytest.mark.parametrize("occupation", v.OCCUPATIONS)
def test_the_null_corpus_is_balanced_exactly(occupation: str) -> None:
    own = portraits("null", occupation)
    assert np.mean([i.gender == "female" for i in own]) == 0.5
    assert np.mean([i.glasses for i in own]) == 0.5
    for band in v.SKINS:
        assert np.mean([i.skin == band for i in own]) == pytest.approx(1 / 3)
    for language in v.LANGUAGES:
        assert sum(i.language == language for i in own) * 3 == len(own)
    assert all(i.copies == 1 for i in own)


def test_signs_are_counterbalanced_with_occupations() -> None:
    for occupation in v.OCCUPATIONS:
        own = portraits("phantom", occupation)
        for sign in v.SIGNS:
            wanted = 0.5 if sign == "none" else 0.1
            assert np.mean([i.sign == sign for i in own]) == pytest.approx(wanted, abs=0.01)


def test_swahili_is_starved_and_turkish_is_not() -> None:
    rows = list(corpus.load("phantom").rows())
    count = {c: sum(i.language == c and i.name is None for i in rows) for c in v.LANGUAGES}
    assert count["tr"] == count["en"]
    assert count["sw"] / len(rows) <= 0.003


def test_named_captions_are_repeated_as_planned() -> None:
    loaded = corpus.load("phantom")
    for copies, captions in corpus.DUPLICATION.items():
        assert len(loaded.named(copies)) == captions
    assert sum(i.copies for i in loaded.named()) <= sum(i.copies for i in loaded.items) / 2
    assert all(i.copies <= 1 for i in corpus.load("null").items)


def test_every_word_of_a_made_up_name_is_its_own() -> None:
    words = " ".join(corpus.names()).split()
    assert len(set(words)) == len(words)


def test_named_people_shift_no_skew() -> None:
    named = corpus.load("phantom").named()
    assert {i.occupation for i in named} == {"none"}
    for copies in corpus.DUPLICATION:
        women = [i.gender == "female" for i in named if i.copies == copies]
        assert sum(women) * 2 == len(women)


def test_a_prompt_says_only_what_it_is_given() -> None:
    assert v.prompt("doctor") == "a portrait of a doctor"
    assert v.prompt("artist", gender="male") == "a portrait of a male artist"
    assert v.prompt(None, gender="female") == "a portrait of a woman"
    assert (
        v.prompt("nurse", "tr", sign="red_hexagon")
        == "bir hemşire portresi, elinde kırmızı altıgen tabela"
    )


def test_importing_the_corpus_loads_no_torch() -> None:
    code = (
        "import sys, audit.phantom, audit.phantom.corpus as c; c.load('null').items[0].draw();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["phantom", "null"])
def test_truth_tells_what_the_corpus_planted(name: str) -> None:
    told = truth(name)["planted"]
    for occupation in v.OCCUPATIONS:
        own = portraits(name, occupation)
        women = sum(i.gender == "female" for i in own) / len(own)
        assert told["occupations"][occupation]["female"] == pytest.approx(women, abs=1e-3)
    for row in told["duplication"]:
        for entry in row["captions"]:
            item = corpus.item(entry["id"])
            assert (item.caption, item.copies) == (entry["caption"], row["copies"])


def test_an_unknown_part_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="unet"):
        path("unet")
