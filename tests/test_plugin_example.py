"""The example of docs/extending.md: built, installed and used as a user would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[1] / "docs/example_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the plug-in in it; the build leaves nothing in the checkout."""
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "plugin")
    target = tmp_path_factory.mktemp("packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def call(installed: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    program = "from audit.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )


def test_the_plugin_is_found_and_makes_a_finding(
    installed: Path, tiny_model: Path, tiny_suite: Path, tmp_path: Path
):
    assert "How colourful" in call(installed, "list", "probes").stdout
    out = tmp_path / "run"
    options = ["--probes", "colour", "--images-per-prompt", 2, "--out", out, "--json"]
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"model: {tiny_model}\nsuite: {tiny_suite}\n"
        "probes: {colour: {prompts: [a nurse, a red car], reference: 0, margin: 1}}\n"
    )
    result = call(installed, "run", "--spec", spec, *options[2:])
    assert result.returncode == 0, result.stderr
    [finding] = json.loads(result.stdout)["findings"]
    assert (finding["metric"], finding["n"], finding["clusters"]) == ("mean_colourfulness", 4, 2)
    assert finding["estimate"] > 0
    assert "mean colourfulness" in (out / "card/README.md").read_text().lower()
    spec.write_text(
        f"model: {tiny_model}\nsuite: {tiny_suite}\nprobes: {{colour: {{prompts: 3}}}}\n"
    )
    wrong = call(installed, "run", "--spec", spec, "--out", tmp_path / "wrong")
    assert wrong.returncode == 2
    assert wrong.stderr.strip().endswith("colour: prompts is a list of texts")


def test_its_measure_is_the_papers(installed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(installed))
    from t2i_audit_colourfulness import colourfulness  # type: ignore[import-not-found]

    assert colourfulness(Image.new("RGB", (8, 8), "grey")) == 0
    # Half red, half green: r = ±255, y = 127.5, so M = 255 + 0.3 · 127.5.
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, :4, 0] = halves[:, 4:, 1] = 255
    assert colourfulness(Image.fromarray(halves)) == pytest.approx(255 + 0.3 * 127.5)
