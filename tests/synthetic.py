"""Runs whose scores are planted: the analysis is tested without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from audit import suites
from audit.spec import Spec
from audit.store import Run
from audit.study import Study


def study(suite: dict[str, Any], **options: Any) -> Study:
    return Study(Spec(probes=options), suites.Suite("planted", "", suite), None)


def write_run(
    path: Path,
    probe: str,
    rows: pd.DataFrame,
    detections: dict[str, pd.DataFrame] | None = None,
    **records: Any,
) -> Run:
    """`rows`: one per use (its tags); detections: detector → columns in the same order.

    An image whose scores are all missing is recorded as failed.
    """
    run = Run.create(path)
    run.write_json("run.json", {"schema_version": 1, "model": "planted"})
    ids = [f"{number:032x}" for number in range(len(rows))]
    rows = rows.reset_index(drop=True)
    if "text" not in rows:
        rows["text"] = ""
    run.write_table(f"uses/{probe}", rows.assign(request=ids))
    outcome = records.pop("outcome", ["ok"] * len(rows))
    run.write_part(
        "records",
        0,
        pd.DataFrame(
            {
                "request": ids,
                "image": [f"{number:064x}" for number in range(len(rows))],
                "outcome": outcome,
                "tokens_cut": 0,
                **records,
            }
        ),
    )
    for detector, frame in (detections or {}).items():
        frame = frame.reset_index(drop=True).assign(request=ids)
        made = [o == "ok" for o in outcome]
        run.write_part(f"detections/{detector}", 0, frame[made])
    return run
