"""Several processes make the same images as one, whichever of them die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from audit import workers
from audit.errors import AuditError, Incomplete
from audit.generation import generate
from audit.spec import Spec
from tests.generating import BATCH, hashes, ledger, planned, started


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Request → image of the single process."""
    spec = Spec(model=str(tiny_model), batch_size=BATCH)
    store, backend = started(spec, tmp_path_factory.mktemp("alone") / "run")
    generate(store, spec, backend, planned(), ledger(store))
    return hashes(store)


@pytest.fixture
def spec(tiny_model: Path) -> Spec:
    return Spec(model=str(tiny_model), batch_size=BATCH, devices=("cpu", "cpu"))


def test_two_processes_make_the_images_of_one(spec: Spec, tmp_path: Path, alone: dict[str, str]):
    store, backend = started(spec, tmp_path / "run")
    generate(store, spec, backend, planned(), ledger(store))
    assert hashes(store) == alone
    assert store.info["devices"] == ["cpu"]
    step = store.read_json("energy.json")["steps"]["generate"]
    assert step["images"] == len(alone)
    assert step["cpu_hours"] > 0


def test_the_caller_s_main_module_is_not_run_again(
    spec: Spec, tmp_path: Path, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    script = tmp_path / "unguarded.py"
    script.write_text("raise SystemExit(3)\n")
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    store, backend = started(spec, tmp_path / "run")
    generate(store, spec, backend, planned(), ledger(store))
    assert hashes(store) == alone
    assert sys.modules["__main__"] is main


def test_a_killed_worker_loses_nothing(
    spec: Spec, tmp_path: Path, alone: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    store, backend = started(spec, tmp_path / "run")
    killed: list[int] = []

    def kill() -> None:
        while not store.shards("records"):
            time.sleep(0.01)
        victim = multiprocessing.active_children()[0]
        killed.append(victim.pid or 0)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    plan = planned()
    generate(store, spec, backend, plan, ledger(store))
    killer.join()
    assert hashes(store) == alone
    assert "worker cpu: ended with signal SIGKILL; the others take its" in capsys.readouterr().err
    assert not multiprocessing.active_children()


def kill_on(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever worker begins `batch` is killed."""
    hear = workers._Crew._hear

    def listening(self, worker, kind, content):
        if (kind, content) == ("at", batch):
            os.kill(worker.process.pid, signal.SIGKILL)
        hear(self, worker, kind, content)

    monkeypatch.setattr(workers._Crew, "_hear", listening)


def test_a_batch_on_which_two_workers_die_is_named_and_the_rest_is_made(
    spec: Spec, tmp_path: Path, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    spec = spec.replace(devices=("cpu",) * 3)
    store, backend = started(spec, tmp_path / "run")
    kill_on(1, monkeypatch)
    with pytest.raises(Incomplete, match="not made: batch 1, on which 2 workers ended"):
        generate(store, spec, backend, planned(), ledger(store))
    assert len(hashes(store)) == len(alone) - BATCH
    # The same command tries again, here without workers.
    generate(store, spec.replace(devices=()), backend, planned(), ledger(store))
    assert hashes(store) == alone


def test_a_dead_workers_batches_reach_one_that_has_begun_all_of_its_own():
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    dead = SimpleNamespace(exitcode=-signal.SIGKILL, join=lambda: None)
    busy, other = (workers._Worker("cpu", dead, ours) for ours, _ in pipes)
    job = SimpleNamespace(batches={n: f"batch {n}" for n in range(3)}, finish=lambda *_: None)
    crew = workers._Crew(job, [busy, other])
    for worker in (busy, other, busy):
        crew._give(worker)
    for number in (0, 2):  # both are begun, neither is written
        crew._hear(busy, "at", number)
    crew._bury(other)
    crew._hear(busy, "made", (0, [], 0.0, 0.0))
    received = pipes[0][1]
    assert [received.recv()[0] for _ in range(3)] == [0, 2, 1]
    assert busy.given == [2, 1]


def test_a_run_whose_workers_all_die_is_incomplete(
    spec: Spec, tmp_path: Path, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    spec = spec.replace(devices=("cpu",))
    store, backend = started(spec, tmp_path / "run")
    hear = workers._Crew._hear

    def listening(self, worker, kind, content):
        if (kind, content) == ("at", 2):
            return  # it is given no more, so some batches are never made
        hear(self, worker, kind, content)
        if kind == "made":
            os.kill(worker.process.pid, signal.SIGKILL)

    monkeypatch.setattr(workers._Crew, "_hear", listening)
    with pytest.raises(Incomplete, match="every worker ended: cpu: ended with signal SIGKILL"):
        generate(store, spec, backend, planned(), ledger(store))
    done = hashes(store)
    assert 0 < len(done) < len(alone)
    assert done.items() < alone.items()


def test_a_model_that_a_worker_cannot_load_is_said_in_its_words(spec: Spec, tmp_path: Path):
    store, backend = started(spec, tmp_path / "run")
    spec = spec.replace(model="nowhere", devices=("cpu",))
    with pytest.raises(AuditError, match="no model 'nowhere'"):
        generate(store, spec, backend, planned(), ledger(store))
    assert not multiprocessing.active_children()


def test_a_full_disk_of_the_workers_is_one_line(spec: Spec, tmp_path: Path):
    spec = spec.replace(devices=("cpu",))
    store, backend = started(spec, tmp_path / "run")
    (store.path / "images").symlink_to("/dev/full")
    with pytest.raises(Incomplete, match="every worker ended: cpu: cannot write"):
        generate(store, spec, backend, planned(), ledger(store))
    assert not store.shards("records")
