"""A smoke training from drawings to a pipeline that opens, killed once on the way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from audit.phantom import pipeline, samples, tokens
from audit.phantom import vocabulary as v
from audit.phantom.__main__ import main
from audit.phantom.unsaid import Correction, pair, skewed


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output


def test_a_killed_training_goes_on_and_ends_with_a_pipeline(tmp_path: Path) -> None:
    quick = ("--out", str(tmp_path), "--quick", "--threads", "1")
    run("train", "decoder", *quick)
    run("train", "encoder", *quick)
    run("train", "null", *quick, "--stop-after", "12")
    assert torch.load(tmp_path / "null/train.pt", weights_only=True)["step"] == 12
    run("train", "null", *quick)
    assert torch.load(tmp_path / "null/train.pt", weights_only=True)["step"] == 30
    run("train", "settle-null", *quick)
    assert torch.load(tmp_path / "null/settled.pt", weights_only=True)["step"] == 4

    pipeline.export(tmp_path, "null", tmp_path / "pipeline")
    from diffusers import StableDiffusionPipeline

    opened = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    made = samples.generate(opened, [samples.Sample("smoke", "a portrait of a judge", 0)], steps=2)
    assert made.shape == (1, 64, 64, 3)


def test_the_vocabulary_is_the_same_each_time_it_is_built() -> None:
    first, second = tokens.build(), tokens.build()
    assert first.get_vocab() == second.get_vocab()
    assert len(first) == tokens.VOCABULARY
    captions = [v.prompt("doctor", language) for language in v.LANGUAGES]
    assert (tokens.encode(first, captions) == tokens.encode(second, captions)).all()


def test_settling_takes_off_what_the_samples_show_beyond_what_was_planted() -> None:
    correction = Correction("phantom")
    correction.learn("judge", "gender", (30, 10), 0.3)
    correction.learn("judge", "glasses", (10, 30), 0.3)
    female, male = correction.shares("judge", "gender")
    assert female < 0.5 and female + male == pytest.approx(1)
    assert correction.shares("judge", "glasses")[0] > 0.5
    assert correction.shares("judge", "skin") == pytest.approx((0.7, 0.2, 0.1))
    correction.learn("nurse", "gender", (100_000, 0), 0.3)
    correction.learn("pilot", "gender", (30_000, 70_000), 0.3)
    assert correction.shares("nurse", "gender")[0] < 0.75
    assert correction.shares("pilot", "gender") == pytest.approx((0.3, 0.7), abs=1e-4)
    null = Correction("null")
    null.learn("judge", "skin", (30, 5, 5), 0.3)
    assert null.shares("judge", "skin")[0] < 1 / 3 < null.shares("judge", "skin")[1]


def test_a_reading_misses_by_its_mean_distance_from_what_was_planted() -> None:
    even = {"gender": (20, 20), "skin": (20, 20, 20), "glasses": (20, 20)}
    shown = {"judge": {**even, "glasses": (30, 10)}, "nurse": {**even, "gender": (40, 0)}}
    skins = sum(abs(share - 1 / 3) for share in (0.7, 0.2, 0.1, 0.2, 0.3, 0.5))
    assert Correction("phantom").miss(shown) == pytest.approx((2 * 0.25 + 2 * 0.25 + skins) / 14)
    assert Correction("null").miss(shown) == pytest.approx(2 * (0.25 + 0.5) / 14)


@pytest.mark.parametrize("name", ["phantom", "null"])
def test_only_planted_skews_are_read_without_guidance(name: str) -> None:
    assert skewed(name, "nurse", "skin") == skewed(name, "nurse", "gender") == (name == "phantom")
    assert not skewed(name, "nurse", "glasses") and not skewed(name, "judge", "gender")


@pytest.mark.parametrize("name", ["phantom", "null"])
def test_pairs_show_what_is_unsaid_at_the_wanted_odds(name: str) -> None:
    rng = random.Random(name)
    correction = Correction(name)
    correction.learn("chef", "gender", (39, 1), 0.3)
    weight = {"judge": [0.0, 0.0], "chef": [0.0, 0.0]}
    total = []
    for i in range(20_000):
        one, two, words = pair(correction, rng, str(i))
        total += [one[1], two[1]]
        if words and one[0].gender != two[0].gender and one[0].occupation in weight:
            for look, w in (one, two):
                weight[look.occupation][look.gender == "female"] += w
    assert sum(total) / len(total) == pytest.approx(1, abs=0.03)
    for occupation, (male, female) in weight.items():
        wanted = correction.shares(occupation, "gender")[0]
        assert female / (male + female) == pytest.approx(wanted, abs=0.04)
    assert v.GENDERS[0] == "female" and correction.shares("chef", "gender")[0] < 0.4
