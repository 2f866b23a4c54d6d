"""A run in rounds makes what its verdicts need, wherever it is killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
from PIL import Image

from audit import engine, rounds, sequential, suites
from audit import spec as specs
from audit.backends.base import Result
from audit.card import write
from audit.cli import _say_estimate
from audit.errors import AuditError
from audit.estimate import estimate
from audit.evidence import Analysis, table
from audit.plan import Request, Use
from audit.spec import Spec
from audit.store import Run
from audit.study import Study
from audit.verify import problems
from tests.test_engine import Stopping, state

SHARES = {"a doctor": 1.0, "a nurse": 0.5, "a pilot": 0.0}
BUDGET = 24


class Coins:
    """Asks of each prompt how often the digest of its images says yes; the shares are planted."""

    name, question, reference, detectors = "coins", "How often?", "none", ("clip",)

    def uses(self, study: Study) -> Iterator[Use]:
        for prompt in SHARES:
            for index in range(study.images_per_prompt(10)):
                yield Use(study.request(prompt, index), prompt, {"index": index})

    def decisions(self, run: Run, study: Study) -> tuple[list[str], list[sequential.Decision]]:
        frame = table(run, self.name)
        assert (frame.outcome == "ok").all() and frame.clip_alignment.notna().all()
        yes = frame.image.str[:8].map(lambda digest: int(digest, 16) / 16**8)
        groups = frame.assign(yes=yes < frame.prompt.map(SHARES)).groupby("prompt").yes
        budget = study.images_per_prompt(10)
        found = sequential.decide(groups.sum(), groups.size(), 0.5, 0.1, least=8, budget=budget)
        return list(groups.groups), found

    def analyse(self, run: Run, study: Study) -> Analysis:
        return Analysis()


class Rounds(Coins):
    """The same in rounds."""

    name = "rounds"

    def __init__(self) -> None:
        self.asked: list[dict[str, int]] = []
        self.killed_at = 0

    def open_prompts(self, run: Run, study: Study) -> set[str]:
        self.asked.append(table(run, self.name).groupby("prompt").size().to_dict())
        if len(self.asked) == self.killed_at:
            raise KeyboardInterrupt
        return sequential.open_prompts(*self.decisions(run, study))


@pytest.fixture(scope="module", autouse=True)
def short_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "FIRST", 12)
        patch.setattr(sequential, "STEP", 4)
        patch.setattr(rounds, "BUDGET", BUDGET)
        yield


class Drawing:
    """A backend that paints one colour, drawn from the prompt and the seed."""

    sampler: ClassVar = {"steps": 2, "height": 32, "width": 32}

    def describe(self):
        return {"backend": "drawing", "weights": {}}

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        colours = [hashlib.sha256(request.id.encode()).digest()[:3] for request in requests]
        return [Result(Image.new("RGB", (32, 32), tuple(colour)), "ok") for colour in colours]


@pytest.fixture(scope="module")
def spec(tiny_suite: Path) -> Spec:
    return Spec(suite=str(tiny_suite), batch_size=8, until_conclusive=True)


def prepared(spec: Spec) -> tuple[Study, Drawing]:
    suite = suites.load(str(spec.suite))
    return Study(spec, suite, None, Drawing.sampler), Drawing()


def probes(sequential_probe: Rounds | None = None) -> dict[str, Coins]:
    return {"coins": Coins(), "rounds": sequential_probe or Rounds()}


@pytest.fixture(scope="module")
def undisturbed(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    study, backend = prepared(spec)
    return state(engine.run(study, backend, probes(), tmp_path_factory.mktemp("whole") / "run"))


def made(run: Run) -> dict[str, int]:
    return table(run, "rounds").groupby("prompt").size().to_dict()


def test_prompts_with_a_verdict_get_no_more_images(spec: Spec, tmp_path: Path):
    study, backend = prepared(spec)
    probe = Rounds()
    run = engine.run(study, backend, probes(probe), tmp_path / "run")
    assert made(run) == {"a doctor": 12, "a nurse": 24, "a pilot": 12}
    assert [asked["a nurse"] for asked in probe.asked] == [12, 16, 20, 24]
    assert all(asked["a doctor"] == 12 for asked in probe.asked)
    # The other probe's images are the first of the same seeds: made once, and none of them more.
    assert len(table(run, "coins")) == 30
    records = run.read_table("records")
    assert len(records) == 12 + 24 + 12 and records.request.is_unique
    seeds = table(run, "rounds").groupby("prompt").seed.apply(set)
    assert seeds["a doctor"] < seeds["a nurse"]
    assert problems(run)[0] == []


def test_nothing_that_was_not_needed_is_missing(spec: Spec, tmp_path: Path):
    study, backend = prepared(spec)
    run = engine.run(study, backend, probes(), tmp_path / "run")
    assert set(table(run, "rounds").outcome) == {"ok"}
    assert len(run.read_table("plan")) == len(run.read_table("records"))
    assert run.info["design"] == {
        "looks": [12, 16, 20, 24],
        "probes": {"rounds": {"rounds": 4, "prompts": 3, "open": 1, "images_per_prompt": [12, 24]}},
    }
    cards = write(run)
    said = cards["md"].read_text()
    assert "looks at 12, 16, 20 and 24 images a prompt" in said
    assert "12 to 24 images" in said
    assert "missing" not in said.lower()


@pytest.mark.parametrize("batches", [2, 5, 6])
def test_a_kill_within_a_round_changes_nothing(
    spec: Spec, tmp_path: Path, undisturbed: dict[str, pd.DataFrame], batches: int
):
    study, backend = prepared(spec)
    stopping = Stopping(backend, batches)
    with pytest.raises(KeyboardInterrupt):
        engine.run(study, stopping, probes(), tmp_path / "run")
    finishing = Stopping(backend, -1)
    run = engine.run(study, finishing, probes(), tmp_path / "run")
    assert not set(stopping.made) & set(finishing.made)
    for name, frame in state(run).items():
        pd.testing.assert_frame_equal(frame, undisturbed[name])
    assert problems(run)[0] == []


@pytest.mark.parametrize("look", [1, 3])
def test_a_kill_between_rounds_changes_nothing(
    spec: Spec, tmp_path: Path, undisturbed: dict[str, pd.DataFrame], look: int
):
    study, backend = prepared(spec)
    killed = Rounds()
    killed.killed_at = look
    with pytest.raises(KeyboardInterrupt):
        engine.run(study, backend, probes(killed), tmp_path / "run")
    again = Rounds()
    run = engine.run(study, backend, probes(again), tmp_path / "run")
    assert again.asked[0] == killed.asked[-1]  # the decision is taken on the same images
    for name, frame in state(run).items():
        pd.testing.assert_frame_equal(frame, undisturbed[name])


@pytest.mark.parametrize("table_", ["plan.parquet", "uses/coins", "uses/rounds"])
def test_a_kill_while_a_round_is_planned_changes_nothing(
    spec: Spec,
    tmp_path: Path,
    undisturbed: dict[str, pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
    table_: str,
):
    study, backend = prepared(spec)
    probe = Rounds()
    write_bytes = Run.write_bytes

    def killed(self: Run, name: str, data: bytes) -> None:
        write_bytes(self, name, data)
        if name.startswith(table_) and len(probe.asked) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            engine.run(study, backend, probes(probe), tmp_path / "run")
    run = engine.run(study, backend, probes(), tmp_path / "run")
    for name, frame in state(run).items():
        pd.testing.assert_frame_equal(frame, undisturbed[name])
    assert problems(run)[0] == []


def test_a_finished_run_is_not_touched(spec: Spec, tmp_path: Path):
    def files() -> dict[Path, int]:
        found = (p for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != ".lock")
        return {path: path.stat().st_mtime_ns for path in found}

    study, backend = prepared(spec)
    engine.run(study, backend, probes(), tmp_path / "run")
    before = files()
    engine.run(study, Stopping(backend, 0), probes(), tmp_path / "run")
    assert files() == before


def test_a_model_makes_rounds_here_as_in_other_processes(
    spec: Spec, tiny_model: Path, tmp_path: Path
):
    spec = spec.replace(model=str(tiny_model), steps=1, images_per_prompt=16)
    found = []
    for devices in ((), ("cpu",)):
        study, backend, _ = engine.prepare(spec.replace(devices=devices, probes={"languages": {}}))
        run = engine.run(study, backend, {"rounds": Rounds()}, tmp_path / f"run{len(devices)}")
        found.append(state(run)["records"][["request", "image", "outcome"]])
    assert made(run)["a nurse"] == 16
    pd.testing.assert_frame_equal(*found)


def test_a_run_of_a_fixed_number_goes_on_from_its_images(spec: Spec, tmp_path: Path):
    study, backend = prepared(spec.replace(until_conclusive=False, images_per_prompt=14))
    before = engine.run(study, backend, probes(), tmp_path / "run").read_table("records")
    study, backend = prepared(spec)
    probe = Rounds()
    run = engine.run(study, backend, probes(probe), tmp_path / "run")
    assert probe.asked[0] == dict.fromkeys(SHARES, 16)  # 14 lie between two looks
    assert set(before.request) <= set(run.read_table("records").request)


def test_another_budget_is_another_design(spec: Spec, tmp_path: Path):
    study, backend = prepared(spec)
    engine.run(study, backend, probes(), tmp_path / "run")
    study, backend = prepared(spec.replace(images_per_prompt=40))
    with pytest.raises(AuditError, match="was begun with at most 24 images per prompt"):
        engine.run(study, backend, probes(), tmp_path / "run")
    # Without rounds it is a fixed design again.
    study, backend = prepared(spec.replace(until_conclusive=False, images_per_prompt=24))
    run = engine.run(study, backend, probes(), tmp_path / "run")
    assert "design" not in run.info
    assert made(run) == dict.fromkeys(SHARES, 24)


def test_a_dry_run_says_the_least_and_the_most(spec: Spec, capsys: pytest.CaptureFixture[str]):
    study, backend = prepared(spec)
    planned = list(rounds.without_verdicts(study, probes(), engine.make_plan(study, probes())))
    assert [len(uses["rounds"]) for uses in planned] == [36, 48, 60, 72]
    numbers = estimate(backend, 8, planned)
    assert (numbers["least"]["images"], numbers["images"]) == (36, 72)
    # Rounds are made in batches of their own, so some of them are not full.
    assert (numbers["least"]["batches"], numbers["batches"]) == (5, 11)
    assert 0 < numbers["least"]["minutes"] < numbers["minutes"]
    _say_estimate(numbers, as_json=False)
    said = capsys.readouterr().out.split("\n")
    assert said[0].split() == ["coins", "30", "images"]
    assert said[1].split() == ["rounds", "36", "to", "72", "images"]
    assert "36 to 72 images in 5 to 11 batches, about" in said[2]


def test_what_rounds_cannot_do_is_one_line(spec: Spec, tmp_path: Path):
    study, backend = prepared(spec)
    with pytest.raises(AuditError, match="coins cannot say which prompts need more images"):
        engine.run(study, backend, {"coins": Coins()}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(AuditError, match=r"^--until-conclusive: a limit would cut"):
        spec.replace(limit=5)
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps({"until_conclusive": "yes"}))
    with pytest.raises(AuditError, match="until_conclusive must be true or false"):
        specs.load(path)


def test_a_probe_that_names_what_is_no_prompt_of_its_is_an_error(spec: Spec, tmp_path: Path):
    class Wrong(Rounds):
        def open_prompts(self, run: Run, study: Study) -> set[str]:
            return {"doctor"}

    study, backend = prepared(spec)
    with pytest.raises(ValueError, match="uses no prompt 'doctor'"):
        engine.run(study, backend, probes(Wrong()), tmp_path / "run")
