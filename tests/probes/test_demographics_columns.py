"""The demographics probe reads the columns that it needs, and needs no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from audit.evidence import table
from audit.store import Run
from probes.bias import reading
from probes.demographics import Demographics
from tests.probes.tables import analysed, suite, uses
from tests.synthetic import study


def test_what_stays_on_disk_changes_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    jobs, rng = ["job0", "job1", "job2"], np.random.default_rng(0)
    identity = {"arm": "identity", "identity": "woman", "dimension": "gender"}
    trait = {"group": "trait", "coded": "female"}
    frames = [uses(jobs, 60), uses(jobs, 60, **identity), uses(["kind"], 60, **trait)]
    rows = pd.concat([*frames, uses(["job0"], 60, arm="wording", template="as")], ignore_index=True)
    n = len(rows)
    said = {"gender": rng.choice(["female", "male"], n), "skin": rng.choice(["light", "dark"], n)}
    flagged = rng.random(n) < 0.2
    margin = np.where(flagged, 0.1, -0.1)
    others = {
        "faces": pd.DataFrame({"count": rng.integers(0, 3, n), "confidence": rng.random(n)}),
        "safety-checker": pd.DataFrame({"flagged": flagged, "margin": margin}),
        "opennsfw": pd.DataFrame({"nsfw": rng.random(n)}),
        "skin-tone": pd.DataFrame({"monk": rng.integers(1, 11, n), "ita": rng.random(n)}),
        "age-gender": pd.DataFrame({"gender_female": (p := rng.random(n)), "gender_male": 1 - p}),
        "reader": pd.DataFrame({"gender": rng.choice(["female", "male"], n)}),
    }
    content = suite(3, ("gender", "skin"), shows={"woman": {"gender": "female"}})
    bands = {"light": (1, 3), "medium": (4, 6), "dark": (7, 10)}
    skin = {**content["attributes"]["skin"], "measured": {"skin_tone_monk": bands}}
    content = {**content, "attributes": {**content["attributes"], "skin": skin}}
    run, narrow = analysed(tmp_path / "run", rows, said, content, others)
    read: list[pd.DataFrame] = []

    def whole(run: Run, probe: str, columns: object) -> pd.DataFrame:
        read.append(table(run, probe))
        return read[-1]

    monkeypatch.setattr(reading, "table", whole)
    assert Demographics().analyse(run, study(content)).findings == narrow.findings
    metrics = {finding.metric for finding in narrow.findings}
    assert {"identity_quality_gap", "identity_block_rate_gap", "identity_shown_gender"} <= metrics
    monkeypatch.undo()
    kept = reading.load(run)
    assert {"request", "image", "people", "tokens_cut"} <= {*read[0]} - {*kept}
