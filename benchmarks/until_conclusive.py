"""How many images `--until-conclusive` saves, whether its verdicts are those of a fixed number of
images, and how often they are wrong.

    python benchmarks/until_conclusive.py [--quick] [--pool DIR] [--json FILE]

The phantom's part draws its repetitions from one pool of images, which is made in DIR, or finished
there, by the engine: the same seeds for each prompt, in a new order for each repetition.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, at_least, at_most, machine, report

from audit.evidence import Analysis, table
from audit.perception import perceived
from audit.plan import Use
from audit.sequential import BUDGET, decide, looks
from audit.statistics import benjamini_hochberg, equivalence_of_proportion
from audit.statistics.sequential import repeated_interval, repeated_tests, spending
from audit.study import Study

LOOKS = np.array(looks())
MARGIN = 0.1
FIXED = f"{BUDGET} images a prompt, fixed"
EXCEEDS, WITHIN = "exceeds", "within"


@dataclass(frozen=True)
class Audit:
    """The verdicts of one repetition, shape (attributes, prompts), and each prompt's images."""

    sequential: np.ndarray
    fixed: np.ndarray
    images: np.ndarray


def audit(k: np.ndarray, n: np.ndarray, reference: np.ndarray) -> Audit:
    """One repetition under both designs.

    Args:
        k, n: images with the attribute, of those where it is known; shape (attributes, prompts,
            looks).
        reference: of each attribute.
    """
    prompts = np.arange(k.shape[1])
    at = np.zeros(len(prompts), int)

    def verdicts(at: np.ndarray) -> np.ndarray:
        return np.array(
            [
                [d.verdict for d in decide(*counts, ref, MARGIN, images=LOOKS[at])]
                for *counts, ref in zip(
                    k[:, prompts, at], n[:, prompts, at], reference, strict=True
                )
            ]
        )

    while True:
        found = verdicts(at)
        still = (found == "inconclusive").any(axis=0) & (at < len(LOOKS) - 1)
        if not still.any():
            return Audit(found, fixed(k[..., -1], n[..., -1], reference), LOOKS[at])
        at[still] += 1


def fixed(k: np.ndarray, n: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The verdicts at the full number of images: exact tests, Benjamini-Hochberg over prompts."""
    rows = []
    for hits, known, ref in zip(k, n, reference, strict=True):
        tests = [
            equivalence_of_proportion(int(h), int(m), MARGIN, ref)
            for h, m in zip(hits, known, strict=True)
        ]
        accused = benjamini_hochberg([test.p_beyond for test in tests]) <= 0.05
        rows.append(
            [
                EXCEEDS if a else WITHIN if test.p_within <= 0.05 else "inconclusive"
                for a, test in zip(accused, tests, strict=True)
            ]
        )
    return np.array(rows)


def compared(label: str, audits: list[Audit], truth: np.ndarray, ref: np.ndarray) -> list[Row]:
    """Images, agreement and errors of both designs.

    Args:
        truth: the true shares, shape (attributes, prompts).
    """
    sequential = np.stack([one.sequential for one in audits])
    full = np.stack([one.fixed for one in audits])
    used = np.array([one.images.mean() / BUDGET for one in audits])
    off = np.abs(truth - ref[:, None]).round(9)  # 0.6 is 0.1 off 0.5, not one bit less
    said = (
        f"of the fixed design's ({used.min():.2f} to {used.max():.2f} in {len(audits)} repetitions)"
    )
    images, skewed = float(used.mean()), float((off > MARGIN).mean()) > 0.5
    rows = [
        at_most(f"{label}, images", images, 0.5, said, FIXED)
        if skewed
        else Row(f"{label}, images", images, said, FIXED),
        Row(f"{label}, the same verdict", float((sequential == full).mean()), "of all", FIXED),
    ]
    for verdict in (EXCEEDS, WITHIN):
        there = full == verdict
        if there.any():
            share = float((sequential[there] == verdict).mean())
            name, unit = f"{label}, '{verdict}' found again", f"of the fixed design's {there.sum()}"
            known = skewed and verdict == EXCEEDS
            rows.append(at_least(name, share, 0.95, unit) if known else Row(name, share, unit))
    again = (np.roll(full, 1, axis=0) == full).mean()
    rows.append(
        Row(f"{label}, the fixed design agrees with its next repetition", float(again), "of all")
    )
    for name, found, aim in (("", sequential, True), (", fixed design", full, False)):
        for verdict, wrong in ((EXCEEDS, off <= MARGIN), (WITHIN, off >= MARGIN)):
            rate = float(((found == verdict) & wrong).mean())
            what, unit = f"{label}, '{verdict}' wrongly{name}", "of all verdicts"
            rows.append(at_most(what, rate, 0.05, unit) if aim else Row(what, rate, unit))
    return rows


# ---- models that are only numbers ----------------------------------------------------------


def simulated(label: str, shares: np.ndarray, repetitions: int) -> list[Row]:
    """Independent images of prompts with these shares of one attribute."""
    rng = np.random.default_rng(0)
    steps = np.diff(LOOKS, prepend=0)
    n = np.broadcast_to(LOOKS, (1, len(shares), len(LOOKS)))
    audits = [
        audit(rng.binomial(steps, shares[:, None])[None].cumsum(-1), n, np.array([0.5]))
        for _ in range(repetitions)
    ]
    return compared(label, audits, shares[None], np.array([0.5]))


def peeking(repetitions: int) -> list[Row]:
    """One prompt, looked at every 25 images up to 1,000: how often it is ever wrong."""
    from statsmodels.stats.proportion import proportion_confint

    at = np.arange(50, 1001, 25)
    spent = spending(at.tolist())
    rows = []
    for share, name in ((0.6, "at the margin's end"), (0.5, "at the reference")):
        rng = np.random.default_rng(1)
        k = rng.binomial(np.diff(at, prepend=0), share, (repetitions, len(at))).cumsum(axis=1)

        def ever(of: Callable[[np.ndarray, int, float], np.ndarray], k: np.ndarray = k) -> float:
            looks = zip(k.T, at, spent, strict=True)
            return float(np.any([of(np.arange(n + 1), n, s)[c] for c, n, s in looks], 0).mean())

        def misses(low: np.ndarray, high: np.ndarray, share: float = share) -> np.ndarray:
            return (share < low) | (share > high)

        what = f"one prompt {name}, {len(at)} looks"
        ours = ever(lambda k, n, s: misses(*repeated_interval(k, n, s)))
        accused = ever(lambda k, n, s: repeated_tests(k, n, 0.4, 0.6, s)[0] <= 0.05)
        peeked = ever(lambda k, n, _: misses(*proportion_confint(k, n, 0.05, "wilson")))
        unit = f"of {repetitions} runs"
        rows += [
            at_most(f"{what}, the interval ever misses", ours, 0.05, unit),
            at_most(f"{what}, ever accused", accused, 0.05, unit),
            Row(f"{what}, a peeked Wilson interval ever misses", peeked, unit),
        ]
    return rows


# ---- the phantom ---------------------------------------------------------------------------


class Pool:
    """The suite's occupations, with the same seeds for each; it has no findings."""

    name, question, reference, detectors = "pool", "Which images are there?", "", ("clip", "reader")

    def __init__(self, images: int) -> None:
        self.images = images

    def uses(self, study: Study) -> Iterator[Use]:
        prompts = study.suite.section("demographics")["prompts"]
        for index in range(self.images):
            for occupation, entry in prompts.items():
                tags = {"occupation": occupation, "index": index}
                yield Use(study.request(entry["text"], index), entry["text"], tags)

    def analyse(self, run: Any, study: Study) -> Analysis:
        return Analysis()


def made(folder: Path, images: int, seed: int) -> tuple[Any, Study]:
    """The pool; only what is missing is made."""
    from audit import engine
    from audit.spec import Spec

    spec = Spec(model="phantom", seed=seed, probes={"demographics": {}})
    study, backend, _ = engine.prepare(spec)
    return engine.run(study, backend, {"pool": Pool(images)}, folder), study


def phantom(folder: Path, images: int, seed: int, repetitions: int) -> list[Row]:
    """Both designs on the phantom's images, read exactly and read by CLIP."""
    run, study = made(folder, images, seed)
    frame = table(run, "pool").sort_values(["occupation", "index"])
    attributes = study.suite.section("demographics")["attributes"]
    declared = {name: study.suite.section("attributes")[name] for name in attributes}
    rows = [Row("pool", len(frame), f"images, {images} of each prompt")]
    for instrument, said in (("reader", "read exactly"), ("clip", "read by CLIP")):
        labels = {
            name: perceived(frame, name, [str(x) for x in entry["labels"]], instrument)
            for name, entry in declared.items()
        }
        for chosen in ([attributes[0]], *([attributes] if len(attributes) > 1 else [])):
            label = f"phantom, {', '.join(chosen)}, {said}"
            rows += drawn(label, frame, labels, {a: declared[a] for a in chosen}, repetitions)
    return rows


def drawn(
    label: str,
    frame: Any,
    labels: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    repetitions: int,
) -> list[Row]:
    """Repetitions in which the pool's seeds come in another order each."""
    shape = (frame.occupation.nunique(), -1)
    yes = np.stack(
        [(labels[a] == str(e["positive"])).to_numpy().reshape(shape) for a, e in declared.items()]
    )
    known = np.stack(
        [
            labels[a].isin(map(str, e["labels"])).to_numpy().reshape(shape)
            for a, e in declared.items()
        ]
    )
    reference = np.array([float(entry["reference"]) for entry in declared.values()])
    rng = np.random.default_rng(2)
    audits = []
    for _ in range(repetitions):
        order = rng.permutation(yes.shape[-1])[:BUDGET]
        k, n = (x[..., order].cumsum(-1)[..., LOOKS - 1] for x in (yes, known))
        audits.append(audit(k, n, reference))
    return compared(label, audits, yes.sum(-1) / known.sum(-1), reference)


def main() -> None:
    parser = argparse.ArgumentParser(description="What --until-conclusive saves.")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions of the simulations")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--pool", type=Path, help="the folder of the phantom's pool of images")
    parser.add_argument("--pool-images", type=int, default=400, help="of each prompt")
    parser.add_argument("--pool-seed", type=int, default=700_000)
    parser.add_argument("--repetitions", type=int, default=20, help="on the phantom's pool")
    given = parser.parse_args()
    described = machine()
    number = 100 if given.quick else 2000
    skewed = np.array([0.05, 0.97, 0.98, 0.01, 0.2, 0.45, 0.01, 0.55, 0.05, 0.6, 0.12, 0.03])
    rows = [
        *simulated("simulated, 9 of 12 prompts skewed", skewed, number),
        *simulated("simulated, 12 prompts at the margin's end", np.full(12, 0.6), number),
        *simulated("simulated, 12 prompts at the reference", np.full(12, 0.5), number),
        *peeking(2000 if given.quick else 20_000),
    ]
    if given.pool:
        rows += phantom(given.pool, given.pool_images, given.pool_seed, given.repetitions)
    else:
        for what, aim in (("images", "≤ 0.5"), ("'exceeds' wrongly", "≤ 0.05")):
            rows.append(Row(f"phantom, {what}", None, "", FIXED, aim, None, "no --pool was given"))
    print(report(rows, described, given.json))


if __name__ == "__main__":
    main()
