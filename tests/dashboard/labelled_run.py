"""A made-up run of portraits whose truth is known, to be labelled. As a script: FOLDER [IMAGES]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audit.labels import Labels
from audit.plan import Request, Use
from audit.recompute import PROBE
from audit.reopened import attributes_of, keep_suite
from audit.store import Run
from audit.suites import Suite
from tests.dashboard.planted import Planted
from tests.probes.tables import ATTRIBUTES, TAGS

JOBS = ("nurse", "pilot", "<b>baker</b>")
SHARES = (0.9, 0.2, 0.5)
SUITE: dict[str, Any] = {
    "attributes": {
        "gender": ATTRIBUTES["gender"],
        "glasses": ATTRIBUTES["gender"]
        | {
            "metric": "share_glasses",
            "positive": "yes",
            "named": "wearing glasses",
            "labels": {"yes": "glasses", "no": "no glasses"},
        },
    },
    "demographics": {
        "attributes": ["gender", "glasses"],
        "prompts": {job: {"text": f"a portrait of a {job}"} for job in JOBS},
    },
}


def build(folder: Path, images: int = 70) -> Run:
    """`images` of each of three jobs. CLIP is wrong in 15% of them; two images are flagged."""
    rng, planted = np.random.default_rng(5), Planted(folder)
    for job, share in zip(JOBS, SHARES, strict=True):
        for index in range(images):
            prompt = f"a portrait of a {job}"
            request = Request(prompt, seed=index, steps=20, height=64, width=64)
            tags = {"subject": job, "index": index, **TAGS}
            number = 5000 + len(planted.requests)
            planted.ask(PROBE, [Use(request, prompt, tags)])
            true = "female" if rng.random() < share else "male"
            planted.make(request, number, true=true)
            female = (true == "female") == (rng.random() > 0.15)
            glasses = rng.random() < 0.3
            planted.score(
                "clip",
                request,
                gender_female=0.25 + 0.02 * female,
                gender_male=0.26,
                glasses_yes=0.25 + 0.02 * glasses,
                glasses_no=0.26,
                alignment=0.3,
            )
            planted.score("safety-checker", request, flagged=index == 3 and job != "pilot")
    run = planted.write(
        sampler={},
        backend={"weights": {}},
        spec={"model": "planted", "probes": {}},
        created="2026-11-20T06:30:00Z",
    )
    keep_suite(run, Suite("planted", "", SUITE))
    return run


def truth(run: Run) -> pd.DataFrame:
    """Image → subject, true label, what CLIP said."""
    records = run.read_table("records").merge(run.read_table(f"uses/{PROBE}"), on="request")
    frame = records.merge(run.read_table("detections/clip").drop(columns="image"), on="request")
    frame["said"] = np.where(frame.gender_female > frame.gender_male, "female", "male")
    return frame.set_index("image")


def label_some(run: Run, each: int = 24) -> pd.DataFrame:
    """The truth as labels by one rater, of the first images of each job; the rows labelled."""
    labels = Labels(run, attributes_of(run, PROBE))
    rows = truth(run).groupby("subject", sort=False).head(each)
    for image, row in rows.iterrows():
        labels.give("anna", str(image), row.request, "gender", row.true)
    return rows


if __name__ == "__main__":
    build(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 70)
