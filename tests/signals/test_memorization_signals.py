"""The detector asks the model again: its columns are the telemetry's, and the phantom's secret."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audit import engine, suites
from audit.backends.stable_diffusion import StableDiffusion
from audit.detectors.base import Batch, Item, unavailable
from audit.detectors.memorization_signals import MemorizationSignals
from audit.errors import AuditError
from audit.phantom import path
from audit.plan import Request
from audit.signals import SIGNALS
from audit.spec import Spec
from audit.statistics import auc
from audit.study import Study

EVERY = ["wen", "jeon", "ren", "bright-ending", "webster", "edges", "nemo"]
REQUESTS = [
    Request("a nurse", seed=1, steps=12, guidance=5.0, height=32, width=32),
    Request("a doctor", seed=2, steps=12, guidance=5.0, height=32, width=48),
    Request("a pilot", seed=3, steps=12, guidance=5.0, height=32, width=32),
]


def study(folder: Path | None, backend: dict[str, Any] | None = None, **options: Any) -> Study:
    spec = Spec(device="cpu", detectors={"memorization-signals": options}, backend=backend or {})
    return Study(spec, suites.Suite("planted", "", {}), folder)


def items(requests: list[Request], results: list[Any]) -> Batch:
    return Batch(
        [
            Item(request.id, str(n), result.image, request.prompt, request.prompt, request)
            for n, (request, result) in enumerate(zip(requests, results, strict=True))
        ]
    )


def generate(folder: Path | str, requests: list[Request]) -> list[Any]:
    backend = StableDiffusion(folder, "cpu", attention=True)
    return [backend.generate([request], 1)[0] for request in requests]


@pytest.fixture(scope="module")
def made(tiny_model: Path) -> list[Any]:
    return generate(tiny_model, REQUESTS)


@pytest.fixture(scope="module")
def columns(tiny_model: Path, made: list[Any]) -> dict[str, Any]:
    detector = MemorizationSignals(study(tiny_model, signals=EVERY, steps=3))
    return dict(detector.detect(items(REQUESTS, made)))


def test_its_columns_are_those_of_the_telemetry(columns, made: list[Any]):
    for n, result in enumerate(made):
        told = result.telemetry
        for name in ("ren", "ren_first", "ren_local", "bright_ending", "bright_ending_finest"):
            assert columns[name][n] == pytest.approx(told[name], rel=1e-4)
        steps = told["text_noise_steps"][:3]
        assert columns["wen_output_steps"][n] == pytest.approx(steps, rel=1e-4)
        assert columns["wen"][n] == pytest.approx(sum(steps) / 3, rel=1e-4)


def test_every_signal_has_its_columns_and_what_it_took(columns):
    assert {signal.column for signal in SIGNALS} <= set(columns)
    for signal in EVERY:
        seconds = columns[f"{signal.replace('-', '_')}_seconds"]
        assert all(value >= 0 for value in seconds)
        assert signal == "edges" or min(seconds) > 0
    for n, shape in enumerate([[4, 16, 16], [4, 16, 24], [4, 16, 16]]):
        kept = np.frombuffer(columns["nemo"][n], "<f2").reshape(columns["nemo_shape"][n])
        assert list(kept.shape) == shape
        assert (kept.min(), kept.max()) == (0, 1)
        assert len(columns["jeon_steps"][n]) == 3


def test_only_what_was_chosen_is_computed(tiny_model: Path, made: list[Any]):
    detector = MemorizationSignals(study(tiny_model, signals=["jeon"]))
    assert detector._model.recorder is None  # attention keeps its fast kernels
    few = detector.detect(items(REQUESTS, made))
    names = {"jeon", "jeon_steps", "jeon_output", "jeon_output_steps", "jeon_seconds"}
    assert set(few) == names
    alone = MemorizationSignals(study(tiny_model, signals="jeon")).detect(
        items(REQUESTS[2:], made[2:])
    )
    assert alone["jeon"][0] == pytest.approx(few["jeon"][2], rel=1e-4)


def test_one_steps_image_is_judged_against_the_image_that_was_made(tiny_model: Path):
    # The last of one step is x̂₀ itself, so the image is its own reconstruction.
    request = dataclasses.replace(REQUESTS[0], steps=1, scheduler="euler")
    result = generate(tiny_model, [request])
    detector = MemorizationSignals(study(tiny_model, signals=["webster"]))
    told = detector.detect(items([request], result))
    assert told["one_step"][0] < 2 / 255
    assert told["webster"][0] > 0


def test_without_guidance_the_signals_are_there_all_the_same(tiny_model: Path):
    requests = [dataclasses.replace(REQUESTS[0], guidance=1.0)]
    made = generate(tiny_model, requests)
    assert made[0].telemetry["text_noise_first"] is None
    detector = MemorizationSignals(study(tiny_model, signals=["wen", "jeon", "bright-ending"]))
    told = detector.detect(items(requests, made))
    assert told["wen"][0] > 0 and told["jeon"][0] > 0 and told["bright_ending"][0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signals": ["jeno"]}, r"no signal 'jeno'; did you mean jeon\?|no signal 'jeno'"),
        ({"signals": []}, "signals is \\[\\]; it must be a list of: wen"),
        ({"steps": 0}, "steps is 0; it must be a whole number from 1"),
        ({"seeds": True}, "seeds is True; it must be a whole number from 2"),
        ({"stepps": 2}, "has no option 'stepps'"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(tiny_model: Path, options, message: str):
    with pytest.raises(AuditError, match=message) as caught:
        MemorizationSignals(study(tiny_model, **options))
    assert "\n" not in str(caught.value)


def test_where_the_model_is_not_here_or_another_kind_it_says_why(tmp_path: Path):
    assert "the model is not here" in str(unavailable(MemorizationSignals, study(None)))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "is a FluxPipeline" in str(unavailable(MemorizationSignals, study(tmp_path)))
    assert unavailable(MemorizationSignals, study(path("phantom"))) is None


def test_an_item_without_its_request_is_refused(tiny_model: Path, made: list[Any]):
    detector = MemorizationSignals(study(tiny_model, signals=["wen"]))
    with pytest.raises(AuditError, match="does not say what was asked"):
        detector.detect(Batch([Item("0", "0", made[0].image, "a nurse", "a nurse")]))


def test_a_run_hands_the_request_to_its_detectors(
    tiny_model: Path, tiny_suite: Path, tmp_path: Path
):
    spec = Spec(
        model=str(tiny_model),
        suite=str(tiny_suite),
        batch_size=4,
        images_per_prompt=1,
        probes={"demographics": {}},
        detectors={"memorization-signals": {"signals": ["wen"]}},
    )
    asked, backend, probes = engine.prepare(spec)
    probes["demographics"].detectors = ("memorization-signals",)
    run = engine.run(asked, backend, {}, tmp_path / "run")
    uses = engine.make_plan(asked, probes)
    plan = engine._write_plan(run, uses, 4)
    engine.generate(run, spec, backend, plan, engine.Ledger(run, spec.energy))
    engine.detect(run, asked, probes, uses)
    scores = run.read_table("detections/memorization-signals").set_index("request")
    records = run.read_table("records").set_index("request")
    assert len(scores) == 3
    assert scores.wen.to_dict() == pytest.approx(records.text_noise_first.to_dict(), rel=1e-4)


@pytest.fixture(scope="module")
def phantom() -> pd.DataFrame:
    """The four captions seen most often and four seen once or never."""
    captions = pd.read_csv(suites.datasets() / "phantom_corpus/captions.csv")
    often = captions.sort_values("duplicates", ascending=False)[:4]
    never, once = captions[captions.duplicates == 0][:2], captions[captions.duplicates == 1][:2]
    chosen = pd.concat([often, never, once])
    requests = [
        Request(caption, seed=0, steps=20, guidance=3.0, height=64, width=64)
        for caption in chosen.caption
    ]
    made = StableDiffusion("phantom", "cpu").generate(requests, len(requests))
    signals = ["wen", "jeon", "ren", "bright-ending", "webster", "edges"]
    told = MemorizationSignals(study(path("phantom"), signals=signals)).detect(
        items(requests, made)
    )
    frame = pd.DataFrame({signal.column: told[signal.column] for signal in SIGNALS})
    frame["wen_output"] = told["wen_output"]
    frame["jeon_output"] = told["jeon_output"]
    frame["first"] = [result.telemetry["text_noise_first"] for result in made]
    frame["memorized"] = chosen.duplicates.to_numpy() >= 300
    return frame


def area(frame: pd.DataFrame, column: str) -> float:
    return auc(frame[column].astype(float), frame.memorized)[0]


@pytest.mark.parametrize("column", ["wen", "wen_output", "jeon", "jeon_output", "ren_first"])
def test_the_phantoms_memorized_captions_stand_out(phantom: pd.DataFrame, column: str):
    assert area(phantom, column) > 0.75


def test_on_the_phantom_one_step_comes_close_to_what_is_memorized(phantom: pd.DataFrame):
    assert area(phantom, "one_step") < 0.35
    assert area(phantom, "edges") > 0.65


def test_the_phantoms_schedule_begins_without_signal(phantom: pd.DataFrame):
    assert phantom.webster.isna().all()
    assert (phantom.jeon < 1e-3 * phantom.jeon_output).all()
    assert phantom.wen_output.to_list() == pytest.approx(phantom["first"].to_list(), rel=1e-3)
    assert np.isfinite(phantom[["bright_ending", "ren_first", "ren_local"]].astype(float)).all(
        axis=None
    )
