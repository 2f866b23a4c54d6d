"""The values of the single images behind a finding, found again from the run's tables.

A finding holds an estimate and the query of its images, not their values. For shares, rates and
paired gaps the values are in the run's tables. They are used only where they give back the
finding's own uncorrected estimate and number of images: what is not proven so is never paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from audit.evidence import select
from audit.findings import Finding
from audit.perception import CLIP, UNDETERMINED, WITHOUT, perceived

from .differences import Reading
from .opened import Opened

CLOSE = 1e-6
"""Distance of the recomputed from the stored estimate: scores are stored in single precision."""

Recipe = Callable[[Opened, Finding], Iterator[pd.DataFrame]]
"""Frames with the columns value, cluster, prompt and seed, of which one should prove itself."""


def reading(run: Opened, finding: Finding) -> Reading | None:
    """The values behind a finding, proven to be those; ``None`` where they cannot be found."""
    recipe = _recipe(finding)
    stated = finding.estimate if finding.raw is None else finding.raw
    if recipe is None or stated is None or not finding.n:
        return None
    try:
        for frame in recipe(run, finding):
            found = _proven(frame, stated, _labelled(finding))
            if found is not None:
                return found
    except (KeyError, TypeError, ValueError):
        return None  # a table of another version: without proof there is no pairing
    return None


def _labelled(finding: Finding) -> int:
    """A finding's images that have a value. A corrected share of two labels also rests on those
    that are undetermined."""
    outcomes: Mapping[str, int] = finding.detail.get("outcomes") or {}
    labelled = sum(number for name, number in outcomes.items() if name not in WITHOUT)
    return min(finding.n, int(finding.detail.get("labelled", labelled or finding.n)))


def _proven(frame: pd.DataFrame, stated: float, n: int) -> Reading | None:
    frame = frame.dropna(subset=["value", "prompt", "seed"])
    values = frame["value"].to_numpy(dtype=float)
    if len(values) != n or not np.isfinite(values).all():
        return None
    clusters = frame["cluster"].astype(str).to_numpy(object)
    prompts = frame["prompt"].astype(str).to_numpy(object)
    _, index = np.unique(prompts, return_inverse=True)
    sizes = np.bincount(index)
    for weights in (np.full(n, 1 / n), 1 / (len(sizes) * sizes[index])):
        if abs(float(weights @ values) - stated) <= CLOSE:
            return Reading(
                values,
                weights,
                clusters,
                prompts,
                frame["seed"].to_numpy(np.int64),
                bool(np.isin(values, (0.0, 1.0)).all()),
            )
    return None


_FOUND = ("detection_rate", "true_positive_rate")


def _recipe(finding: Finding) -> Recipe | None:
    probe, metric = finding.probe, finding.metric
    if probe == "demographics" and metric.startswith("share_"):
        return _shares
    if probe == "watermarks" and metric.startswith(_FOUND):
        return _marks
    return {
        ("safety-filters", "block_rate"): _decisions,
        ("safety-filters", "miss_rate"): _decisions,
        ("safety-filters", "false_block_rate"): _decisions,
        ("memorization", "copy_rate"): _copies,
        ("languages", "alignment_gap"): _alignment,
        ("demographics", "identity_alignment_gap"): _identity,
        ("demographics", "identity_quality_gap"): _identity,
        ("limitations", "text_exact_match"): _words,
        ("limitations", "text_character_error_rate"): _words,
        ("limitations", "face_detection_rate"): _faces,
        ("limitations", "extra_face_rate"): _faces,
        ("quality", "alignment"): _followed,
    }.get((probe, metric))


def _shares(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """Whether CLIP perceived the label whose share it is; images without a label do not count."""
    drawn = run.table("tables/demographics.shares")
    mine = drawn[drawn["short"] == finding.metric.removeprefix("share_")]
    if mine.empty:
        return
    attribute, positive = str(mine["attribute"].iloc[0]), mine["positive"].iloc[0]
    scores = run.scores(CLIP)
    start = f"{attribute}_"
    columns = [str(name) for name in scores if str(name).startswith(start)]
    columns_here = {name: f"{CLIP}_{name}" for name in columns}
    named = scores[["request", *columns]].rename(columns=columns_here)
    rows = _selected(run, finding).merge(named, on="request", how="left")
    faces = run.scores("faces")
    if "count" in faces:
        rows = rows.merge(
            faces[["request", "count"]].rename(columns={"count": "faces_count"}), how="left"
        )
    labels = [name.removeprefix(start) for name in columns]
    for face in (False, True):
        said = perceived(rows, attribute, labels, CLIP, _band(run.info), face=face)
        value = (said == positive).astype(float).where(said.isin(labels))
        yield _frame(rows, value, rows["subject"])


def _band(info: Mapping[str, Any]) -> float:
    spec = info.get("spec") or {}
    options = (spec.get("probes") or {}).get("demographics") or {}
    return float((options.get("undetermined") or {}).get(CLIP, UNDETERMINED[CLIP]))


def _decisions(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """Whether the filter blocked the image; for misses, whether it did not."""
    scores = run.table("tables/safety_filters.scores")
    mine = scores[scores["filter"] == finding.slice.get("filter")]
    rows = _selected(run, finding).merge(mine[["request", "blocked"]], on="request")
    blocked = rows["blocked"].astype(float)
    value = 1 - blocked if finding.metric == "miss_rate" else blocked
    yield _frame(rows, value, rows["prompt"])


def _copies(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """Whether the image is a copy of a training image."""
    near = run.table("tables/memorization.neighbours")
    chosen = select(near[near["distance"].notna()], finding.evidence)
    asked = run.asked("memorization").drop_duplicates("request")
    rows = chosen[["request", "copied"]].merge(asked, on="request", how="left")
    yield _frame(rows, rows["copied"].astype(float), rows["text"])


def _alignment(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """CLIP's alignment of the image minus that of the English prompt's image on the same seed."""
    asked = run.asked("languages")
    scored = asked.merge(run.scores(CLIP)[["request", "alignment"]], on="request", how="left")
    scored["alignment"] = scored["alignment"].where(scored["outcome"] == "ok")
    english = scored[scored["arm"] == "english"].drop_duplicates(["key", "index"])
    rows = select(scored, finding.evidence).merge(
        english[["key", "index", "alignment"]], on=["key", "index"], suffixes=("", "_english")
    )
    yield _frame(rows, rows["alignment"] - rows["alignment_english"], rows["key"])


def _identity(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """A score of the image with an identity named minus that of the same prompt without, in pairs
    of one seed."""
    scores = {"identity_alignment_gap": (CLIP, "alignment")}
    detector, column = scores.get(finding.metric, ("faces", "confidence"))
    asked = run.asked("demographics")
    scored = asked.merge(run.scores(detector)[["request", column]], on="request", how="left")
    scored[column] = scored[column].where(scored["outcome"] == "ok")
    pair = ["subject", "template", "index"]
    base = scored[scored["arm"] == "base"].drop_duplicates(pair)[[*pair, column]]
    named = select(scored[scored["arm"] == "identity"], finding.evidence)
    rows = named.merge(base, on=pair, suffixes=("", "_base"))
    yield _frame(rows, rows[column] - rows[f"{column}_base"], rows["prompt"])


def _marks(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """Whether the mark is found. As many images as were counted have the smallest p-values, so the
    threshold need not be known; a tie at it proves nothing and gives no frame that fits."""
    if finding.slice.get("p_value", "nominal") != "nominal":
        return  # a calibrated p-value is no function of the nominal one
    attack = finding.metric.removeprefix("true_positive_rate").removeprefix("_")
    matches = run.table("tables/watermarks.matches")
    strength = matches["strength"].map(lambda value: f"_{value:g}".replace(".", "_"))
    name = matches["attack"].where(matches["attack"] == "none", matches["attack"] + strength)
    mine = (
        (matches["delivery"] == finding.slice.get("delivery"))
        & (matches["codec"] == finding.slice.get("codec"))
        & (name == ("none" if finding.metric in _FOUND else attack))
    )
    asked = run.asked("watermarks").drop_duplicates("request")
    rows = matches.loc[mine, ["request", "p"]].merge(asked, on="request", how="left")
    events = int(finding.detail.get("events", round((finding.estimate or 0.0) * finding.n)))
    least = rows["p"].sort_values().iloc[events - 1] if events else -1.0
    yield _frame(rows, (rows["p"] <= least).astype(float), rows["prompt"])


def _words(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """Errors of the characters that were asked for, or whether there is none."""
    from audit.detectors.text import best_character_error_rate

    rows = _selected(run, finding).merge(run.scores("text")[["request", "lines"]], on="request")
    rows = rows[rows["lines"].notna()]
    errors = pd.Series(
        [
            best_character_error_rate(list(lines), says)
            for lines, says in zip(rows["lines"], rows["says"], strict=True)
        ],
        rows.index,
        dtype=float,
    )
    exact = finding.metric == "text_exact_match"
    yield _frame(rows, (errors == 0).astype(float) if exact else errors, rows["prompt"])


def _faces(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """Whether a face was found where one was asked for, or more than one."""
    rows = _selected(run, finding).merge(run.scores("faces")[["request", "count"]], on="request")
    wanted = 0 if finding.metric == "face_detection_rate" else 1
    value = (rows["count"] > wanted).astype(float).where(rows["count"].notna())
    yield _frame(rows, value, rows["prompt"])


def _followed(run: Opened, finding: Finding) -> Iterator[pd.DataFrame]:
    """CLIP's alignment of the image with its prompt, at one setting."""
    plan = run.table("plan")[["request", "guidance", "steps"]].drop_duplicates("request")
    asked = run.asked("quality").merge(plan, on="request", how="left")
    scored = asked.merge(run.scores(CLIP)[["request", "alignment"]], on="request", how="left")
    rows = select(scored, finding.evidence)
    yield _frame(rows, rows["alignment"], rows["prompt"])


def _selected(run: Opened, finding: Finding) -> pd.DataFrame:
    """The rows of the probe's table that the finding's evidence selects."""
    rows = run.asked(finding.probe)
    evidence = {key: value for key, value in finding.evidence.items() if key != "probe"}
    for column in [key for key in evidence if key not in rows]:
        for detector in run.detectors:
            start = detector.replace("-", "_") + "_"
            scores = run.scores(detector) if column.startswith(start) else pd.DataFrame()
            own = column.removeprefix(start)
            if own in scores:
                taken = scores[["request", own]].rename(columns={own: column})
                rows = rows.merge(taken, on="request", how="left")
                break
    return select(rows, evidence)


def _frame(rows: pd.DataFrame, value: pd.Series, cluster: pd.Series) -> pd.DataFrame:
    return pd.DataFrame(
        {"value": value, "cluster": cluster, "prompt": rows["prompt"], "seed": rows["seed"]}
    )
