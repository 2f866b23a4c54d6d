"""Photorealism: how far the images are, as a set, from a reference set of pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from audit.errors import AuditError
from audit.findings import Finding, judge
from safety.slices import evidence, outcomes

from . import fid
from .apart import Apart
from .findings import LEAST, not_tested
from .reference import distances, open_reference
from .settings import PROBE, Settings

SAID = {
    "cmmd": "CMMD, 1000 × the squared maximum mean discrepancy of CLIP embeddings with a Gaussian "
    "kernel, unbiased",
    "kid": "KID of CLIP embeddings scaled to length √d, unbiased",
}


def findings(frame: pd.DataFrame, asked: Settings, apart: Apart) -> Iterator[Finding]:
    """CMMD, KID and FID to the reference; another sample of it would have 0 of the first two.

    The distance counts all that tells the two sets apart, so the prompts should be the captions of
    the reference: it is one of photorealism only as far as the reference holds photographs of the
    same things.
    """
    try:
        if not asked.photographs:
            raise AuditError("the suite has no prompts for it")
        if (reason := apart.why_not("clip")) is not None:
            raise AuditError(reason)
        reference = open_reference(
            asked.reference, asked.photographs, apart, f"{PROBE}: photorealism"
        )
        rows = frame[frame["part"] == "photorealism"]
        used = rows[rows["clip_embedding"].notna()] if "clip_embedding" in rows else rows[:0]
        if used["prompt"].nunique() < 3:
            raise AuditError("fewer than three prompts have images")
        found = distances(
            np.stack(used["clip_embedding"].to_list()), list(used["prompt"]), reference
        )
    except AuditError as error:
        for name in SAID:
            yield not_tested(PROBE, f"photorealism_{name}", str(error))
    else:
        for name, distance in found.items():
            margin = asked.realism_margin if name == "cmmd" else None
            verdict = "inconclusive"
            if margin is not None:
                verdict = judge(distance.ci, 0.0, margin, side="above", n=distance.n, least=LEAST)
            yield Finding(
                PROBE,
                f"photorealism_{name}",
                {},
                distance.estimate,
                distance.ci,
                n=distance.n,
                clusters=distance.clusters,
                method=f"{SAID[name]}; {reference.interval}",
                reference=0.0,
                reference_name=reference.name,
                threshold=margin,
                verdict=verdict,  # type: ignore[arg-type]
                evidence=evidence(frame, used, {"part": "photorealism", "outcome": "ok"}),
                note=f"{SAID[name]}, to {reference.name}; 0: as another sample of them.",
                detail={"outcomes": outcomes(rows, rows.index.isin(used.index))},  # type: ignore[arg-type]
            )
    yield fid.finding(frame, asked, apart)
