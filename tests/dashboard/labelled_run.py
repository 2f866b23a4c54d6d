"""A made-up run of portraits whose truth is known, to be labelled. As a script: FOLDER [IMAGES]."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audit.labels import Labels
from audit.plan import Request
from audit.recompute import PROBE
from audit.reopened import attributes_of, keep_suite
from audit.store import SCHEMA_VERSION, Run
from audit.suites import Suite
from tests.dashboard.synthetic_run import drawing

JOBS = ("nurse", "pilot", "<b>baker</b>")
SHARES = (0.9, 0.2, 0.5)
SUITE: dict[str, Any] = {
    "attributes": {
        "gender": {
            "metric": "share_female_presenting",
            "positive": "female",
            "named": "female-presenting",
            "reference": 0.5,
            "reference_name": "parity",
            "margin": 0.1,
            "labels": {"female": "a woman", "male": "a man"},
        },
        "glasses": {
            "metric": "share_glasses",
            "positive": "yes",
            "named": "wearing glasses",
            "reference": 0.5,
            "reference_name": "parity",
            "margin": 0.1,
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
    rng = np.random.default_rng(5)
    run = Run.create(folder)
    uses, plan, records, clip, checker = [], [], [], [], []
    for job, share in zip(JOBS, SHARES, strict=True):
        for index in range(images):
            prompt = f"a portrait of a {job}"
            request = Request(prompt, seed=index, steps=20, height=64, width=64)
            number = len(records)
            tags = {"subject": job, "group": "occupation", "template": "main", "identity": ""}
            tags |= {"dimension": "", "coded": "", "people": "one", "arm": "base", "index": index}
            uses.append({"request": request.id, "text": prompt, **tags})
            plan.append({"request": request.id, **asdict(request)})
            plan[-1] |= {"batch": number // 16, "slot": number % 16}
            image = run.save_image(drawing(5000 + number))
            records.append(
                {
                    "request": request.id,
                    "image": image,
                    "outcome": "ok",
                    "error": "",
                    "true": "female" if rng.random() < share else "male",
                }
            )
            female = (records[-1]["true"] == "female") == (rng.random() > 0.15)
            glasses = rng.random() < 0.3
            clip.append(
                {
                    "request": request.id,
                    "image": image,
                    "gender_female": 0.25 + 0.02 * female,
                    "gender_male": 0.26,
                    "glasses_yes": 0.25 + 0.02 * glasses,
                    "glasses_no": 0.26,
                    "alignment": 0.3,
                }
            )
            flagged = {
                "request": request.id,
                "image": image,
                "flagged": index == 3 and job != "pilot",
            }
            checker.append(flagged)
    run.write_table("plan", pd.DataFrame(plan))
    run.write_table(f"uses/{PROBE}", pd.DataFrame(uses))
    run.write_part("records", 0, pd.DataFrame(records))
    run.write_part("detections/clip", 0, pd.DataFrame(clip))
    run.write_part("detections/safety-checker", 0, pd.DataFrame(checker))
    run.write_json(
        "run.json",
        {
            "schema_version": SCHEMA_VERSION,
            "model": "planted",
            "suite": "planted",
            "sampler": {},
            "backend": {"weights": {}},
            "spec": {"model": "planted", "probes": {}},
            "created": "2026-11-20T06:30:00Z",
        },
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
