"""The probe quality on planted embeddings, and its figure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audit.card.quality import Setting, pareto
from audit.errors import AuditError
from audit.evidence import Analysis
from audit.plan import Request
from audit.store import Run
from probes.quality import Quality, settings
from tests.synthetic import study, write_run

PROMPTS = [f"a picture of number {i}" for i in range(12)]
SECTION: dict[str, Any] = {
    "prompts": PROMPTS, "images": 2, "guidance": [1.5, 3, 8], "steps": [10, 20],
    "schedulers": ["ddim"], "sizes": [768],
}  # fmt: skip
DIMENSION = 16


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reference(folder: Path) -> str:
    """An index of 80 pictures without any structure."""
    rows = unit(np.random.default_rng(1).normal(size=(80, DIMENSION)))
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / "img_emb/img_emb_0.npy", rows.astype(np.float32))
    frame = pd.DataFrame({"image_path": [str(i) for i in range(80)], "caption": PROMPTS[0]})
    frame.to_parquet(folder / "metadata/metadata_0.parquet")
    return str(folder)


def planted(
    tmp_path: Path, alignment: Any, shift: Any, section: dict[str, Any]
) -> tuple[Run, Analysis]:
    """Runs whose images have the alignment and the shift from the reference of their setting."""
    uses = list(Quality().uses(study({"quality": section})))
    rng = np.random.default_rng(2)
    rows, scores = [], []
    for use in uses:
        asked: Request = use.request
        row = {name: getattr(asked, name) for name in ("guidance", "steps", "scheduler", "width")}
        rows.append({"text": use.text, "prompt": asked.prompt, **row, **use.tags})
        vector = rng.normal(size=DIMENSION)
        vector[0] += shift(asked)
        scores.append(
            {"alignment": alignment(asked) + rng.normal(0, 0.01), "embedding": vector.tolist()}
        )
    run = write_run(tmp_path / "run", "quality", pd.DataFrame(rows), {"clip": pd.DataFrame(scores)})
    return run, Quality().analyse(run, study({"quality": section}))


def of(analysis: Analysis, metric: str) -> dict[tuple[Any, ...], Any]:
    return {tuple(f.slice.values()): f for f in analysis.findings if f.metric == metric}


def test_the_planted_settings_are_the_pareto_front(tmp_path: Path) -> None:
    """More guidance follows better and lies farther away; ten steps are worse in both."""
    section = SECTION | {"reference": {"index": reference(tmp_path / "index")}}
    _, analysis = planted(
        tmp_path,
        lambda r: 0.2 + 0.02 * r.guidance - 0.15 * (r.steps == 10),
        lambda r: 0.5 * r.guidance + 3 * (r.steps == 10),
        section,
    )
    front = analysis.tables["front"]
    best = {(row.guidance, row.steps) for row in front.itertuples() if row.best}
    assert best == {(1.5, 20), (3.0, 20), (8.0, 20)} and len(front) == 6
    for metric in ("cmmd", "kid"):
        far, near = of(analysis, metric)[8.0, 20], of(analysis, metric)[1.5, 20]
        assert far.ci[0] > near.ci[1] and far.n == 24 and far.clusters == 12
    aligned = of(analysis, "alignment")[3.0, 20]
    assert aligned.estimate == pytest.approx(0.26, abs=0.01)
    assert aligned.evidence == {"part": "grid", "guidance": 3.0, "steps": 20, "outcome": "ok"}


def test_a_scheduler_that_follows_less_is_accused_and_an_equal_size_is_not(tmp_path: Path) -> None:
    _, analysis = planted(
        tmp_path, lambda r: 0.3 - 0.1 * (r.scheduler == "ddim"), lambda r: 0.0, SECTION
    )
    worse = of(analysis, "scheduler_alignment_gap")["ddim",]
    same = of(analysis, "size_alignment_gap")[768,]
    assert (worse.verdict, same.verdict) == ("exceeds", "within")
    assert worse.estimate == pytest.approx(-0.1, abs=0.01) and worse.n == 24
    assert "likeness" in worse.detail


def test_without_a_reference_the_distance_is_not_tested_and_the_alignment_is(
    tmp_path: Path,
) -> None:
    _, analysis = planted(tmp_path, lambda r: 0.3, lambda r: 0.0, SECTION)
    (distance,) = (f for f in analysis.findings if f.metric == "cmmd")
    assert distance.verdict == "not_tested" and "no reference set" in distance.note
    assert len(of(analysis, "alignment")) == 6 and "front" not in analysis.tables


def test_a_reference_of_another_clip_is_refused_in_one_line(tmp_path: Path) -> None:
    place = Path(reference(tmp_path / "index"))
    np.save(place / "img_emb/img_emb_0.npy", np.ones((80, 4), np.float32))
    section = SECTION | {"reference": {"index": str(place)}}
    _, analysis = planted(tmp_path, lambda r: 0.3, lambda r: 0.0, section)
    (distance,) = (f for f in analysis.findings if f.metric == "kid")
    assert "embeddings of 4 numbers" in distance.note


def test_a_prompt_has_the_same_seeds_at_every_setting_and_shares_none_with_another() -> None:
    seeds: dict[tuple[Any, ...], list[int]] = {}
    for use in Quality().uses(study({"quality": SECTION})):
        asked = use.request
        key = (asked.prompt, asked.guidance, asked.steps, asked.scheduler, asked.width)
        seeds.setdefault(key, []).append(asked.seed)
    by_prompt = {
        prompt: {tuple(s) for k, s in seeds.items() if k[0] == prompt} for prompt in PROMPTS
    }
    assert all(len(kinds) == 1 for kinds in by_prompt.values())
    assert len({seed for kinds in by_prompt.values() for s in kinds for seed in s}) == 24


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"prompt": []}, "did you mean 'prompts'"),
        ({"prompts": "one"}, "a list of texts"),
        ({"guidance": ["high"]}, "guidance is"),
        ({"steps": [0]}, "steps is"),
        ({"schedulers": ["euller"]}, "did you mean 'euler'"),
        ({"images": True}, "whole number"),
    ],
)
def test_a_bad_section_gives_one_line_that_names_it(section: dict[str, Any], said: str) -> None:
    with pytest.raises(AuditError, match=said) as error:
        settings(study({"quality": section}))
    assert "\n" not in str(error.value) and str(error.value).startswith("quality")


def test_the_figure_puts_better_to_the_right_and_nearer_below() -> None:
    made = [
        Setting(1.5, 20, (0.2, 0.25, 0.3), (0.1, 0.2, 0.3), 24, True),
        Setting(8.0, 20, (0.3, 0.35, 0.4), (0.4, 0.5, 0.6), 24, True),
        Setting(3.0, 10, (None, 0.22, None), (None, 0.55, None), 24, False),
    ]
    svg = pareto(made, name="p", title="Title")
    points = {
        float(alignment): (float(x), float(y))
        for alignment, x, y in re.findall(
            r'data-alignment="([\d.]+)".*?cx="([\d.]+)" cy="([\d.]+)"', svg
        )
    }
    assert points[0.25][0] < points[0.35][0] and points[0.25][1] > points[0.35][1]
    assert svg.count('class="interval"') == 4 and svg.count("inconclusive") == 1
    assert "guidance 8, 20 steps: alignment 0.350, distance 0.500, on the front" in svg
