"""A run survives kills at any moment, two Ctrl-C, a clock that goes back, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from audit import store as store_module
from audit.atomic import replace
from audit.errors import Incomplete
from audit.store import Run
from audit.verify import problems
from tests import survival
from tests.test_cli import PROGRAM, options

KILLS = 4
"""Of `python -m tests.survival 50`, which is run by hand, enough to reach every step."""


def test_a_run_killed_at_any_moment_ends_like_an_undisturbed_one(
    tiny_model: Path, tiny_suite: Path, tmp_path: Path
):
    spec = survival.spec_of(tiny_model, tiny_suite)
    found, reached = survival.wrong(spec, tmp_path, KILLS)
    assert found == [], reached
    assert sum(reached.values()) == KILLS


def test_ctrl_c_twice_loses_no_more_than_once(tiny_model: Path, tiny_suite: Path, tmp_path: Path):
    out = tmp_path / "run"
    command = [*PROGRAM, *map(str, options(tiny_model, tiny_suite, out)), "--steps", "40"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("records/part-*")) and process.poll() is None:
        time.sleep(0.05)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    error = process.communicate(timeout=120)[1]
    # The first may find the run just finished.
    assert process.returncode in (0, 1), error
    assert "Traceback" not in error
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert problems(Run(out))[0] == []
    assert Run(out).read_table("records").request.is_unique


def test_a_clock_that_goes_back_breaks_no_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run.create(tmp_path / "run")
    now = time.time()
    for number, seconds in enumerate((0, -3600, 86_400, -86_400 * 365)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        run.write_json("run.json", {"schema_version": 1, "number": number})
    monkeypatch.undo()
    assert run.journal.broken_at() is None
    assert problems(run)[0] == []
    assert [e["time"] for e in run.journal.entries()] != sorted(
        e["time"] for e in run.journal.entries()
    )


def test_no_space_for_a_thumbnail_leaves_no_image_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from PIL import Image

    run = Run.create(tmp_path / "run")

    def on_a_full_disk(path: Path, data: bytes, *before: Callable[[], None]) -> None:
        if "thumbs" in path.parts:
            path.parent.mkdir(parents=True, exist_ok=True)
            name = f".tmp-{os.getpid()}-{threading.get_ident()}-{path.name}"
            path.with_name(name).symlink_to("/dev/full")
        replace(path, data, *before)

    monkeypatch.setattr(store_module, "replace", on_a_full_disk)
    with pytest.raises(Incomplete, match="No space left on device; free space and run the same"):
        run.save_image(Image.new("RGB", (8, 8), "teal"))
    assert [p for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"] == []
    monkeypatch.undo()
    digest = run.save_image(Image.new("RGB", (8, 8), "teal"))
    assert run.image_path(digest, thumbnail=True).is_file()
