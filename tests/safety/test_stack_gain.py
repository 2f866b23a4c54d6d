"""The probe and ``filters compare`` say what a stack gains: where filters know different things,
and not where they know the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import norm

from audit.findings import Finding
from probes.safety_filters import SafetyFilters
from safety.commands.filters import filters
from safety.filters.stacking import stack
from tests.safety.synthetic import assert_traceable, build, by_id, study

PROBE = SafetyFilters()
STRENGTH = 1.5
ALONE, BOTH = norm.cdf(STRENGTH / np.sqrt(2)), norm.cdf(STRENGTH)


def _section(prompts: int) -> dict[str, Any]:
    return {
        "cases": [
            {"prompt": f"{concept} {i}", "concept": concept, "restricted": concept == "sign"}
            for concept in ("sign", "bowl")
            for i in range(prompts)
        ]
    }


def _found(
    folder: Path, *, same: bool = False, prompts: int = 10, silent: int = 0, **section: Any
) -> Finding:
    """Two filters of equal strength with noise of their own, or with the same noise.

    `silent`: so many images have no score of the second.
    """
    known = study("safety", _section(prompts) | section, images_per_prompt=20)
    uses = list(PROBE.uses(known))
    rng = np.random.default_rng(5)
    restricted = np.array([use.tags["restricted"] for use in uses])
    first, second = (STRENGTH * restricted + rng.normal(size=len(uses)) for _ in range(2))
    second = first if same else second
    scores = {
        "safety-checker": [{"flagged": bool(s > 1), "margin": float(s)} for s in first],
        "opennsfw": [
            None if at < silent else {"nsfw": float(norm.cdf(s))} for at, s in enumerate(second)
        ],
    }
    run = build(folder / "run", PROBE.name, uses, scores)
    findings = PROBE.analyse(run, known).findings
    assert_traceable(run, PROBE.name, findings)
    return by_id(findings)["safety-filters.stack_gain"]


def test_filters_that_know_different_things_gain_what_theory_says(tmp_path: Path) -> None:
    found = _found(tmp_path)
    assert found.ci is not None
    assert 0 < found.ci[0] <= BOTH - ALONE <= found.ci[1]
    assert (found.n, found.clusters, found.detail["restricted"]) == (400, 20, 200)
    assert set(found.detail["weights"]) == {"safety-checker", "opennsfw"}
    assert min(found.detail["weights"].values()) > 0
    assert found.verdict == "inconclusive"  # more is no fault: no threshold is declared


def test_filters_that_know_the_same_gain_nothing(tmp_path: Path) -> None:
    found = _found(tmp_path, same=True)
    assert found.ci is not None and found.ci[0] <= 0 <= found.ci[1]
    assert abs(found.estimate or 0) < 0.01


def test_a_combination_is_no_part_of_the_stack(tmp_path: Path) -> None:
    either = [{"name": "either", "any": ["safety-checker", "opennsfw"]}]
    assert set(_found(tmp_path, filters=either).detail["weights"]) == {
        "safety-checker",
        "opennsfw",
    }


def test_images_that_one_filter_left_out_are_counted(tmp_path: Path) -> None:
    found = _found(tmp_path, silent=30)
    assert found.n == 370
    assert found.detail["left_out"] == {"safety-checker": 30, "opennsfw": 0}


def test_too_few_prompts_or_images_give_no_figure(tmp_path: Path) -> None:
    for folder, about in (("a", {"prompts": 1}), ("b", {"silent": 190})):
        found = _found(tmp_path / folder, **about)
        assert found.verdict == "not_tested"
        assert "needs 16 restricted images of two prompts" in found.note
        assert found.note.endswith("of 1.")


def test_two_filters_without_an_error_leave_a_gain_open_by_what_so_few_images_can_show() -> None:
    restricted, prompts = np.arange(40) < 20, np.arange(40) // 4
    perfect = restricted + 0.1 * np.random.default_rng(0).random(40)
    found = stack({"a": perfect, "b": -1 / perfect}, restricted, prompts)
    assert (found.auc, found.best_auc, found.gain) == (1, 1, 0)
    assert -found.ci[0] == found.ci[1] == pytest.approx(0.09, abs=0.05)
    assert "Newcombe's limit" in found.method


def _table(folder: Path, n: int) -> Path:
    rng = np.random.default_rng(1)
    file = folder / "scores.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["label", "one", "two"])
        for i in range(n):
            noise = rng.normal(size=2)
            writer.writerow([i % 2, *(f"{norm.cdf(STRENGTH * (i % 2) + e):.6f}" for e in noise)])
    return file


def test_compare_says_what_the_stack_gains(tmp_path: Path) -> None:
    file = _table(tmp_path, 600)
    document = json.loads(CliRunner().invoke(filters, ["compare", str(file), "--json"]).stdout)
    stacked = document["stack"]
    low, high = stacked["ci"]
    assert 0 < low <= BOTH - ALONE <= high
    assert stacked["n"] == 600 and "scores" not in stacked
    said = CliRunner().invoke(filters, ["compare", str(file)]).stdout
    assert f"gain {stacked['gain']:+.4f}" in said


def test_compare_says_why_few_images_are_not_stacked(tmp_path: Path) -> None:
    result = CliRunner().invoke(filters, ["compare", str(_table(tmp_path, 30))])
    assert result.exit_code == 0
    assert "stack of all: not tested: 15 restricted and 15 harmless images" in result.stdout
