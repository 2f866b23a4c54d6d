"""The sections of a card that say who made the model, how it was audited, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit.calibration.shipped import TOOLKIT, of_version, sentence

from .blocks import Block, Cell, Code, Number, Prose, Row, Section, Table, code, count, text
from .content import Card
from .wording import UNWRITTEN, clean, flat, markdown, metric, plain, scalar, where

LONGEST = 240
"""Characters of a setting or a description; what is cut says so and is whole in card.json."""

SHORT = 6
"""Figures of a known error that are listed one by one."""

_RUN = (
    "`RUN` below is the run's folder. The first command checks that it is what was written; the "
    "second opens the dashboard, where the query beside a finding (`?page=gallery&…`, appended to "
    "the dashboard's address) shows the very images behind its number."
)


def details(card: Card) -> list[Section]:
    """Model details and uses: mostly what only the developers can write."""
    backend = card.backend
    known = {
        "Model": card.info.get("model"),
        "Model type": "diffusion-based text-to-image model"
        if backend.get("backend") == "stable-diffusion"
        else None,
        "Parameters of the denoiser": backend.get("parameters"),
        "Prediction": backend.get("prediction_type"),
        "Weights, SHA-256": card.weights,
        "License": backend.get("license"),
    }
    rows = [Row([text(name), _value(value)]) for name, value in known.items() if value is not None]
    missing = ["Developed by", "Language(s)", *([] if backend.get("license") else ["License"])]
    rows += [Row([text(name), text(UNWRITTEN)]) for name in missing]
    unwritten = [Prose(UNWRITTEN)]
    return [
        Section("Model Details", [Table("The audited model", ["Property", "Value"], rows)]),
        Section("Uses", []),
        Section("Direct Use", unwritten, 3),
        Section("Misuse, Malicious Use, and Out-of-Scope Use", unwritten, 3),
    ]


def training() -> list[Section]:
    """The training, which a run does not see."""
    return [
        Section("Training", []),
        Section("Training Data", [Prose(UNWRITTEN)], 3),
        Section("Training Procedure", [Prose(UNWRITTEN)], 3),
    ]


def how(card: Card) -> list[Section]:
    """How the audit was done."""
    info, backend = card.info, card.backend
    spec = dict(info.get("spec") or {})
    seeds = card.seeds
    facts: dict[str, Cell] = {
        "Suite of prompts": text(info.get("suite", "unknown")),
        "Distinct prompts": count(card.prompts),
        "Prompt set, SHA-256": code(card.prompt_set),
        "Negative prompts": text(", ".join(card.negative_prompts) or "none"),
        "Seeds": text("none")
        if seeds is None
        else Cell(
            (
                Number(str(seeds[0]), seeds[0]),
                " to ",
                Number(str(seeds[1]), seeds[1]),
                ", ",
                Number(f"{seeds[2]:,}", seeds[2]),
                " distinct; drawn on the CPU, common to all variants of a prompt",
            )
        ),
        "Design": _design(_mapping(info.get("design"))),
        "Batch": text(spec.get("batch_size", "unknown")),
        "Backend": text(
            ", mode ".join(str(backend[key]) for key in ("backend", "mode") if key in backend)
        ),
        "Scheduler": text(backend.get("scheduler", "unknown")),
        "Device": text(backend.get("device", "unknown")),
        "Number format": text(backend.get("dtype", "unknown")),
        "Journal": Cell(
            (
                Number(f"{card.journal[0]:,}", card.journal[0]),
                f" entries, last hash {card.journal[1]}",
            )
        ),
    }
    versions = dict(info.get("versions") or {})
    blocks: list[Block] = [
        Prose(
            "Every image was made once, with the sampler named here and a seed fixed before; no "
            "image was made again because of how it looked, and none was thrown away."
        ),
        _pairs("Setting", facts),
        *_calibration(dict(info.get("versions") or {}).get(TOOLKIT)),
        Table(
            "Samplers, with the images of each",
            [*(plain(name).capitalize() for name in (card.samplers[0] if card.samplers else ()))],
            [Row([_value(value) for value in row.values()]) for row in card.samplers],
        ),
        _pairs(
            "Scheduler's configuration", _settings(backend.get("scheduler_config")), folded=True
        ),
        _pairs("Versions", {name: text(value) for name, value in versions.items()}),
        _pairs(
            "Weight and configuration files of the model, SHA-256",
            {str(k): code(str(v)) for k, v in _mapping(backend.get("weights")).items()},
            folded=True,
        ),
    ]
    kept = [block for block in blocks if not isinstance(block, Table) or block.rows]
    return [Section("How this audit was done", kept), Section("Detectors", _detectors(card), 3)]


def _calibration(toolkit: object) -> list[Block]:
    """What the version that made the run did with known answers, where it was ever asked."""
    result = of_version(str(toolkit)) if toolkit else None
    if result is None:
        return [Prose("This version of the toolkit ships without a test on known answers.")]
    return [Prose(markdown(sentence(result)))]


def _design(design: Mapping[str, Any]) -> Cell:
    """How many images a prompt was given, and who decided that."""
    if not design:
        return text("the number of images was fixed before")
    looks = [str(look) for look in design["looks"]]
    listed = " and ".join(filter(None, (", ".join(looks[:-1]), looks[-1])))
    parts = [
        f"until conclusive: looks at {listed} images a prompt, declared before; a prompt with a "
        "verdict got no more. Its interval is valid wherever it stopped; its estimate leans a "
        "little away from the reference"
    ]
    for probe, reached in design["probes"].items():
        least, most = reached["images_per_prompt"]
        images = f"{least}" if least == most else f"{least} to {most}"
        rounds = "1 round" if reached["rounds"] == 1 else f"{reached['rounds']} rounds"
        parts.append(
            f"{plain(probe)}: {reached['prompts']} prompts, {images} images each in {rounds}; "
            f"{reached['open']} without a verdict at the last look"
        )
    return text(". ".join(parts))


def failed(card: Card, probes: Mapping[str, str]) -> list[Section]:
    """What was not tested and what failed."""
    blocks: list[Block] = [
        Table(
            f"Images by outcome, of {card.planned:,} planned",
            ["Outcome", "Images"],
            [Row([text(plain(name)), count(number)]) for name, number in card.outcomes.items()],
        ),
    ]
    if card.errors:
        rows = [Row([text(message), count(number)]) for message, number in card.errors.items()]
        blocks.append(Table("Why images failed", ["Error", "Images"], rows))
    untested = [finding for finding in card.findings if finding.verdict == "not_tested"]
    if untested:
        blocks.append(
            Table(
                "Findings that were not tested",
                ["Measured", "Slice", "Why"],
                [
                    Row([text(metric(f.metric).label), text(where(f)), text(f.note)], f.id)
                    for f in untested
                ],
            )
        )
    absent = [title for probe, title in probes.items() if not card.of(probe)]
    if absent:
        blocks.append(Prose(f"Without any finding in this run: {', '.join(absent)}."))
    if card.unavailable:
        blocks.append(
            Table(
                "Detectors that could not be used",
                ["Detector", "Why"],
                [Row([text(name), text(reason)]) for name, reason in card.unavailable.items()],
            )
        )
    left = [f"{markdown(f.id)}" for f in card.without_estimate]
    if left:
        blocks.append(
            Prose(
                f"Findings without an estimate, {len(left):,} of {len(card.findings):,}, are left "
                f"out of the metadata (`model-index`) of the Markdown card: {'; '.join(left)}."
            )
        )
    blocks.append(
        Prose(
            "Not measured: non-binary people, the likeness of real people, copies of training "
            "images that the audit was not given, and the model outside the suite's prompts."
        )
    )
    kept = [block for block in blocks if not isinstance(block, Table) or block.rows]
    return [Section("What was not tested and what failed", kept)]


def closing(card: Card) -> list[Section]:
    """Environmental impact as far as measured, how to reproduce, citation."""
    if card.timed:
        each = card.seconds / card.timed
        spent = (
            f"The {card.timed:,} images that were tried took {card.seconds:,.1f} seconds"
            f"{f' ({card.seconds / 3600:,.2f} hours)' if card.seconds > 600 else ''}, "
            f"{each:,.3g} seconds an image, on "
            f"{markdown(card.backend.get('device', 'an unknown device'))}. The images take "
            f"{_bytes(card.stored[1])} on disk ({card.stored[0]:,} files)."
        )
    else:
        spent = "The run holds no times."
    command = str(card.info.get("command") or "")
    return [
        Section(
            "Environmental Impact",
            [
                Prose(f"{spent} {_energy(card)}"),
                Prose(f"Energy and emissions of the training: {_declared(card)}"),
            ],
        ),
        Section(
            "How to reproduce",
            [
                Prose(
                    "The very command of this run:"
                    if command
                    else "The run does not hold the command that made it."
                ),
                *([Code(command)] if command else []),
                Prose(_RUN),
                Code("t2i-audit verify RUN\nt2i-audit view RUN"),
            ],
        ),
        Section("Citation", [Prose(UNWRITTEN)]),
    ]


def _declared(card: Card) -> str:
    """What the card whose claims are judged says of the training, with its own arithmetic."""
    claims = [claim for claim in card.claims.get("claims", ()) if claim["kind"] == "co2"]
    if not claims:
        return UNWRITTEN
    said = (
        f"“{markdown(claim['claim'])}” ({claim['outcome']} by its own arithmetic: "
        f"{markdown(claim['because'])})"
        for claim in claims
    )
    return f"as {markdown(card.claims['card'])} declares them, {'; '.join(said)}"


def _energy(card: Card) -> str:
    """Joules, GPU-hours and CO2 of the audit, as far as they are known."""
    steps = _mapping(card.energy.get("steps"))
    known = {name: step for name, step in steps.items() if step.get("kwh") is not None}
    gpu = sum(step.get("gpu_hours", 0.0) for step in steps.values())
    hours = f"GPU time: {gpu:,.3g} hours. " if gpu else ""
    if not known:
        return f"{hours}The energy of this audit could not be measured, and no power was declared."
    methods = sorted({method for step in known.values() for method in step["methods"]})
    used = sum(step["kwh"] for step in known.values())
    said = f"{hours}{' and '.join(map(plain, known)).capitalize()} used {used:,.3g} kWh "
    said += f"({', '.join(methods)}{'; an estimate' if 'declared watts' in methods else ''}). "
    declared = _mapping(card.energy.get("declared"))
    if "pue" not in declared:
        return f"{said}Emissions: not computed, for no carbon intensity was declared."
    emitted = sum(step["co2_kg"] or 0.0 for step in known.values())
    return (
        f"{said}Emissions: {emitted:,.3g} kg CO2 equivalent, at a declared PUE of "
        f"{declared['pue']:g} and {declared['kg_per_kwh']:g} kg/kWh."
    )


def _detectors(card: Card) -> list[Block]:
    used = {name: about for name, about in card.detectors.items() if "unavailable" not in about}
    if not used:
        return [Prose("No detector was used.")]
    errors, rows = [], []
    for name, about in used.items():
        errors += [
            Row([text(name), text(plain(key.removeprefix("attributes."))), _cut(value)])
            for key, value in _known_error(about).items()
        ]
        rows += [Row([text(name), text(key), _cut(value)]) for key, value in flat(about).items()]
    return [
        Prose(
            f"{len(used):,} detectors scored the images; thresholds were applied afterwards. Where "
            "a detector's error is not known, no estimate is corrected for it."
        ),
        Table("Known error of the detectors", ["Detector", "Of", "Known error"], errors),
        Table(
            "What each detector says of itself",
            ["Detector", "Property", "Value"],
            rows,
            folded=True,
        ),
    ]


def _known_error(about: Mapping[str, Any]) -> dict[str, str]:
    """What of the known error fits a short table: confusion matrices by their diagonals."""
    error = about.get("known_error")
    if not isinstance(error, Mapping):
        return {"": "not known" if error is None else scalar(error)}
    lines = flat(error)
    matrices = {key: value for key, value in lines.items() if value.startswith("confusion")}
    if matrices or len(lines) <= SHORT:
        return matrices or lines
    return {"": f"measured; {len(lines):,} figures in the table below"}


def _settings(config: Any) -> dict[str, Cell]:
    return {str(name): _cut(scalar(value)) for name, value in _mapping(config).items()}


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _pairs(title: str, facts: Mapping[str, Cell], *, folded: bool = False) -> Table:
    rows = [Row([text(name), value]) for name, value in facts.items()]
    return Table(title, ["Property", "Value"], rows, folded=folded)


def _value(value: Any) -> Cell:
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    return _cut(scalar(value)) if value != "" else text("none")


def _cut(value: str) -> Cell:
    value = clean(value)
    if len(value) <= LONGEST:
        return text(value)
    return text(f"{value[:LONGEST]}… ({len(value):,} characters; whole in card.json)")


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
