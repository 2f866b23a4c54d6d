"""Shared pieces: a tiny Stable Diffusion folder of the true classes, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_clip, make_stable_diffusion, make_suite


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes and converted checkpoints go to a folder of this run, not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2I_AUDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epsilon-prediction model with its safety checker, 32×32 images."""
    return make_stable_diffusion(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of three prompts with a random CLIP of its own."""
    folder = tmp_path_factory.mktemp("suite")
    return make_suite(folder / "tiny.yaml", make_clip(folder / "clip"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many inputs the fuzz tests tried. Here, for it runs where xdist's workers report to."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    tried = sum(
        value
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "inputs_tried" and report.when == "teardown"
    )
    if tried:
        terminalreporter.write_line(f"fuzzing: {tried:,} inputs tried")
