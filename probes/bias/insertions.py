"""What naming an identity changes besides the identity: prompt-following, quality, blocking."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from audit.findings import Finding, Side, judge
from audit.statistics import benjamini_hochberg, rate
from probes._language_gaps import Gap, gap
from safety.filters.decisions import FILTERS

from .reading import PROBE
from .settings import Attribute, Settings
from .verdicts import LEAST_IMAGES

PAIR = ["subject", "template", "index"]
BASE = "the same prompt and seed without the identity"


def insertions(
    frame: pd.DataFrame,
    labels: dict[str, pd.Series],
    attributes: tuple[Attribute, ...],
    settings: Settings,
) -> list[Finding]:
    """Per identity the paired gap to its base prompt, and how often the identity shows."""
    identity = frame[frame["arm"] == "identity"]
    if identity.empty:
        return []
    base = frame[frame["arm"] == "base"].drop_duplicates(PAIR).set_index(PAIR)
    pairs = identity.join(base, on=PAIR, rsuffix="_base", how="left")
    return [
        *_gaps(pairs, "clip_alignment", "alignment", settings),
        *_quality(pairs, settings),
        *_blocking(pairs, settings),
        *_obedience(identity, labels, attributes, settings),
    ]


def _gaps(pairs: pd.DataFrame, column: str, name: str, settings: Settings) -> list[Finding]:
    """Gap of a score in pairs, Benjamini-Hochberg over the identities."""
    if f"{column}_base" not in pairs:
        return []
    margin = settings.margin(name)
    found = []
    for identity, own in pairs.groupby("identity", sort=False):
        whole = own.dropna(subset=[column, f"{column}_base"])
        if whole.empty:
            continue
        difference = _gap(whole, whole[column], whole[f"{column}_base"])
        detail = {
            "dimension": str(own["dimension"].iloc[0]),
            "pairs_lost": len(own) - len(whole),
        }
        about = Finding(
            PROBE,
            f"identity_{name}_gap",
            {"identity": str(identity)},
            n=len(whole),
            clusters=int(whole["prompt"].nunique()),
            evidence={"identity": str(identity)},
            note="Negative: worse with the identity named.",
            detail=detail,
        )
        found.append((about, difference))
    return _judged(found, margin, "below", "over the identities")


def _gap(whole: pd.DataFrame, first: pd.Series, second: pd.Series, *, binary: bool = False) -> Gap:
    """A difference in pairs; prompts and seeds are both clusters, of one prompt the seeds alone."""
    if whole["prompt"].nunique() > 1:
        return gap(first, second, whole["prompt"], whole["index"], binary=binary)
    found = gap(first, second, whole["index"], binary=binary)
    return dataclasses.replace(found, method=found.method.replace("prompts", "one prompt's seeds"))


def _judged(
    found: list[tuple[Finding, Gap]], margin: float, side: Side, family: str
) -> list[Finding]:
    """A family of gaps with their figures and verdicts."""
    adjusted = benjamini_hochberg([one.p_beyond(margin, side) for _, one in found])
    findings = []
    for (about, one), p in zip(found, adjusted, strict=True):
        verdict = judge(one.ci, 0.0, margin, side=side, n=about.n, least=LEAST_IMAGES, p=float(p))
        findings.append(
            dataclasses.replace(
                about,
                estimate=one.estimate,
                ci=None if np.isnan(one.ci[0]) else one.ci,
                method=f"{one.method}; Benjamini-Hochberg {family}",
                raw=one.estimate,
                reference=0.0,
                reference_name=BASE,
                threshold=margin,
                verdict=verdict,
                detail={**about.detail, "p_adjusted": float(p)},
            )
        )
    return findings


def _quality(pairs: pd.DataFrame, settings: Settings) -> list[Finding]:
    """The face detector's confidence stands for how well a face is drawn."""
    found = _gaps(pairs, "faces_confidence", "quality", settings)
    if found:
        return found
    return [
        Finding(
            PROBE,
            "identity_quality_gap",
            verdict="not_tested",
            note="Not tested: no detector of faces has looked at these images.",
        )
    ]


def _blocking(pairs: pd.DataFrame, settings: Settings) -> list[Finding]:
    """Blocked with the identity minus without, on the same seeds, for every filter that ran."""
    margin = settings.margin("block_rate")
    found = []
    for name, blocked, before, known in _filters(pairs):
        for identity, own in pairs.groupby("identity", sort=False):
            whole = own[known[own.index]]
            if len(whole) < 2:
                continue
            first, second = blocked[whole.index], before[whole.index]
            about = Finding(
                PROBE,
                "identity_block_rate_gap",
                {"filter": name, "identity": str(identity)},
                n=len(whole),
                clusters=int(whole["prompt"].nunique()),
                evidence={"identity": str(identity)},
                note=f"Blocked {int(first.sum())} times with the identity named, "
                f"{int(second.sum())} times without. Every prompt is harmless.",
            )
            found.append((about, _gap(whole, first, second, binary=True)))
    if not found:
        return [
            Finding(
                PROBE,
                "identity_block_rate_gap",
                verdict="not_tested",
                note="Not tested: no filter has looked at these images.",
            )
        ]
    return _judged(found, margin, "above", "over identities and filters")


def _filters(pairs: pd.DataFrame) -> Iterator[tuple[str, pd.Series, pd.Series, pd.Series]]:
    """Filter, blocked with and without the identity, and which pairs it has decided."""
    for one in FILTERS:
        column = one.decision or one.score
        if column not in pairs or f"{column}_base" not in pairs:
            continue
        known = pairs[one.score].notna() & pairs[f"{one.score}_base"].notna()
        before = pairs[[f"{one.score}_base", f"{column}_base"]].rename(
            columns=lambda name: name.removesuffix("_base")
        )
        before = before.loc[:, ~before.columns.duplicated()]
        yield one.name, _decided(one, pairs, known), _decided(one, before, known), known
    made = pairs["outcome"].isin(["ok", "blocked"]) & pairs["outcome_base"].isin(["ok", "blocked"])
    refused = pairs["outcome"] == "blocked", pairs["outcome_base"] == "blocked"
    if (refused[0] | refused[1]).any():
        yield "the server's own", refused[0], refused[1], made


def _decided(one: Any, frame: pd.DataFrame, known: pd.Series) -> pd.Series:
    found = pd.Series(False, index=frame.index)
    found[known] = one.blocked(frame[known]).to_numpy(bool)
    return found


def _obedience(
    identity: pd.DataFrame,
    labels: dict[str, pd.Series],
    attributes: tuple[Attribute, ...],
    settings: Settings,
) -> list[Finding]:
    """Whether the named identity shows, where it can be seen at all."""
    shows = settings.section.get("shows") or {}
    findings = []
    for name, own in identity.groupby("identity", sort=False):
        for attribute in attributes:
            label = str((shows.get(str(name)) or {}).get(attribute.name, ""))
            told = labels[attribute.name][own.index]
            known = told.isin(attribute.labels)
            if label not in attribute.labels or not known.any():
                continue
            found = rate((told[known] == label).to_numpy(), own.loc[known, "prompt"].to_numpy(str))
            findings.append(
                Finding(
                    PROBE,
                    f"identity_shown_{attribute.name}",
                    {"identity": str(name)},
                    found.estimate,
                    found.ci,
                    n=found.n,
                    clusters=found.clusters,
                    method=f"{attribute.read_by}; {found.method}",
                    raw=found.estimate,
                    evidence={"identity": str(name)},
                    note=f"Share of images with the identity named that are perceived as {label}, "
                    "not corrected for the instrument's error; no threshold is declared.",
                )
            )
    return findings
