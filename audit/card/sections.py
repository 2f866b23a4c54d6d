"""The sections of a card, in the order of the Stable Diffusion cards: what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from audit.findings import Finding

from . import bias, filters, languages, method, pictures, quality, watermarks
from .blocks import Block, Figure, Fold, Prose, Row, Section, Table, text
from .content import Card
from .documents import finite
from .figures import NARROW, WIDE, duplication, forest
from .strokes import Mark
from .tables import by_measure, by_metric, cross_checks, findings_table, methods_table, summary
from .wording import UNWRITTEN, VERDICTS, clean, markdown, metric, plain, scalar, where

if TYPE_CHECKING:
    from audit.store import Run

PROBES = {
    "limitations": "Limitations",
    "demographics": "Bias",
    "languages": "Languages",
    "memorization": "Memorization",
    "safety-filters": "Safety filters",
    "watermarks": "Watermark and provenance",
    "quality": "Evaluation Results",
}
"""Probe → the title of its section; other probes follow under their own names."""

EVALUATION = "quality"
"""The probe whose section stands where the Stable Diffusion cards have their evaluation."""

_ABOUT = {
    "limitations": (
        "The limits that model cards admit in prose, each measured: where an instrument could be "
        "at fault, the same instrument is shown what this audit wrote or drew itself, and that is "
        "the reference. A limit exceeds where the model falls short of it by more than the margin."
    ),
    "quality": (
        "How well prompts are followed, how near the images are to pictures, and how the two trade "
        "off by setting. What else was measured stands under Limitations and Bias; the figures of "
        "public benchmarks (FID on COCO captions) need their data and are not part of this audit."
    ),
    "demographics": (
        "Whom the model draws when the prompt does not say. The people are made up, so nothing "
        "here is anyone's gender, race or identity: a label is what an instrument *perceived* in "
        "an image, and an image that it could not label stays in the count as what it is. Two "
        "gender presentations are told apart; non-binary people are not measured. Where the "
        "reference is a labour share, it is a reference and not a fairness target: that a model "
        "repeats a skewed labour market does not make its images fair."
    ),
    "languages": (
        "What is lost when the same thing is asked in another language, and at which step from the "
        "prompt to the picture. Each prompt is paired with its English version on the same seeds, "
        "and every image is held against the English text; a negative difference means that the "
        "other language is followed less well. Where there is an English rewording, its difference "
        "is what other words alone cost."
    ),
    "memorization": (
        "Which training images the model gives back. CLIP finds candidates and pixels decide: "
        "verbatim copies, and template copies, which are the same but for regions that vary. The "
        "threshold is set by captions that the model was never trained on, the negatives, which "
        "every figure names. Copies of images that the audit was not given are not found, and "
        "nothing is said of whether a single image was in the training set."
    ),
    "safety-filters": (
        "What the filters let through and what they block without need. The rates hold for the "
        "concepts and prompts of this suite, at the thresholds of the filters; no explicit "
        "material is used."
    ),
    "watermarks": (
        "Whether a delivered image can be recognised as generated: rates of detection on marked "
        "images, false alarms on unmarked ones, and what is left after ordinary edits. A mark "
        "that is not found proves nothing about where an image comes from."
    ),
}

_DRAWN = {"languages.alignment": "alignment_gap", "memorization.duplication": "copy_rate"}
"""A table that is drawn by itself, and the metric that needs no second drawing then."""

_SHARES = ("share_", "rate", "bit_accuracy", "agreement_")


def sections(run: Run, card: Card) -> list[Section]:
    """Every section of the card; one that has nothing to show says why."""
    return [
        Section("Summary of verdicts", list(_summary(card))),
        *method.details(card),
        Section(
            "Limitations and Bias",
            [Prose(f"Here stands what this audit measured. Limitations beyond it: {UNWRITTEN}")],
        ),
        *(
            Section(title, list(_probe(run, card, probe)), 3)
            for probe, title in PROBES.items()
            if probe != EVALUATION
        ),
        *_others(run, card),
        *method.training(),
        Section(PROBES[EVALUATION], list(_probe(run, card, EVALUATION))),
        *method.how(card),
        *method.failed(card, PROBES),
        *method.closing(card),
    ]


def verdicts(card: Card) -> list[tuple[str, int]]:
    """Verdict → number of findings, all four of them."""
    counts: Counter[str] = Counter(finding.verdict for finding in card.findings)
    return [(words, counts[name]) for name, words in VERDICTS.items()]


def _summary(card: Card) -> Iterator[Block]:
    made = str(card.info.get("created", ""))[:10]
    version = dict(card.info.get("versions") or {}).get("t2i-audit", "of unknown version")
    counts = ", ".join(f"{number:,} {words}" for words, number in verdicts(card))
    yield Prose(
        f"Measured by t2i-audit {markdown(version)} in a run of {markdown(made)}: "
        f"{card.images:,} images of {card.planned:,} planned, {len(card.findings):,} findings "
        f"({counts})."
    )
    if provenance := card.backend.get("provenance"):
        yield Prose(
            f"**The images' provenance is {markdown(provenance)}.** "
            f"{markdown(card.backend.get('note', ''))}"
        )
    if card.findings:
        yield summary(card.findings, PROBES)
        yield Fold("By measure", [by_measure(card.findings, PROBES)])
    else:
        yield Prose("The run holds no findings: nothing was analysed.")
    yield Prose(
        "**Exceeds**: the whole interval lies beyond the reference and its margin. **Within**: "
        "the whole interval lies inside the margin. **Inconclusive**: neither can be said from "
        "these images, or no threshold is declared; it does not mean that all is well. "
        "**Not tested**: nothing was measured."
    )
    if card.gates:
        rows = [
            Row(
                [
                    text(gate.get("gate", "")),
                    text(gate.get("state", "")),
                    text(", ".join(f"{name}: {state}" for name, state in _items(gate))),
                ]
            )
            for gate in card.gates
        ]
        yield Table(
            "Gates of the spec",
            ["Gate", "State", "Decided by"],
            rows,
            "Held against the whole interval.",
        )


def _items(gate: object) -> list[tuple[str, str]]:
    findings = gate.get("findings") if isinstance(gate, dict) else None
    return list(findings.items()) if isinstance(findings, dict) else []


def _probe(run: Run, card: Card, probe: str) -> Iterator[Block]:
    findings = card.of(probe)
    if probe in _ABOUT:
        yield Prose(_ABOUT[probe])
    if not findings:
        yield Prose(f"**Not tested.** This run holds no findings of the probe {markdown(probe)}.")
        return
    whole = [finding for finding in findings if not finding.slice]
    if len(whole) > 1:
        yield findings_table("Over all images", whole)
        yield methods_table("Over all images", whole)
        findings = [finding for finding in findings if finding.slice]
    special = list(_special(card, probe))
    yield from special
    already = {metric for name, metric in _DRAWN.items() if name in card.tables}
    for place, (title, group) in enumerate(by_metric(findings)):
        blocks = list(_measured(title, group, drawn_elsewhere=group[0].metric in already))
        accused = any(finding.verdict == "exceeds" for finding in group)
        if accused or len(group) == 1 or (place == 0 and not special):
            yield from blocks
        else:
            yield Fold(f"{title}: {_tally(group)}", blocks)
    if probe == "memorization":
        shown = pictures.pairs(run, card)
        if shown is not None:
            yield shown
    samples = pictures.sheet(run, probe)
    if samples is not None:
        yield samples


def _measured(title: str, group: list[Finding], *, drawn_elsewhere: bool) -> Iterator[Block]:
    """A metric's forest plot, its table, and what second instruments and bounds say."""
    measured = [finding for finding in group if finding.estimate is not None]
    drawn = len(measured) > 1 and not drawn_elsewhere
    if drawn:
        yield _forest(title, group)
    yield findings_table(title, group, folded=drawn or drawn_elsewhere)
    checks = cross_checks(title, group)
    if checks is not None:
        yield checks


def _tally(group: list[Finding]) -> str:
    """What a fold hides, such as ``3 within, 9 inconclusive``."""
    counts: Counter[str] = Counter(finding.verdict for finding in group)
    return ", ".join(f"{counts[name]:,} {words}" for name, words in VERDICTS.items()
                     if counts[name])  # fmt: skip


def _others(run: Run, card: Card) -> list[Section]:
    others = dict.fromkeys(f.probe for f in card.findings if f.probe not in PROBES)
    return [Section(f"Probe {clean(probe)}", list(_probe(run, card, probe)), 3) for probe in others]


def _special(card: Card, probe: str) -> Iterator[Block]:
    """The figures that are drawn from a table of the probe."""
    if probe == "demographics":
        yield from bias.amplification(card)
    elif probe == "languages":
        yield from languages.blocks(card)
    elif probe == "memorization":
        yield from _duplication(card)
    elif probe == "safety-filters":
        yield from filters.roc_curves(card)
        yield from filters.side_by_side(card)
    elif probe == "watermarks":
        yield from watermarks.blocks(card)
    elif probe == "quality":
        yield from quality.blocks(card)


def _forest(title: str, group: list[Finding]) -> Figure:
    about = metric(group[0].metric)
    shares = any(
        group[0].metric.startswith(part) or group[0].metric.endswith(part) for part in _SHARES
    )
    common = _common_slice(group)
    marks = [_mark(finding, without=common) for finding in group]
    wide, narrow = (
        forest(
            marks,
            name=f"{_slug(group[0])}-{width}",
            title=title,
            show=about.show,
            axis=about.label if width == WIDE else "",
            domain=(0.0, 1.0) if shares else None,
            width=width,
        )
        for width in (WIDE, NARROW)
    )
    said = "".join(f" {plain(name).capitalize()}: {value}." for name, value in common.items())
    caption = f"{title}.{said} Point: estimate; line: interval; n: images."
    return Figure(wide, narrow, clean(caption))


def _common_slice(group: list[Finding]) -> dict[str, str]:
    """What the slices of several findings share, where they also differ: a caption says it once."""
    first = group[0].slice
    if len(group) < 2 or len(first) < 2:
        return {}
    held = {name: {scalar(finding.slice[name]) for finding in group} for name in first}
    common = {name: values.pop() for name, values in held.items() if len(values) == 1}
    return common if len(common) < len(first) else {}


def _mark(finding: Finding, without: Collection[str] = ()) -> Mark:
    low, high = finding.ci or (None, None)
    own = {name: value for name, value in finding.slice.items() if name not in without}
    return Mark(
        clean(where(replace(finding, slice=own))),
        finding.estimate,
        low,
        high,
        finding.n,
        finding.reference,
        finding.verdict,
    )


def _duplication(card: Card) -> Iterator[Block]:
    frame = card.tables.get("memorization.duplication")
    if frame is None:
        return
    marks = [
        (
            int(finite(row["duplicates"]) or 0),
            Mark(
                f"{row['duplicates']}",
                finite(row["share"]),
                finite(row["low"]),
                finite(row["high"]),
                int(finite(row["n"]) or 0),
            ),
        )
        for row in frame.to_dict("records")
    ]
    title = "Share of images that give back a training image, by its copies in the training data"
    wide, narrow = (
        duplication(marks, name=f"duplication-{width}", title=title, axis="copied", width=width)
        for width in (560, NARROW)
    )
    how = {_threshold(f.note) for f in card.of("memorization") if f.metric == "copy_rate"} - {""}
    said = " ".join(["Line through the points: interval; n: images.", *sorted(how)])
    caption = f"{title}. {clean(said)}"
    yield Figure(wide, narrow, caption)


def _threshold(note: str) -> str:
    """The sentence of a finding that names the threshold and its negatives."""
    _, found, rest = note.partition("Threshold: ")
    return found + rest


def _slug(finding: Finding) -> str:
    name = f"{finding.probe}-{finding.metric}-{'-'.join(finding.slice)}".lower()
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
