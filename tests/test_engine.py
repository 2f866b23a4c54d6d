"""A run is made once, survives a kill at any point, and adds only what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from audit import engine
from audit.backends.base import Result
from audit.errors import AuditError
from audit.evidence import table
from audit.plan import Request
from audit.spec import Spec
from audit.store import SCHEMA_VERSION, Run
from audit.verify import problems


@pytest.fixture
def spec(tiny_model: Path, tiny_suite: Path) -> Spec:
    return Spec(
        model=str(tiny_model),
        suite=str(tiny_suite),
        batch_size=4,
        images_per_prompt=3,
        probes={"demographics": {}, "languages": {}},
    )


def make(spec: Spec, out: Path) -> Run:
    study, backend, probes = engine.prepare(spec)
    return engine.run(study, backend, probes, out)


def state(run: Run) -> dict[str, pd.DataFrame]:
    """What a run says, without the seconds it took."""
    frames = {"records": run.read_table("records"), "clip": run.read_table("detections/clip")}
    return {
        name: frame.drop(columns="seconds", errors="ignore").sort_values(
            "request", ignore_index=True
        )
        for name, frame in frames.items()
    }


def test_probes_share_the_images_that_both_ask_for(spec: Spec, tmp_path: Path):
    run = make(spec, tmp_path / "run")
    uses = {name: len(table(run, name)) for name in ("demographics", "languages")}
    assert uses == {"demographics": 9, "languages": 12}
    records = run.read_table("records")
    assert len(records) == 9 + 6  # the English prompts of `languages` are those of `demographics`
    assert records.request.is_unique
    assert (records.outcome == "ok").all()
    assert problems(run)[0] == []


class Stopping:
    """A backend that is killed after some batches."""

    def __init__(self, backend, batches: int) -> None:
        self.backend, self.left, self.made = backend, batches, []
        self.sampler = backend.sampler

    def describe(self):
        return self.backend.describe()

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.made += [request.id for request in requests]
        return self.backend.generate(requests, batch_size)


@pytest.mark.parametrize("batches", [0, 1, 2, 3])
def test_an_interrupted_run_resumes_without_duplicates_or_losses(
    spec: Spec, tmp_path: Path, batches: int
):
    study, backend, probes = engine.prepare(spec)
    undisturbed = state(engine.run(study, backend, probes, tmp_path / "whole"))
    stopping = Stopping(backend, batches)
    with pytest.raises(KeyboardInterrupt):
        engine.run(study, stopping, probes, tmp_path / "run")
    finishing = Stopping(backend, -1)
    run = engine.run(study, finishing, probes, tmp_path / "run")
    assert not set(stopping.made) & set(finishing.made)
    for name, frame in state(run).items():
        pd.testing.assert_frame_equal(frame, undisturbed[name])
    assert problems(run)[0] == []


def test_a_kill_between_a_shard_and_its_journal_line_is_mended(spec: Spec, tmp_path: Path):
    make(spec, tmp_path / "run")
    journal = tmp_path / "run/journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if "records/part-000001" in line)
    journal.write_text("".join(lines[:cut]) + lines[cut][:20])
    (tmp_path / "run/records/.tmp-1-part-000009.parquet").write_bytes(b"half")
    assert problems(Run(tmp_path / "run"))[0]
    again = make(spec, tmp_path / "run")
    assert problems(again)[0] == []
    assert not list((tmp_path / "run").rglob(".tmp-*"))


def test_a_finished_run_is_not_touched_by_the_same_command(spec: Spec, tmp_path: Path):
    make(spec, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    make(spec, tmp_path / "run")
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    before.pop(tmp_path / "run/.lock"), after.pop(tmp_path / "run/.lock")
    assert before == after


def test_adding_a_probe_makes_only_what_is_missing(spec: Spec, tmp_path: Path):
    make(spec.replace(probes={"demographics": {}}), tmp_path / "run")
    before = state(Run(tmp_path / "run"))["records"]
    run = make(spec, tmp_path / "run")
    records = state(run)["records"]
    kept = records[records.request.isin(before.request)].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)
    assert len(records) == len(before) + 6
    assert {f.probe for f in engine.read_findings(run)} == {"demographics", "languages"}


def test_a_limit_takes_from_every_probe_and_can_be_lifted(spec: Spec, tmp_path: Path):
    run = make(spec.replace(limit=4), tmp_path / "run")
    assert len(run.read_table("records")) == 4
    assert min(len(table(run, name)) for name in ("demographics", "languages")) >= 1
    assert len(make(spec, tmp_path / "run").read_table("records")) == 15


def test_other_weights_are_refused_in_the_same_folder(spec: Spec, tmp_path: Path):
    from tests.tiny import make_stable_diffusion

    make(spec, tmp_path / "run")
    other = make_stable_diffusion(tmp_path / "other", seed=1)
    with pytest.raises(AuditError, match="was made with model="):
        make(spec.replace(model=str(other)), tmp_path / "run")


def test_a_folder_that_is_no_run_is_left_alone(spec: Spec, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(AuditError, match="not empty and not a run"):
        make(spec, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1, None])
def test_a_run_of_another_schema_version_is_refused_and_left_alone(
    spec: Spec, tmp_path: Path, version: int | None
):
    folder = tmp_path / "run"
    run = Run.create(folder)
    run.write_json("run.json", {"schema_version": version, "model": spec.model})
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    said = (
        f"{folder} has schema version {version}, this version reads {SCHEMA_VERSION}; "
        "use the version of t2i-audit that wrote it, which its run.json names"
    )
    for act in (lambda: Run.open(folder), lambda: make(spec, folder)):
        with pytest.raises(AuditError, match=f"^{re.escape(said)}$"):
            act()
    after = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    assert after == before


def test_a_failed_image_is_counted_not_dropped(spec: Spec, tmp_path: Path):
    study, backend, probes = engine.prepare(spec)

    class Failing(Stopping):
        def generate(self, requests, batch_size):
            results = self.backend.generate(requests, batch_size)
            return [Result(None, "failed", "planted"), *results[1:]]

    run = engine.run(study, Failing(backend, -1), probes, tmp_path / "run")
    assert engine.summary(run)["outcomes"]["failed"] == len(run.shards("records"))
    findings = [f for f in engine.read_findings(run) if f.metric == "share_female_presenting"]
    outcomes = [f.detail["outcomes"] for f in findings if f.slice]
    assert sum(counts.get("failed", 0) for counts in outcomes) >= 1
    assert all(sum(counts.values()) == 3 for counts in outcomes)


def test_scores_are_made_anew_when_the_instrument_changes(
    spec: Spec, tmp_path: Path, tiny_suite: Path
):
    run = make(spec, tmp_path / "run")
    images = set(run.read_table("records").image)
    suite = tmp_path / "other.yaml"
    suite.write_text(tiny_suite.read_text().replace("a photo of a man", "a picture of a man"))
    before = state(run)["clip"]
    run = make(spec.replace(suite=str(suite)), tmp_path / "run")
    after = state(run)["clip"]
    assert set(run.read_table("records").image) == images
    assert (before.gender_male != after.gender_male).all()
    assert after.gender_female.equals(before.gender_female)
    assert problems(run)[0] == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda run: next(run.path.glob("images/*/*.webp")).write_bytes(b"x"),
        lambda run: next(run.path.glob("images/*/*.webp")).unlink(),
        lambda run: next(run.path.glob("records/*.parquet")).write_bytes(b"x"),
        lambda run: next(run.path.glob("detections/clip/*.parquet")).unlink(),
        lambda run: (run.path / "records/part-000099.parquet").write_bytes(
            next(run.path.glob("records/*.parquet")).read_bytes()
        ),
        lambda run: (run.path / "findings.json").write_text(
            json.dumps([*run.read_json("findings.json"), {"probe": "x", "metric": "y"}])
        ),
        lambda run: (run.path / "journal.jsonl").write_text(
            "".join((run.path / "journal.jsonl").read_text().splitlines(keepends=True)[2:])
        ),
    ],
)
def test_verify_names_a_later_change(spec: Spec, tmp_path: Path, harm):
    run = make(spec.replace(limit=4), tmp_path / "run")
    assert problems(run)[0] == []
    harm(run)
    assert len(problems(run)[0]) >= 1


def test_two_processes_do_not_write_one_run(tmp_path: Path):
    run = Run.create(tmp_path / "run")
    with run.lock(), pytest.raises(AuditError, match="another process"), run.lock():
        pass
