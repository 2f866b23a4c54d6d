"""The command line: one clear line and the right exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audit.store import Run
from audit.verify import problems

PROGRAM = [sys.executable, "-m", "audit.cli"]


def call(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        check=False,
    )


def options(tiny_model: Path, tiny_suite: Path, out: Path) -> list[object]:
    return [
        "run",
        tiny_model,
        "--suite",
        tiny_suite,
        "--out",
        out,
        "--batch-size",
        4,
        "--images-per-prompt",
        3,
        "--probes",
        "demographics,languages",
    ]


def test_help_imports_nothing_heavy():
    code = (
        "import sys, audit.cli; print([m for m in ('torch', 'pandas', 'duckdb', 'numpy') "
        "if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
    assert "Commands:" in call("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "which MODEL?"),
        (["run", "phantm"], "no model 'phantm'"),
        (["run", "owner/model"], "cannot get 'owner/model' (owner/model); tried"),
        (["run", "phantom", "--probes", "langages"], "did you mean 'languages'?"),
        (["run", "phantom", "--probes", ","], "--probes is empty"),
        (["run", "phantom", "--suite", "genral"], "no suite 'genral'; did you mean 'general'?"),
        (["run", "phantom", "--limit", "0"], "--limit: limit must be"),
        (["run", "phantom", "--scheduler", "magic"], "unknown scheduler 'magic'"),
        (["run", "--spec", "missing.yaml"], "cannot read the spec missing.yaml"),
        (["run", "phantom", "--nonsense"], "No such option"),
        (["run", "model.ckpt"], "no file model.ckpt"),
        (["card", "nowhere"], "nowhere is not a run"),
        (["verify", "nowhere"], "nowhere is not a run"),
        (["list", "nothing"], "'nothing' is not one of"),
    ],
)
def test_a_wrong_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments, message: str):
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_folder_that_cannot_be_written_is_said_before_the_model_is_loaded(tmp_path: Path):
    (tmp_path / "file").write_text("")
    result = call("run", "phantom", "--out", tmp_path / "file" / "run")
    assert (result.returncode, result.stdout) == (2, "")
    assert "cannot write the run folder" in result.stderr


def test_json_is_one_document_on_stdout(tiny_model: Path, tiny_suite: Path, tmp_path: Path):
    result = call(*options(tiny_model, tiny_suite, tmp_path / "run"), "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["outcomes"] == {"ok": 15}
    assert set(document["verdicts"]) == {"demographics", "languages"}
    for path in document["card"].values():
        assert Path(path).is_file()
    assert call("verify", tmp_path / "run").returncode == 0
    (tmp_path / "run/findings.json").write_text("[]")
    changed = call("verify", tmp_path / "run")
    assert changed.returncode == 1
    assert "findings.json: changed after it was written" in changed.stderr


def test_a_dry_run_says_images_time_and_disk_and_makes_nothing(
    tiny_model: Path, tiny_suite: Path, tmp_path: Path
):
    result = call(*options(tiny_model, tiny_suite, tmp_path / "run"), "--dry-run", "--json")
    numbers = json.loads(result.stdout)
    assert (numbers["images"], numbers["uses"]) == (15, {"demographics": 9, "languages": 12})
    assert numbers["minutes"] > 0 and numbers["megabytes"] > 0
    assert not (tmp_path / "run").exists()


def test_a_gate_that_fails_ends_with_exit_code_3(
    tiny_model: Path, tiny_suite: Path, tmp_path: Path
):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"model: {tiny_model}\nsuite: {tiny_suite}\nimages_per_prompt: 3\nprobes: [demographics]\n"
        "gates: ['demographics.share_female_presenting[subject=doctor] <= -0.5']\n"
    )
    result = call("run", "--spec", spec, "--out", tmp_path / "run")
    assert result.returncode == 3, result.stderr
    assert "1 of 1 gates do not hold" in result.stderr


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_is_finished_by_the_same_command(
    tiny_model: Path, tiny_suite: Path, tmp_path: Path, kill
):
    out = tmp_path / "run"
    command = [*PROGRAM, *map(str, options(tiny_model, tiny_suite, out)), "--steps", "40"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("records/part-*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(kill)
    error = process.communicate(timeout=120)[1]
    if process.returncode:
        assert process.returncode == 1
        assert "interrupted; the same command goes on" in error
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert problems(Run(out))[0] == []
    assert len(list(out.glob("records/part-*"))) == 4


@pytest.mark.parametrize("what", ["backends", "probes", "detectors", "models", "suites"])
def test_list_shows_what_there_is(what: str):
    result = call("list", what, "--json")
    assert result.returncode == 0, result.stderr
    assert all(json.loads(result.stdout).values())
