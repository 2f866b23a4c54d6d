"""How well are prompts followed, and how near are the images to pictures, at which settings?

Asked: the same prompts with the same seeds at every guidance scale and number of steps of a grid,
as the Stable Diffusion cards evaluate; and, at the run's own setting, with other schedulers and
other sizes.
Measured: the cosine of CLIP with the prompt, against CMMD and KID to a reference set; where the
user has a head for it, a score of aesthetics.
Analysed: at each setting the mean over prompts and the distance with its interval; the settings
that no other one beats in both, the Pareto front; schedulers and sizes against the run's own
setting, paired by prompt and seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from audit.errors import AuditError
from audit.evidence import Analysis, table
from audit.findings import Finding, judge
from audit.plan import Use
from audit.plugins import did_you_mean
from audit.statistics import paired_difference
from audit.store import Run
from audit.study import Study
from probes.limits.apart import Apart, unit
from probes.limits.findings import LEAST, Asked, not_tested, of_images
from probes.limits.reference import Reference, distances, open_reference
from probes.limits.settings import prompts_of
from safety.slices import evidence, outcomes

PROBE = "quality"
GUIDANCE = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
"""As the cards of Stable Diffusion v1 sweep it."""
MARGIN = 0.02
"""Loss of alignment (cosine) that does not count."""
HEAD = "aesthetics"
DISTANCES = {
    "cmmd": "CMMD, unbiased, on CLIP embeddings",
    "kid": "KID on CLIP embeddings scaled to length √d, unbiased",
}
KEYS: Mapping[str, str] = {
    "prompts": "[text]: asked at every setting",
    "reference": "as in probes.limits.reference",
    "images": "of each prompt at each setting; default 1",
    "guidance": "[number]: scales of the grid; default 1.5, 2, 3 … 8",
    "steps": "[whole number]: of the grid; default: the run's own",
    "schedulers": "[name]: held against the run's own",
    "sizes": "[whole number]: sides in pixels, held against the run's own",
    "margin": "loss of alignment that does not count; default 0.02",
}


@dataclass(frozen=True)
class Settings:
    """See :data:`KEYS`."""

    prompts: tuple[str, ...]
    reference: Mapping[str, Any]
    images: int
    guidance: tuple[float, ...]
    steps: tuple[int, ...]
    schedulers: tuple[str, ...]
    sizes: tuple[int, ...]
    margin: float


class Quality:
    """See :class:`audit.study.Probe`. Suite section: ``quality``, overridden by the spec's options;
    :data:`KEYS`. A head for aesthetics is one of the detector ``clip-head`` with the name
    ``aesthetics``.

    Table: ``front``, a row per setting of the grid.
    """

    name = PROBE
    question = "How well are prompts followed, how near are images to pictures, at which settings?"
    reference = (
        "Evaluation Results of the Stable Diffusion model cards; Hessel et al. 2021 (CLIPScore); "
        "Jayasumana et al. 2024 (CMMD)"
    )
    detectors = ("clip", "clip-head")

    def detectors_of(self, study: Study) -> tuple[str, ...]:
        """The heads only where one of them is for aesthetics."""
        heads = study.detector_options("clip-head").get("heads") or {}
        return self.detectors if HEAD in heads else ("clip",)

    def uses(self, study: Study) -> Iterator[Use]:
        """The own setting, the grid, schedulers and sizes; a prompt has the same seeds in all."""
        asked = settings(study)
        if not asked.prompts:
            return
        arms: list[tuple[str, dict[str, Any]]] = []
        if asked.schedulers or asked.sizes:
            arms.append(("own", {}))
        arms += [
            ("grid", {"guidance": guidance, "steps": steps})
            for steps in asked.steps
            for guidance in asked.guidance
        ]
        arms += [("scheduler", {"scheduler": name}) for name in asked.schedulers]
        arms += [("size", {"height": side, "width": side}) for side in asked.sizes]
        for part, changes in arms:
            for number, prompt in enumerate(asked.prompts):
                for index in range(asked.images):
                    # A noise that prompts share gives all of them the same background, and a few
                    # of them would make the set narrow: every prompt has seeds of its own.
                    request = study.request(prompt, number * asked.images + index, **changes)
                    yield Use(request, prompt, {"part": part, "index": index})

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Each setting of the grid, then what other schedulers and sizes change."""
        asked, frame = settings(study), table(run, self.name)
        if frame.empty:
            return Analysis([not_tested(PROBE, "alignment", "the suite has no prompts for it")])
        apart = Apart(run, study, PROBE)
        if "clip_embedding" not in frame:
            reason = apart.why_not("clip") or "no image has a score of the detector clip"
            return Analysis([not_tested(PROBE, "alignment", reason)])
        grid = frame[frame["part"] == "grid"]
        findings = _means(frame, grid, "alignment", "clip_alignment")
        if f"clip_head_{HEAD}" in frame:
            findings += _means(frame, grid, HEAD, f"clip_head_{HEAD}")
        findings += _distances(frame, grid, asked, apart)
        front = _front(findings)
        for part, column in (("scheduler", "scheduler"), ("size", "width")):
            findings += _against_own(frame, part, column, asked.margin)
        return Analysis(findings, apart.tables | ({} if front.empty else {"front": front}))


def settings(study: Study) -> Settings:
    """The suite's section overridden by the spec's options.

    Raises:
        AuditError: naming the key and what is wrong with it.
    """
    section = {**study.suite.section(PROBE), **study.options(PROBE)}
    for key in section:
        if key not in KEYS:
            raise AuditError(f"{PROBE}: unknown key '{key}'{did_you_mean(str(key), KEYS)}")
    numbers: dict[str, tuple[Any, ...]] = {}
    own_steps = [study.sampler.get("steps", 50)]
    for key, default, kind in (
        ("guidance", GUIDANCE, (int, float)),
        ("steps", own_steps, (int,)),
        ("sizes", (), (int,)),
    ):
        values = list(section.get(key) or default)
        if any(isinstance(v, bool) or not isinstance(v, kind) or v <= 0 for v in values):
            raise AuditError(f"{PROBE}: {key} is {KEYS[key]}, not {section.get(key)!r}")
        numbers[key] = tuple(dict.fromkeys(values))
    images, margin = section.get("images", 1), section.get("margin", MARGIN)
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise AuditError(f"{PROBE}: images is a whole number from 1, not {images!r}")
    if isinstance(margin, bool) or not isinstance(margin, int | float) or margin < 0:
        raise AuditError(f"{PROBE}: margin is a number from 0, not {margin!r}")
    from audit.backends import SCHEDULERS

    schedulers = [str(name) for name in section.get("schedulers") or ()]
    for name in schedulers:
        if name not in SCHEDULERS:
            raise AuditError(f"{PROBE}: no scheduler '{name}'{did_you_mean(name, SCHEDULERS)}")
    return Settings(
        prompts_of(section, PROBE),
        section.get("reference") or {},
        study.images_per_prompt(images),
        tuple(float(value) for value in numbers["guidance"]),
        numbers["steps"],
        tuple(dict.fromkeys(schedulers)),
        numbers["sizes"],
        float(margin),
    )


def _cells(grid: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    for _, rows in grid.groupby(["steps", "guidance"]):
        first = rows.iloc[0]
        yield {"guidance": float(first["guidance"]), "steps": int(first["steps"])}, rows


def _means(frame: pd.DataFrame, grid: pd.DataFrame, metric: str, column: str) -> list[Finding]:
    said = {
        "alignment": "Mean cosine of CLIP with the prompt (Hessel et al. 2021, without its factor)",
        HEAD: "Mean score of the user's head",
    }[metric]
    found = []
    for setting, rows in _cells(grid):
        values = rows[column].astype(object)
        values = values.where(rows[column].notna(), None)
        note, where = f"{said}.", {"part": "grid", **setting}
        found.append(
            of_images(PROBE, metric, frame, values, Asked(), note, where=where, part=setting)
        )
    return found


def _distances(
    frame: pd.DataFrame, grid: pd.DataFrame, asked: Settings, apart: Apart
) -> list[Finding]:
    try:
        reference = open_reference(asked.reference, asked.prompts, apart, PROBE)
        found: list[Finding] = []
        for setting, rows in _cells(grid):
            found += _distance(frame, setting, rows, reference)
    except AuditError as error:
        return [not_tested(PROBE, name, str(error)) for name in DISTANCES]
    return found


def _distance(
    frame: pd.DataFrame, setting: dict[str, Any], rows: pd.DataFrame, reference: Reference
) -> Iterator[Finding]:
    scored = rows["clip_embedding"].notna()
    used, counts = rows[scored], outcomes(rows, scored)
    if used["prompt"].nunique() < 3:
        for name in DISTANCES:
            reason = "fewer than three prompts have images"
            yield not_tested(PROBE, name, reason, setting, counts)
        return
    measured = distances(
        np.stack(used["clip_embedding"].to_list()), list(used["prompt"]), reference
    )
    where = {"part": "grid", **setting, "outcome": "ok"}
    for name, distance in measured.items():
        yield Finding(
            PROBE,
            name,
            setting,
            distance.estimate,
            distance.ci,
            n=distance.n,
            clusters=distance.clusters,
            method=f"{DISTANCES[name]}; {reference.interval}",
            reference=0.0,
            reference_name=reference.name,
            evidence=evidence(frame, used, where),
            note=f"{DISTANCES[name]}, to {reference.name}; 0: as another sample of them.",
            detail={"outcomes": counts},
        )


def _front(findings: list[Finding]) -> pd.DataFrame:
    """The table ``front``: settings with alignment and CMMD; `best` where no other setting has as
    much alignment and as little distance, and one of them better."""
    rows: dict[tuple[float, int], dict[str, Any]] = {}
    for finding in findings:
        if finding.slice and finding.estimate is not None:
            setting = finding.slice
            row = rows.setdefault((setting["guidance"], setting["steps"]), dict(setting))
            low, high = finding.ci or (None, None)
            row |= {"n": finding.n, finding.metric: finding.estimate}
            row |= {f"{finding.metric}_low": low, f"{finding.metric}_high": high}
    frame = pd.DataFrame(list(rows.values()))
    if not {"alignment", "cmmd"} <= set(frame):
        return pd.DataFrame()
    frame = frame[frame["alignment"].notna() & frame["cmmd"].notna()].reset_index(drop=True)
    up, down = frame["alignment"].to_numpy(), frame["cmmd"].to_numpy()
    beaten = [
        bool(((up >= a) & (down <= d) & ((up > a) | (down < d))).any())
        for a, d in zip(up, down, strict=True)
    ]
    return frame.assign(best=~np.array(beaten))


def _against_own(frame: pd.DataFrame, part: str, column: str, margin: float) -> Iterator[Finding]:
    """Alignment with another scheduler or size minus that of the run's own, on the same seeds."""
    own = frame[frame["part"] == "own"].set_index(["prompt", "index"])
    for value, rows in frame[frame["part"] == part].groupby(column, sort=False):
        name: Any = value if part == "scheduler" else int(rows[column].iloc[0])
        where = {"part": part, column: name, "outcome": "ok"}
        pairs = rows.join(own, on=["prompt", "index"], rsuffix="_own", how="left")
        whole = pairs["clip_alignment"].notna() & pairs["clip_alignment_own"].notna()
        used, counts = pairs[whole], outcomes(rows, whole)
        metric, setting = f"{part}_alignment_gap", {part: name}
        if used.empty:
            yield not_tested(PROBE, metric, "no pair could be measured", setting, counts)
            continue
        estimate, ci = paired_difference(
            used["clip_alignment"], used["clip_alignment_own"], used["prompt"]
        )
        vectors = (unit(np.stack(used[f"clip_embedding{s}"].to_list())) for s in ("", "_own"))
        likeness = float(np.multiply(*vectors).sum(axis=1).mean())
        yield Finding(
            PROBE,
            metric,
            setting,
            estimate,
            ci,
            n=len(used),
            clusters=used["prompt"].nunique(),
            method="paired by prompt and seed, Student's t over prompts",
            reference=0.0,
            reference_name="the run's own setting on the same seeds",
            threshold=margin,
            verdict=judge(ci, 0.0, margin, side="below", n=len(used), least=LEAST),
            evidence=evidence(frame, rows.loc[used.index], where),
            note="Alignment minus that of the run's own setting; the mean cosine of the pairs' own "
            f"embeddings is {likeness:.3f}.",
            detail={"likeness": likeness, "outcomes": counts},
        )
