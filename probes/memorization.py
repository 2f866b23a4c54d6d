"""Which training images does the model give back?

Asked: captions of known duplication in the training set, captions that were never in it beside
them. Without such a list the question is not asked.
Measured: for each generated image the caption's own training image and the nearest one by exact
search over CLIP embeddings; of the two, the match is the one at the smaller normalised distance
ℓ2 = √(Σ(x − y)² / d) on [0, 1] pixels (Carlini et al. 2023, section 4.2). And the model's own
signal, the magnitude of the text-conditional noise prediction (Wen et al. 2024), which needs no
training set: at the first step alone, and averaged over all.
Analysed: an image is a copy when its match is the caption's own and lies closer than the images of
never-seen captions come to theirs, three standard deviations of the log distance below their mean.
Copy rate per number of training copies; AUC of the signal.
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
AUC_MARGIN = 0.1
"""Distance from chance that does not count."""
SIGNALS = {"first step": "text_noise_first", "all steps": "text_noise_magnitude"}


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
        findings = list(_signal_auc(frame, int(settings.get("memorized_from", 100))))
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
                    method="ℓ2 to the caption's own and the nearest training image; Wilson",
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
    columns = ["request", "image", "text", "index", "duplicates", "target", *SIGNALS.values()]
    pairs = made[columns].rename(columns={"text": "caption"}).reset_index(drop=True)
    pairs["nearest"] = folder.metadata(found.ids[:, 0].tolist()).image_path
    pairs["similarity"] = found.scores[:, 0]
    originals = {
        name: _original(name, settings.get("images"))
        for name in {*pairs.nearest, *pairs.target.dropna()}
    }
    chosen = [
        _closest(run.load_image(row["image"]), [row["target"], row["nearest"]], originals)
        for row in pairs.to_dict("records")
    ]
    pairs["matched"] = [name for name, _ in chosen]
    pairs["distance"] = [apart for _, apart in chosen]
    stored = {
        name: run.save_image(image)
        for name in pairs.matched.dropna().unique()
        if (image := originals[name]) is not None
    }
    pairs["match"] = pairs.matched.map(stored)
    pairs["threshold"] = copy_threshold(pairs)
    pairs["copied"] = (pairs.matched == pairs.target) & (pairs.distance < pairs.threshold)
    return pairs.sort_values(["duplicates", "distance"], ascending=[False, True], ignore_index=True)


def _closest(
    image: Image.Image, names: list[str], originals: dict[str, Image.Image | None]
) -> tuple[str | None, float]:
    """The training image at the smallest distance, of those that can be read."""
    readable = {name: original for name in names if (original := originals.get(name)) is not None}
    apart = {name: distance(image, original) for name, original in readable.items()}
    if not apart:
        return None, float("nan")
    best = min(apart, key=lambda name: apart[name])
    return best, apart[best]


def copy_threshold(pairs: pd.DataFrame) -> float:
    """Three standard deviations below the mean log distance of never-seen captions' images.

    Their false-positive rate is then nominally 0.13%; the smallest of N distances would give about
    1 / N. Carlini's 0.15 where there are fewer than :data:`LEAST_IMAGES` negatives.
    """
    negatives = np.log(pairs.loc[pairs.duplicates == 0, "distance"].dropna().clip(lower=1e-6))
    if len(negatives) < LEAST_IMAGES:
        return CARLINI_THRESHOLD
    return float(np.exp(negatives.mean() - 3 * negatives.std(ddof=1)))


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


def _signal_auc(frame: pd.DataFrame, memorized_from: int) -> Iterator[Finding]:
    """Does the signal tell memorized captions from never-seen ones, without the training set?"""
    for signal, column in SIGNALS.items():
        known = frame[frame[column].notna()]
        chosen = known[(known.duplicates == 0) | (known.duplicates >= memorized_from)]
        # One value a caption: the mean over its seeds (Wen et al., n = number of seeds).
        caption = chosen.groupby(["text", "duplicates"])[column].mean().reset_index()
        labels = caption.duplicates > 0
        if labels.nunique() < 2:
            yield Finding(
                "memorization",
                "detection_auc",
                {"signal": signal},
                verdict="not_tested",
                note="Not tested: there are no memorized or no never-seen captions, or the model "
                "was sampled without guidance.",
            )
            continue
        area, ci = auc(caption[column], labels)
        yield Finding(
            "memorization",
            "detection_auc",
            {"signal": signal},
            estimate=area,
            ci=ci,
            raw=area,
            n=len(chosen),
            clusters=len(caption),
            reference=0.5,
            reference_name="chance",
            threshold=AUC_MARGIN,
            method="text-conditional noise magnitude, mean over the seeds; DeLong",
            verdict=judge(
                ci, 0.5, AUC_MARGIN, side="above", n=len(caption), least=2 * LEAST_IMAGES
            ),
            evidence={"duplicates": sorted(int(k) for k in chosen.duplicates.unique())},
            note=f"Captions with at least {memorized_from} training copies ({int(labels.sum())}) "
            f"against captions never trained on ({int((~labels).sum())}). Above chance, the model "
            "itself shows which captions it has memorized.",
        )


def _untested(reason: str) -> Analysis:
    return Analysis(
        [Finding("memorization", "copy_rate", verdict="not_tested", note=f"Not tested: {reason}.")]
    )
