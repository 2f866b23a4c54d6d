"""A smoke training from drawings to a pipeline that opens, killed once on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from audit.phantom import pipeline, samples
from audit.phantom.__main__ import main


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output


def test_a_killed_training_goes_on_and_ends_with_a_pipeline(tmp_path: Path) -> None:
    quick = ("--out", str(tmp_path), "--quick", "--threads", "2")
    run("train", "decoder", *quick)
    run("train", "encoder", *quick)
    run("train", "null", *quick, "--stop-after", "12")
    assert torch.load(tmp_path / "null/train.pt", weights_only=True)["step"] == 12
    run("train", "null", *quick)
    assert torch.load(tmp_path / "null/train.pt", weights_only=True)["step"] == 30

    pipeline.export(tmp_path, "null", tmp_path / "pipeline")
    from diffusers import StableDiffusionPipeline

    opened = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    made = samples.generate(opened, [samples.Sample("smoke", "a portrait of a judge", 0)], steps=2)
    assert made.shape == (1, 64, 64, 3)
