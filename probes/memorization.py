"""Which training images does the model give back?

Asked: captions of known duplication in the training set, captions that were never in it beside
them. Without such a list the question is not asked.
Measured: the nearest training image of each generated one by exact search over CLIP embeddings; the
normalised distance ℓ2 = √(Σ(x − y)² / d) on [0, 1] pixels to that image (Carlini et al. 2023,
section 4.2), where it can be read; and the model's own signal, the magnitude of the
text-conditional noise prediction (Wen et al. 2024), which needs no training set.
Analysed: an image is a copy when its nearest training image is the caption's own and lies closer
than any of the never-seen captions' images comes to any training image: the threshold is the
smallest distance among the negatives. Copy rate per number of training copies; AUC of the signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from audit import suites
from audit.errors import AuditError
from audit.evidence import Analysis, table
from audit.findings import Finding, judge
from audit.plan import Use
from audit.retrieval import EmbeddingFolder, search
from audit.statistics import auc, wilson
from audit.store import MAX_PIXELS, Run
from audit.study import Study

IMAGES_PER_PROMPT = 2
LEAST_IMAGES = 12
CARLINI_THRESHOLD = 0.15
COPY_MARGIN = 0.05
"""Share of copies that does not count."""


class Memorization:
    """See :class:`audit.study.Probe`. Suite section ``memorization``, overridden by the spec:

    captions: CSV with columns caption, image_path, duplicates (0: not in the training set).
    index: embedding folder of the training images (clip-retrieval's format).
    images: where ``image_path`` is found: a folder, or ``phantom``.
    memorized_from: number of copies from which a caption counts as memorized for the AUC.
    """

    name = "memorization"
    question = "Which training images does the model give back?"
    reference = "Carlini et al. 2023; Somepalli et al. 2023; Wen et al. 2024"
    detectors = ("clip",)

    def uses(self, study: Study) -> Iterator[Use]:
        """Every caption with a few seeds."""
        settings = _settings(study, self.name)
        if "captions" not in settings:
            return
        captions = _captions(Path(settings["captions"]))
        if "index" in settings:
            EmbeddingFolder(Path(settings["index"]))  # a damaged one is said before images are made
        for row in captions.to_dict("records"):
            for index in range(study.images_per_prompt(IMAGES_PER_PROMPT)):
                tags = {
                    "duplicates": int(row["duplicates"]),
                    "target": row["image_path"],
                    "index": index,
                }
                yield Use(study.request(row["caption"], index), row["caption"], tags)

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Copy rates per number of training copies, and the signal's AUC."""
        settings = _settings(study, self.name)
        frame = table(run, self.name)
        if frame.empty:
            return _untested("no captions of known duplication were given (option 'captions')")
        findings = [_signal_auc(frame, int(settings.get("memorized_from", 100)))]
        made = frame[frame.clip_embedding.notna()] if "clip_embedding" in frame else frame[:0]
        if "index" not in settings:
            findings += _untested("no embedding folder was given (option 'index')").findings
            return Analysis(findings)
        if made.empty:
            return Analysis(findings + _untested("the CLIP detector is not available").findings)
        neighbours = _neighbours(run, made, settings)
        curve = _curve(neighbours)
        if curve.empty:
            reason = (
                "the training images cannot be read (option 'images'), and similarity of "
                "embeddings alone does not show a copy"
            )
            return Analysis(findings + _untested(reason).findings, {"neighbours": neighbours})
        for row in curve.to_dict("records"):
            ci = (row["low"], row["high"])
            findings.append(
                Finding(
                    self.name,
                    "copy_rate",
                    {"duplicates": row["duplicates"]},
                    estimate=row["share"],
                    ci=ci,
                    raw=row["share"],
                    n=row["n"],
                    clusters=row["captions"],
                    method="nearest training image and ℓ2; Wilson",
                    reference=0.0,
                    reference_name="no copies",
                    threshold=COPY_MARGIN,
                    verdict=judge(
                        ci, 0.0, COPY_MARGIN, side="above", n=row["n"], least=LEAST_IMAGES
                    ),
                    evidence={"duplicates": row["duplicates"]},
                    note=f"Share of images that copy their caption's training image, which stands "
                    f"{row['duplicates']} times in the training set.",
                    detail={"distance_threshold": float(neighbours.threshold.iloc[0])},
                )
            )
        return Analysis(findings, {"neighbours": neighbours, "duplication": curve})


def _settings(study: Study, probe: str) -> dict[str, Any]:
    """The suite's paths are relative to the datasets, the user's to where the command runs."""
    settings = dict(study.suite.section(probe))
    for key in ("captions", "index"):
        if key in settings:
            settings[key] = suites.datasets() / settings[key]
    return settings | dict(study.options(probe))


def _captions(path: Path) -> pd.DataFrame:
    try:
        captions = pd.read_csv(path, dtype={"caption": str, "image_path": str})
    except (OSError, ValueError) as error:
        raise AuditError(f"cannot read the captions {path}: {error}") from error
    for column in ("caption", "image_path", "duplicates"):
        if column not in captions:
            raise AuditError(f"{path}:1: no column '{column}' (caption, image_path, duplicates)")
    wrong = captions[
        ~captions.duplicates.astype(str).str.fullmatch(r"\d+") | captions.caption.isna()
    ]
    if len(wrong):
        raise AuditError(f"{path}:{wrong.index[0] + 2}: caption or number of duplicates is missing")
    return captions


def _neighbours(run: Run, made: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """The nearest training image of every generated one, and whether it is a copy."""
    folder = EmbeddingFolder(Path(settings["index"]))
    queries = np.stack(made.clip_embedding.to_list()).astype(np.float32)
    if queries.shape[1] != folder.dimension:
        raise AuditError(
            f"{folder.path} holds {folder.dimension}-d embeddings, the detector 'clip' makes "
            f"{queries.shape[1]}-d ones: embed both with the same CLIP"
        )
    found = search(folder, queries, k=1)
    columns = ["request", "image", "text", "index", "duplicates", "target", "text_noise_magnitude"]
    pairs = made[columns].rename(columns={"text": "caption"}).reset_index(drop=True)
    pairs["nearest"] = folder.metadata(found.ids[:, 0].tolist()).image_path
    pairs["similarity"] = found.scores[:, 0]
    originals = {name: _original(name, settings.get("images")) for name in pairs.nearest.unique()}
    pairs["match"] = pairs.nearest.map(
        {name: run.save_image(image) for name, image in originals.items() if image is not None}
    )
    pairs["distance"] = [
        distance(run.load_image(made_one), original) if original is not None else np.nan
        for made_one, original in zip(pairs.image, pairs.nearest.map(originals), strict=True)
    ]
    pairs["threshold"] = copy_threshold(pairs)
    pairs["copied"] = (pairs.nearest == pairs.target) & (pairs.distance < pairs.threshold)
    return pairs.sort_values(["duplicates", "distance"], ascending=[False, True], ignore_index=True)


def copy_threshold(pairs: pd.DataFrame) -> float:
    """The smallest distance of a never-seen caption's image; Carlini's 0.15 where there is none.

    With N negatives the false-positive rate is at most about 1 / N.
    """
    negatives = pairs.loc[pairs.duplicates == 0, "distance"].dropna()
    return float(negatives.min()) if len(negatives) else CARLINI_THRESHOLD


def distance(image: Image.Image, other: Image.Image) -> float:
    """Normalised ℓ2 of two images as RGB on [0, 1], the larger reduced to the smaller's size.

    ℓ2(x, y) = √(Σ(x − y)² / d), Carlini et al. (2023), section 4.2.

    >>> black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (16, 16), "white")
    >>> distance(black, white)
    1.0
    """
    size = min(image.size, other.size)
    x, y = (
        np.asarray(i.convert("RGB").resize(size, Image.Resampling.BOX), dtype=float) / 255
        for i in (image, other)
    )
    return float(np.sqrt(((x - y) ** 2).mean()))


def _original(name: str, images: Any) -> Image.Image | None:
    """A training image by its ``image_path``; ``None`` where none can be read."""
    if images == "phantom":
        from audit.phantom import corpus

        drawn: Image.Image = corpus.item(name).draw()
        return drawn
    if images is None:
        return None
    root = Path(images).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return image.convert("RGB") if image.width * image.height <= MAX_PIXELS else None
    except (OSError, ValueError):
        return None


def _curve(pairs: pd.DataFrame) -> pd.DataFrame:
    """Share of copies by number of training copies."""
    rows = []
    for duplicates, group in pairs[pairs.distance.notna()].groupby("duplicates"):
        copied, n = int(group.copied.sum()), len(group)
        low, high = wilson(copied, n)
        rows.append(
            {
                "duplicates": duplicates,
                "n": n,
                "captions": group.caption.nunique(),
                "copied": copied,
                "share": copied / n,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def _signal_auc(frame: pd.DataFrame, memorized_from: int) -> Finding:
    """Does the signal tell memorized captions from never-seen ones, without the training set?"""
    known = frame[frame.text_noise_magnitude.notna()]
    chosen = known[(known.duplicates == 0) | (known.duplicates >= memorized_from)]
    # One value a caption: the mean over its seeds (Wen et al., n = number of seeds).
    caption = chosen.groupby(["text", "duplicates"]).text_noise_magnitude.mean().reset_index()
    labels = caption.duplicates > 0
    if labels.nunique() < 2:
        return Finding(
            "memorization",
            "detection_auc",
            verdict="not_tested",
            note="Not tested: the captions hold no memorized or no never-seen ones, or "
            "the model was sampled without guidance.",
        )
    area, ci = auc(caption.text_noise_magnitude, labels)
    return Finding(
        "memorization",
        "detection_auc",
        estimate=area,
        ci=ci,
        raw=area,
        n=len(chosen),
        clusters=len(caption),
        reference=0.5,
        reference_name="chance",
        threshold=0.1,
        method="text-conditional noise magnitude, mean over steps and seeds; DeLong",
        verdict=judge(ci, 0.5, 0.1, side="above", n=len(caption), least=2 * LEAST_IMAGES),
        note=f"Captions with at least {memorized_from} training copies ({int(labels.sum())}) "
        f"against captions never trained on ({int((~labels).sum())}). Above chance: the "
        "model's own signal shows which captions it has memorized.",
    )


def _untested(reason: str) -> Analysis:
    return Analysis(
        [Finding("memorization", "copy_rate", verdict="not_tested", note=f"Not tested: {reason}.")]
    )
