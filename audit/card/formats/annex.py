"""Two frameworks' items: for each, measured here, declared by others, or not covered.

NIST AI 600-1 (July 2024), section 2: the twelve risks of generative AI. The EU's Model
Documentation Form of the General-Purpose AI Code of Practice (July 2025), chapter Transparency: it
has no group for evaluations; what a program can fill in of it is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from audit.card.blocks import Block, Prose, Row, Section, Table, text
from audit.card.wording import clean

if TYPE_CHECKING:
    from audit.card.content import Card

State = Literal["measured", "declared", "not covered"]
NIST, EU = "NIST AI 600-1", "EU Model Documentation Form"


@dataclass(frozen=True)
class Item:
    """An item of a framework; `said` is what is known, or why nothing is."""

    framework: str
    item: str
    state: State
    said: str


_RISKS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("CBRN Information or Capabilities", (), ""),
    ("Confabulation", ("limitations",), "whether images show what was asked"),
    ("Dangerous, Violent, or Hateful Content", ("safety-filters",),
     "what filters let through, for the suite's concepts alone"),
    ("Data Privacy", ("memorization",), "training images given back"),
    ("Environmental Impacts", (), ""),
    ("Harmful Bias and Homogenization", ("demographics", "languages"),
     "whom the model draws, how alike, and in which languages"),
    ("Human-AI Configuration", (), ""),
    ("Information Integrity", ("watermarks",), "whether images can be told as generated"),
    ("Information Security", (), ""),
    ("Intellectual Property", ("memorization",), "training images given back"),
    ("Obscene, Degrading, and/or Abusive Content", ("safety-filters",),
     "what filters let through; no explicit material is used"),
    ("Value Chain and Component Integration", (), ""),
)  # fmt: skip
"""Risk, the probes that touch it, and what of it they measure."""

_WRITTEN = (
    "Legal name of the provider", "Release date", "Union market release date",
    "Model dependencies", "Design specifications", "Distribution channels",
    "Acceptable use policy", "Intended uses", "Type and nature of AI systems",
    "Technical means for integration", "Required hardware", "Required software",
    "Design specifications of the training", "Decision rationale",
    "Data: type and modality", "Data: provenance", "Data: how obtained and selected",
    "Data: number of data points", "Data: scope and characteristics",
    "Data: detection of unsuitable sources", "Data: detection of biases",
    "Training time", "Amount of computation for training", "Energy used for training",
)  # fmt: skip
"""Items of the form that only the developers know."""


def items(card: Card) -> list[Item]:
    """Every item of both frameworks."""
    return [*_nist(card), *_eu(card)]


def _nist(card: Card) -> list[Item]:
    found = []
    for risk, probes, what in _RISKS:
        if risk == "Environmental Impacts":
            found.append(Item(NIST, risk, *_energy(card)))
            continue
        if risk.startswith("Value Chain"):
            found.append(Item(NIST, risk, *_hashes(card)))
            continue
        measured = [f for f in card.findings if f.probe in probes and f.estimate is not None]
        if measured:
            exceeding = sum(f.verdict == "exceeds" for f in measured)
            number = f"{len(measured):,} findings, {exceeding:,} beyond their reference"
            found.append(Item(NIST, risk, "measured", f"In part: {what}: {number}"))
        else:
            why = f"no finding of {' or '.join(probes)}" if probes else "no probe asks for it"
            found.append(Item(NIST, risk, "not covered", why.capitalize()))
    return found


def _eu(card: Card) -> list[Item]:
    backend = card.backend
    stable = backend.get("backend") == "stable-diffusion"
    sizes = sorted({f"{row.get('width')} × {row.get('height')}" for row in card.samplers})
    state, said = _hashes(card)
    known: list[tuple[str, State, Any]] = [
        ("Model name", "declared", clean(card.model)),
        ("Model authenticity", state, said),
        ("Model architecture", "measured", "latent diffusion" if stable else None),
        ("Input modalities", "measured", "text" if stable else None),
        ("Output modalities", "measured",
         f"images; made here: {', '.join(sizes)} pixels" if card.images and sizes else None),
        ("Total model size", "measured",
         f"{backend['parameters']:,} parameters of the denoiser; other parts not counted"
         if isinstance(backend.get("parameters"), int) else None),
        ("License", "declared", clean(backend.get("license") or "") or None),
        ("Computation for inference", "measured",
         f"{card.seconds / card.timed:,.3g} seconds an image on "
         f"{clean(backend.get('device', 'an unknown device'))}" if card.timed else None),
    ]  # fmt: skip
    found = [
        Item(EU, name, how, said) if said and how != "not covered"
        else Item(EU, name, "not covered", "Not known to this run")
        for name, how, said in known
    ]  # fmt: skip
    return found + [
        Item(EU, name, "not covered", "To be written by the developers") for name in _WRITTEN
    ]


def _hashes(card: Card) -> tuple[State, str]:
    if card.weights is None:
        return "not covered", "No weight file was seen"
    files = len(card.backend.get("weights") or {})
    return "measured", f"SHA-256 {card.weights} over the hashes of {files:,} files"


def _energy(card: Card) -> tuple[State, str]:
    steps = card.energy.get("steps") if isinstance(card.energy, dict) else None
    known = [s for s in (steps or {}).values() if s.get("kwh") is not None]
    if not known:
        return "not covered", "The energy of this audit could not be measured"
    used = sum(step["kwh"] for step in known)
    declared = any("declared watts" in step.get("methods", ()) for step in known)
    state: State = "declared" if declared else "measured"
    return state, f"{used:,.3g} kWh for this audit; of the training nothing is known"


def annex(card: Card) -> Section:
    """The annex as a section."""
    every = items(card)
    blocks: list[Block] = [
        Prose(
            "For each item: **measured** by this audit, **declared** by others and repeated here, "
            "or **not covered**. An item that is measured is so in part, and being listed is no "
            "statement of conformity."
        )
    ]
    for framework in (NIST, EU):
        of_it = [item for item in every if item.framework == framework]
        rows = [Row([text(one.item), text(one.state), text(one.said)]) for one in of_it]
        title = f"{framework}: {_tally(of_it)}"
        blocks.append(Table(title, ["Item", "State", "What is known"], rows, folded=True))
    return Section("Annex: items of two frameworks", blocks)


def _tally(every: Sequence[Item]) -> str:
    states: tuple[State, ...] = ("measured", "declared", "not covered")
    return ", ".join(f"{sum(i.state == state for i in every)} {state}" for state in states)
