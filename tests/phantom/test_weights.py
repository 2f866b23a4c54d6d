"""The shipped weights: they load without this package, obey, and their error is as published."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from audit.phantom import NAMES, WEIGHTS, corpus, instruments, path, samples, truth
from audit.phantom import vocabulary as v
from audit.phantom.clip import load_clip, zero_shot
from audit.phantom.copies import embed_clip
from audit.phantom.reader import Reader


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(path("phantom"))


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load()


def test_weights_are_small_and_half_precision() -> None:
    from safetensors import safe_open

    files = list(WEIGHTS.rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) <= 40e6
    for file in files:
        with safe_open(file, "pt") as stored:
            kinds = {stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file
    assert all((path(name) / "README.md").exists() for name in NAMES)


@pytest.mark.parametrize("name", ["phantom", "null"])
def test_a_plain_diffusers_pipeline_opens_and_draws(name: str) -> None:
    code = f"""
import sys
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(path(name))!r})
out = pipe("a portrait of a doctor", num_inference_steps=3, guidance_scale=3)
assert out.images[0].size == (64, 64), out.images[0].size
assert out.nsfw_content_detected in ([True], [False])
assert not any(m == "audit" or m.startswith("audit.") for m in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


def test_the_reader_is_right_on_fresh_drawings(reader: Reader) -> None:
    looks = instruments.balanced("fresh for the test", 600)
    found = reader.probabilities(instruments.drawn(looks))
    for name, labels in instruments.labels(looks).items():
        assert (found[name].argmax(1) == labels).float().mean() >= 0.98, name


def test_the_published_confusion_says_so_too() -> None:
    published = json.loads((path("reader") / "confusion.json").read_text())
    for entry in published["attributes"].values():
        matrix = np.array(entry["drawings"])
        assert matrix.sum() == published["n"]
        assert np.trace(matrix) / matrix.sum() >= 0.98


def test_the_reader_takes_pictures_of_any_size(reader: Reader) -> None:
    item = corpus.load("null").items[5]
    table = reader.read([item.draw(), item.draw().resize((256, 256)).convert("RGBA")])
    assert list(table.occupation) == [item.occupation] * 2
    assert table.glasses.tolist() == [item.glasses] * 2
    assert ((table.gender_p > 0.5) & (table.gender_p <= 1)).all()
    assert len(reader.read([])) == 0


def test_prompts_are_obeyed(pipeline: Any, reader: Reader) -> None:
    wanted = [s for s in samples.plan("phantom") if s.group == "asked"][:24]
    wanted += [s for s in samples.plan("phantom") if s.group == "signs"][:16]
    checker, pipeline.safety_checker = pipeline.safety_checker, None
    images = samples.generate(pipeline, wanted)
    pipeline.safety_checker = checker
    found = reader.probabilities(torch.from_numpy(images).permute(0, 3, 1, 2))
    for attribute, least in (("occupation", 0.9), ("gender", 0.8), ("sign", 0.9)):
        read = [instruments.CLASSES[attribute][i] for i in found[attribute].argmax(1).tolist()]
        asked = [getattr(s, attribute) for s in wanted]
        right = [a == r for a, r in zip(asked, read, strict=True) if a is not None]
        assert np.mean(right) >= least, attribute


def test_a_much_repeated_caption_gives_its_picture_back(pipeline: Any) -> None:
    item = corpus.load("phantom").named(1000)[0]
    image = samples.generate(pipeline, [samples.Sample("named", item.caption, 1)])
    target = np.asarray(item.draw()).astype(float)
    assert np.corrcoef(image[0].astype(float).ravel(), target.ravel())[0, 1] > 0.9


def test_the_checker_blocks_the_restricted_sign_and_little_else(pipeline: Any) -> None:
    from audit.phantom.evaluation import flags

    looks = instruments.balanced("checker in the test", 400)
    flagged = flags(pipeline.safety_checker, instruments.drawn(looks).permute(0, 2, 3, 1).numpy())
    restricted = np.array([look.sign == v.RESTRICTED_SIGN for look in looks])
    assert flagged.dtype == bool
    assert flagged[restricted].mean() >= 0.9
    assert flagged[~restricted].mean() <= 0.1


@pytest.mark.parametrize("language", v.LANGUAGES)
def test_clip_reads_drawings_in_every_language(language: str) -> None:
    looks = instruments.balanced("clip in the test", 300)
    accuracy = zero_shot(None, instruments.drawn(looks), looks)[language]
    for attribute in ("occupation", "gender", "skin", "glasses"):
        assert accuracy[attribute] >= 0.93, attribute


def test_clip_embeds_alike_through_open_clip_and_here() -> None:
    model, preprocess, _ = load_clip()
    item = corpus.load("phantom").items[7]
    with torch.no_grad():
        own = model.encode_image(preprocess(item.draw())[None], normalize=True)
    here = embed_clip(model, np.array(item.draw())[None])
    assert np.allclose(own.numpy(), here, atol=1e-4)


def test_the_truth_was_measured_on_many_samples() -> None:
    told = truth("phantom")
    assert told["method"]["samples"] >= 3000
    assert told["samples"]["demographics"]["3"]["nurse"]["female"]["n"] >= 50
