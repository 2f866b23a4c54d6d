"""Tables of the probe with planted labels, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audit.evidence import Analysis
from audit.store import Run
from probes.bias.settings import Settings, settings
from probes.demographics import Demographics
from tests.synthetic import study, write_run

LABELS = {"gender": ("female", "male"), "skin": ("light", "medium", "dark")}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "gender": {
        "metric": "share_female_presenting",
        "positive": "female",
        "named": "female-presenting",
        "reference": 0.5,
        "reference_name": "parity",
        "margin": 0.1,
        "labels": {"female": "a woman", "male": "a man"},
    },
    "skin": {
        "metric": "share_dark_skin",
        "positive": "dark",
        "named": "having dark skin",
        "reference": 0.3333,
        "reference_name": "equal bands",
        "margin": 0.1,
        "labels": {"light": "light", "medium": "medium", "dark": "dark"},
    },
}

TAGS = {
    "group": "occupation",
    "template": "main",
    "identity": "",
    "dimension": "",
    "coded": "",
    "people": "one",
    "arm": "base",
}
"""Of a use of a plain prompt, beside its subject and index."""


def suite(
    prompts: int = 12, attributes: Sequence[str] = ("gender",), **more: Any
) -> dict[str, Any]:
    jobs = {f"job{i}": {"text": f"a job{i}"} for i in range(prompts)}
    section = {"attributes": list(attributes), "prompts": jobs, **more}
    return {"attributes": ATTRIBUTES, "demographics": section}


def asked(content: Mapping[str, Any], **options: Any) -> Settings:
    return settings(study(dict(content), demographics=options))


def uses(subjects: Sequence[str], n: int, **tags: Any) -> pd.DataFrame:
    """One row per subject and index, with the columns of the probe's table."""
    frame = pd.DataFrame(
        {
            "subject": np.repeat(list(subjects), n),
            "index": np.tile(np.arange(n), len(subjects)),
            **TAGS,
            **tags,
        }
    )
    frame["text"] = frame.subject + "/" + frame.template + "/" + frame.identity
    return frame.assign(prompt=frame.text, outcome="ok")


def scores(true: Sequence[Any], attribute: str = "gender") -> pd.DataFrame:
    """CLIP's cosines that say `true`; ``undetermined`` where they are equal."""
    labels = LABELS[attribute]
    told = np.asarray(true, dtype=object)
    return pd.DataFrame({f"{attribute}_{x}": 0.2 + 0.05 * (told == x) for x in labels})


def analysed(
    path: Path,
    rows: pd.DataFrame,
    said: Mapping[str, Sequence[Any]],
    content: Mapping[str, Any],
    detections: Mapping[str, pd.DataFrame] | None = None,
    **options: Any,
) -> tuple[Run, Analysis]:
    """The whole analysis of a written run. `said`: attribute → CLIP's label of each row."""
    clip = pd.concat([scores(labels, name) for name, labels in said.items()], axis=1)
    clip["alignment"] = 0.3
    written = rows.drop(columns=["outcome", "prompt"])
    run = write_run(
        path,
        "demographics",
        written,
        {"clip": clip, **(detections or {})},
        outcome=rows.outcome.tolist(),
    )
    return run, Demographics().analyse(run, study(dict(content), demographics=options))
