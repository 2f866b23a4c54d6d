"""Images are stored beside the next batch; a full disk and a kill lose nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from audit import engine, generation
from audit import store as store_module
from audit.atomic import replace
from audit.backends.base import Result
from audit.errors import AuditError, Incomplete
from audit.generation import generate
from audit.journal import Journal
from audit.plan import Request, Use
from audit.spec import Spec
from audit.store import Run
from audit.verify import problems
from audit.writer import AHEAD, Writer
from tests.generating import BATCH, hashes, ledger, planned, started


class Drawn:
    """A backend without a model: each image is a colour that its seed names."""

    def __init__(self, **telemetry: int) -> None:
        self.asked: list[list[int]] = []
        self.telemetry = telemetry

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        self.asked.append([request.seed for request in requests])
        return [
            Result(Image.new("RGB", (32, 32), (request.seed % 256, 9, 9)), telemetry=self.telemetry)
            for request in requests
        ]


SPEC = Spec(model="drawn", batch_size=BATCH)


@pytest.fixture
def store(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run")
    run.write_json("run.json", {"schema_version": 1, "backend": {}, "threads": 1})
    return run


def test_the_generator_waits_when_the_writer_is_behind():
    gate, begun = threading.Event(), threading.Event()
    finished: list[int] = []

    def stuck(image: Image.Image) -> str:
        begun.set()
        gate.wait()
        return "name"

    plan = planned(5 * BATCH)
    batches = [plan[i : i + BATCH] for i in range(0, len(plan), BATCH)]
    results = [Result(Image.new("RGB", (8, 8)))] * BATCH
    with Writer(stuck, lambda number, rows: finished.append(number), BATCH) as writer:
        for number in range(AHEAD):
            writer.put(number, batches[number], results)
        begun.wait()
        more = threading.Thread(target=writer.put, args=(AHEAD, batches[AHEAD], results))
        more.start()
        more.join(0.2)
        assert more.is_alive()
        assert finished == []
        gate.set()
        more.join()
    assert finished == list(range(AHEAD + 1))
    assert writer.waited > 0.1


def test_a_full_disk_stops_the_run_in_one_line_and_the_rest_is_made_later(
    store: Run, monkeypatch: pytest.MonkeyPatch
):
    plan, backend = planned(), Drawn()
    # The kernel's own ENOSPC: from its second shard on, a record's temporary file is /dev/full.

    def on_a_full_disk(path: Path, data: bytes, *before: Callable[[], None]) -> None:
        if path.name == "part-000001.parquet":
            name = f".tmp-{os.getpid()}-{threading.get_ident()}-{path.name}"
            path.with_name(name).symlink_to("/dev/full")
        replace(path, data, *before)

    monkeypatch.setattr(store_module, "replace", on_a_full_disk)
    with pytest.raises(
        Incomplete, match=r"part-000001.parquet: No space left on device; free space and run the"
    ):
        generate(store, SPEC, backend, plan, ledger(store))
    assert len(hashes(store)) == BATCH
    assert not list(store.path.rglob(".tmp-*"))
    assert problems(store)[0] == []
    monkeypatch.undo()
    generate(store, SPEC, Drawn(), plan, ledger(store))
    assert len(hashes(store)) == 14
    assert problems(store)[0] == []


def test_a_full_disk_under_the_journal_leaves_no_half_line(store: Run):
    journal = store.path / "journal.jsonl"
    whole = journal.read_bytes()
    os.truncate(journal, 0)
    journal.unlink()
    journal.symlink_to("/dev/full")
    with pytest.raises(Incomplete, match="No space left on device"):
        store.write_json("findings.json", [])
    journal.unlink()
    journal.write_bytes(whole)
    store.mend_journal()
    assert problems(store)[0] == []


def test_an_interrupted_batch_is_dropped_whole_and_those_before_are_written(store: Run):
    class Interrupted(Drawn):
        def generate(self, requests, batch_size):
            if len(self.asked) == 3:
                raise KeyboardInterrupt
            return super().generate(requests, batch_size)

    with pytest.raises(KeyboardInterrupt):
        generate(store, SPEC, Interrupted(), planned(), ledger(store))
    assert len(hashes(store)) == 3 * BATCH


@pytest.mark.parametrize("error", [Incomplete("the server does not answer"), AuditError("no")])
def test_a_backend_that_gives_up_leaves_what_it_made(store: Run, error: AuditError):
    class Gone(Drawn):
        def generate(self, requests, batch_size):
            if len(self.asked) == 2:
                raise error
            return super().generate(requests, batch_size)

    with pytest.raises(type(error), match=str(error)):
        generate(store, SPEC, Gone(), planned(), ledger(store))
    again = Drawn()
    generate(store, SPEC, again, planned(), ledger(store))
    assert again.asked == [[6, 7, 8], [9, 10, 11], [12, 13]]
    step = store.read_json("energy.json")["steps"]["generate"]
    assert step["images"] == len(hashes(store)) == 14


def test_a_batch_that_lacks_one_record_is_made_whole_and_recorded_once(store: Run):
    plan = planned()
    generate(store, SPEC, Drawn(), plan, ledger(store))
    first = store.shards("records")[0]
    frame = pd.read_parquet(first)
    first.unlink()
    store.write_part("records", 0, frame.iloc[:1])
    again = Drawn()
    generate(store, SPEC, again, plan, ledger(store))
    assert again.asked == [[0, 1, 2]]
    assert len(hashes(store)) == 14


def test_the_size_of_a_halved_batch_is_recorded(store: Run):
    generate(store, SPEC, Drawn(batch_made=2), planned(), ledger(store))
    records = store.read_table("records")
    assert set(records.batch_size) == {2}
    assert "batch_made" not in records


def test_each_kind_of_request_is_checked_before_anything_is_made():
    class Asking(Drawn):
        def check(self, request: Request) -> None:
            self.asked.append([request.height])
            if request.height > 32:
                raise AuditError("height is 40; this model makes 32")

    backend = Asking()
    requests = [Request(prompt=f"{n}", height=height) for height in (32, 40) for n in range(3)]
    with pytest.raises(AuditError, match="height is 40"):
        engine.check_requests(backend, {"probe": [Use(request) for request in requests]})
    assert backend.asked == [[32], [40]]


def test_a_disk_that_is_too_small_is_said_before_the_start(
    store: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    generation.warn_of_space(store, planned())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(generation, "BYTES_PER_PIXEL", 1e18)
    generation.warn_of_space(store, planned())
    said = capsys.readouterr().err
    assert said.startswith("t2i-audit: 14 images need about")
    assert said.count("\n") == 1


def rows(number: int) -> pd.DataFrame:
    """A shard whose columns change their type, as those of real telemetry do."""
    return pd.DataFrame(
        {
            "request": [f"{number}-{i}" for i in range(3)],
            "error": None if number % 2 else "x",
            "steps": [[0.5, float(number)], [1.5], []] if number % 3 else [[], [], []],
            "cut": [number, 1, 2],
            "later": None if number < 4 else 0.25,
        }
    )


@pytest.mark.parametrize("kills", range(6))
def test_merging_shards_loses_and_doubles_nothing_whenever_it_is_killed(
    store: Run, monkeypatch: pytest.MonkeyPatch, kills: int
):
    for number in range(8):
        store.add_part("records", rows(number))
    before = store.read_table("records")
    steps = 0

    def killed(inner):
        def step(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps > kills:
                raise KeyboardInterrupt
            return inner(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        for cls, name in ((Path, "replace"), (Path, "unlink"), (Journal, "enter")):
            patch.setattr(cls, name, killed(getattr(cls, name)))
        with pytest.raises(KeyboardInterrupt):
            store.compact("records", 8)
    pd.testing.assert_frame_equal(store.read_table("records"), before)
    store.mend_journal()
    store.compact("records", 8)
    store.add_part("records", rows(8))
    after = store.read_table("records")
    pd.testing.assert_frame_equal(after.iloc[:24], before, check_dtype=False)
    assert len(after) == 27
    assert [path.name for path in store.shards("records")] == [
        "part-000000-000007.parquet",
        "part-000008.parquet",
    ]
    assert len(list(store.path.glob("records/*"))) == 2
    assert problems(store)[0] == []


def test_many_batches_end_in_few_files_and_resume(store: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generation, "COMPACT_EVERY", 4)
    plan = planned(10 * BATCH)
    generate(store, SPEC, Drawn(), plan[: 9 * BATCH], ledger(store))
    assert len(store.shards("records")) == 3
    again = Drawn()
    generate(store, SPEC, again, plan, ledger(store))
    assert again.asked == [[27, 28, 29]]
    assert len(hashes(store)) == 30
    assert problems(store)[0] == []


def test_what_a_user_would_have_seen_is_a_column(store: Run):
    store.add_part(
        "records",
        pd.DataFrame(
            {"request": list("abcd"), "image": ["1", "2", "3", None], "outcome": [*["ok"] * 3, "x"]}
        ),
    )

    def delivered() -> dict[str, str | None]:
        with store.connect() as database:
            return dict(database.execute("SELECT request, delivered FROM delivered").fetchall())

    assert delivered() == {"a": None, "b": None, "c": None, "d": "none"}
    flags = pd.DataFrame({"request": ["a", "b"], "image": ["1", "2"], "flagged": [True, False]})
    store.add_part("detections/safety-checker", flags)
    assert delivered() == {"a": "black", "b": "image", "c": None, "d": "none"}


def test_the_model_itself_makes_the_same_images_through_the_writer(
    tiny_model: Path, tmp_path: Path
):
    spec = Spec(model=str(tiny_model), batch_size=BATCH)
    store, backend = started(spec, tmp_path / "run")
    generate(store, spec, backend, planned(), ledger(store))
    for members in (planned()[:BATCH], planned()[BATCH : 2 * BATCH]):
        for member, result in zip(
            members, backend.generate([m.request for m in members], BATCH), strict=True
        ):
            stored = store.load_image(hashes(store)[member.request.id])
            assert result.image is not None
            assert stored.tobytes() == result.image.tobytes()


def test_a_journal_line_that_is_no_entry_is_named(store: Run):
    generate(store, SPEC, Drawn(), planned(), ledger(store))
    path = store.journal.path
    lines = path.read_text().splitlines()
    for bad in ("[]", '{"file": "a"}', "{", "\ufeff"):
        path.write_text("\n".join([lines[0], bad, *lines[1:]]) + "\n")
        assert problems(store) == ([f"{path}:2 is damaged: not an entry"], 1)
    path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert "journal.jsonl:2: the chain is broken here" in problems(store)[0]
