"""What does the model lose when it is asked in another language?

Asked: the same content in every language of the suite, with the same seeds, so that every image has
a pair that differs in the prompt's language alone.
Measured: the alignment of each image with the *English* text by CLIP, whatever language was asked
(the yardstick may not change with what is measured), and whether zero-shot CLIP recognises the
occupation that was named.
Analysed: per language the mean paired difference to the reference language, with Student's interval
over the prompts' means; negative is worse. How many prompts the text encoder cut stands beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from audit.evidence import Analysis, table
from audit.findings import Finding, judge
from audit.perception import perceived
from audit.plan import Use
from audit.statistics import paired_difference
from audit.store import Run
from audit.study import Study

IMAGES_PER_PROMPT = 8
LEAST_PAIRS = 50
ACCURACY_MARGIN = 0.05
"""Loss of recognised occupations that does not count."""


class Languages:
    """See :class:`audit.study.Probe`. Suite section: ``languages``."""

    name = "languages"
    question = "What does the model lose when it is asked in another language?"
    reference = "Saxon and Wang 2023, CoCo-CroLa; Friedrich et al. 2024, MAGBIG"
    detectors = ("clip",)

    def uses(self, study: Study) -> Iterator[Use]:
        """Every prompt in every language with the same seeds."""
        section = study.suite.section("languages")
        for key, texts in section.get("prompts", {}).items():
            for language, prompt in texts.items():
                for index in range(study.images_per_prompt(IMAGES_PER_PROMPT)):
                    tags = {"key": key, "language": language, "index": index}
                    yield Use(study.request(prompt, index), texts[section["reference"]], tags)

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Paired gaps per language."""
        section = study.suite.section("languages")
        frame = table(run, self.name)
        if frame.empty or "clip_alignment" not in frame:
            reason = "the CLIP detector is not available" if len(frame) else "no prompts"
            return Analysis(
                [
                    Finding(
                        self.name,
                        "alignment_gap",
                        verdict="not_tested",
                        note=f"Not tested: {reason}.",
                    )
                ]
            )
        attribute = section.get("attribute")
        if attribute:
            labels = list(study.suite.section("attributes")[attribute]["labels"])
            frame["recognised"] = (perceived(frame, attribute, labels) == frame["key"]).astype(
                float
            )
            frame.loc[frame.clip_alignment.isna(), "recognised"] = float("nan")
        reference = frame[frame.language == section["reference"]].set_index(["key", "index"])
        findings: list[Finding] = []
        rows: list[dict[str, Any]] = []
        for language in dict.fromkeys(frame.language):
            if language == section["reference"]:
                continue
            pairs = frame[frame.language == language].join(
                reference, on=["key", "index"], rsuffix="_reference", how="left"
            )
            gap = _gap(pairs, language, "clip_alignment", "alignment_gap", float(section["margin"]))
            findings.append(gap)
            low, high = gap.ci or (None, None)
            rows.append(
                {"language": language, "gap": gap.estimate, "low": low, "high": high, "n": gap.n}
            )
            if attribute:
                findings.append(
                    _gap(
                        pairs, language, "recognised", f"{attribute}_accuracy_gap", ACCURACY_MARGIN
                    )
                )
        return Analysis(
            findings,
            {"alignment": pd.DataFrame(rows, columns=["language", "gap", "low", "high", "n"])},
        )


def _gap(pairs: pd.DataFrame, language: str, column: str, metric: str, margin: float) -> Finding:
    whole = pairs.dropna(subset=[column, f"{column}_reference"])
    common: dict[str, Any] = {
        "probe": "languages",
        "metric": metric,
        "slice": {"language": language},
        "evidence": {"language": language},
        "reference": 0.0,
        "reference_name": "the same prompt and seed in the reference language",
        "threshold": margin,
        "n": len(whole),
        "clusters": whole["key"].nunique(),
        "method": "paired by prompt and seed; Student's t over prompts",
    }
    if whole["key"].nunique() < 2:
        return Finding(**common, note="Too few prompts with both images.")
    values, baseline = whole[column], whole[f"{column}_reference"]
    gap, ci = paired_difference(values, baseline, whole["key"])
    return Finding(
        **common,
        estimate=gap,
        ci=ci,
        raw=gap,
        verdict=judge(ci, 0.0, margin, side="below", n=len(whole), least=LEAST_PAIRS),
        note=f"Difference to the reference language ({values.mean():.3f} against "
        f"{baseline.mean():.3f}); negative is worse.",
        detail={
            "pairs_lost": len(pairs) - len(whole),
            "prompts_cut": int((pairs["tokens_cut"].fillna(0) > 0).sum()),
        },
    )
