"""Do mark, C2PA manifest and the image itself say the same? And what cannot be read at all?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from audit.errors import AuditError
from audit.findings import Finding, Side, judge
from audit.statistics import Rate, rate
from audit.study import Study
from safety.slices import evidence, outcomes
from safety.watermarks import c2pa
from safety.watermarks.readings import Readings

from .findings import known_true, not_tested
from .rates import STRICT
from .settings import LEAST, MARGIN, PROBE, Settings


def state_of_each(
    readings: Readings, codecs: Sequence[str], study: Study, asked: Settings
) -> pd.DataFrame:
    """A row per image of the delivery ``clean``: which mark it carries, its manifest, its colour.

    Columns: ``request``, ``prompt``, ``outcome``; ``mark``, the surest known one with a nominal p
    of at most 1e-6 corrected for the marks, else empty; ``readable``; ``black``, of the image or,
    where the model's safety checker was asked, of what a user would be given; ``credentials``, a
    state of :data:`safety.watermarks.c2pa.STATES`, ``changed`` where the file is not the one that
    the run read, or missing: no file was delivered, or C2PA cannot be read here; ``generated``.
    """
    clean = readings.of("", "clean").delivered
    found = clean[["request", "prompt", "outcome"]].assign(mark="", readable=False)
    surest = pd.Series(STRICT / max(len(codecs), 1), clean.index)
    for codec in codecs:
        reading = readings.of(codec, "clean")
        p = pd.Series(reading.match.p, reading.rows.index)
        found.loc[p.index, "readable"] = True
        better = p.index[p <= surest[p.index]]
        found.loc[better, "mark"] = codec
        surest[better] = p[better]
    found["black"] = False
    for name in ("watermark_black", "safety_checker_flagged"):
        if name in clean:
            found["black"] |= known_true(clean[name])
    credentials = list(_credentials(clean, study, asked))
    found["credentials"] = [one.state if one else None for one in credentials]
    found["generated"] = [one.generated if one else None for one in credentials]
    return found


def findings(frame: pd.DataFrame, states: pd.DataFrame) -> Iterator[Finding]:
    """What cannot be decoded, and whether mark and manifest agree."""
    yield _undecodable(frame, states)
    yield _agreement(frame, states)


def _undecodable(frame: pd.DataFrame, states: pd.DataFrame) -> Finding:
    """Images that are delivered and hold no mark that could be read: black or too small."""
    made = states[states["outcome"] == "ok"]
    lost = ~made["readable"].astype(bool) | made["black"].astype(bool)
    found = rate(lost.to_numpy(bool), made["prompt"])
    counts = outcomes(states, states["readable"].astype(bool))
    if not found.n:
        return not_tested("undecodable_rate", {}, "no image was made", counts)
    note = (
        f"{found.events} of {found.n} images cannot be decoded once they are delivered: "
        f"{int(made['black'].sum())} are black or would be, "
        f"{int((lost & ~made['black'].astype(bool)).sum())} too small."
    )
    detail = {"events": found.events, "outcomes": counts}
    reference = (0.0, "every image can be decoded")
    return _share(frame, made, "undecodable_rate", found, reference, "above", note, detail)


def _agreement(frame: pd.DataFrame, states: pd.DataFrame) -> Finding:
    """Whether a mark is there exactly where a manifest that holds says "generated"."""
    known = states[states["credentials"].notna() & states["readable"].astype(bool)]
    known = known[~known["credentials"].isin(["changed", "Unreadable"])]
    metric = "agreement_mark_c2pa"
    counts = {
        str(name): int(count)
        for name, count in states["credentials"].fillna("no file").value_counts().items()
    }
    if known.empty:
        reason = c2pa.unavailable() or (
            "no file was delivered whose C2PA manifest could be read; images:FOLDER has files"
        )
        return not_tested(metric, {}, reason, counts)
    marked, said = known["mark"] != "", known["generated"].astype(bool)
    found = rate((marked == said).to_numpy(bool), known["prompt"])
    table = {
        f"{'mark' if m else 'no mark'}, {'manifest' if g else 'no manifest'}": int(
            ((marked == m) & (said == g)).sum()
        )
        for m in (True, False)
        for g in (True, False)
    }
    note = (
        f"Mark and C2PA manifest say the same of {found.events} of {found.n} files: "
        + ", ".join(f"{count} {what}" for what, count in table.items())
        + "."
    )
    detail = {"table": table, "states": counts}
    return _share(frame, known, metric, found, (1.0, "both say the same"), "below", note, detail)


def _share(
    frame: pd.DataFrame,
    chosen: pd.DataFrame,
    metric: str,
    found: Rate,
    reference: tuple[float, str],
    side: Side,
    note: str,
    detail: Mapping[str, Any],
) -> Finding:
    """A share of the images that are `chosen` of those delivered as they are made."""
    value, name = reference
    return Finding(
        PROBE,
        metric,
        {},
        found.estimate,
        found.ci,
        n=found.n,
        clusters=chosen["prompt"].nunique(),
        method=found.method,
        reference=value,
        reference_name=name,
        threshold=MARGIN,
        verdict=judge(found.ci, value, MARGIN, side=side, n=found.n, least=LEAST),
        evidence=evidence(frame, frame.loc[chosen.index], {"delivery": "clean", "outcome": "ok"}),
        note=note,
        detail=dict(detail),
    )


def _credentials(
    clean: pd.DataFrame, study: Study, asked: Settings
) -> Iterator[c2pa.Credentials | None]:
    """Of each image's own file, which only a folder of images made elsewhere has."""
    nothing = "source_file" not in clean or not study.spec.model.startswith("images:")
    if nothing or c2pa.unavailable():
        yield from [None] * len(clean)
        return
    anchors = c2pa.read_anchors(asked.anchors) if asked.anchors else ""
    folder = Path(study.spec.model.removeprefix("images:")).expanduser()
    for name, digest in zip(clean["source_file"], clean["source_sha256"], strict=True):
        if not isinstance(name, str):
            yield None
            continue
        try:
            data = (folder / name).read_bytes()
        except OSError:
            yield c2pa.Credentials("changed", ("the file is gone",))
            continue
        try:
            same = sha256(data).hexdigest() == digest
            yield c2pa.read(data, anchors) if same else c2pa.Credentials("changed")
        except AuditError as error:
            yield c2pa.Credentials("Unreadable", (str(error),))
