"""Evidence → content: everything a card says, gathered from the run and from nowhere else."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from audit.findings import Finding

from . import documents

if TYPE_CHECKING:
    import pandas as pd

    from audit.compare import Comparison
    from audit.store import Run

TABLES = (
    "demographics.shares",
    "memorization.duplication",
    "memorization.neighbours",
    "safety_filters.roc",
    "languages.alignment",
    "watermarks.robustness",
    "watermarks.null",
    "quality.front",
)
"""The probes' tables that a figure is drawn from."""

SAMPLER = ("scheduler", "steps", "guidance", "height", "width", "deliver_size", "watermark")


@dataclass(frozen=True)
class Card:
    """What the run holds, in the words of the card.

    Attributes:
        model: the model's name; of a path its last part.
        info: run.json.
        findings: every finding, in the run's order.
        detectors: detectors.json: name → what it says of itself, or ``{"unavailable": why}``.
        gates: gates.json.
        outcomes: outcome → images of the plan; an image not made is ``missing``.
        errors: message → images, for those that failed.
        samplers: the sampler settings that were used, with the number of images of each.
        prompts, negative_prompts, seeds: distinct ones; seeds as (first, last, how many).
        prompt_set: SHA-256 of the JSON array of the sorted distinct prompts.
        weights: SHA-256 over the sorted lines ``<SHA-256>  <file>`` of every weight file.
        seconds: generation time, summed over the `timed` images whose record has it.
        stored: files and bytes in the run's folder of images.
        journal: entries before the first card, and the hash of the last of them.
        energy: energy.json: what was declared, and what each step used.
        tables: the tables of :data:`TABLES` that are there.
        claims: the claims of another card, as :func:`audit.card.claims.check` judges them.
        change: what changed since the previous audit, where one was named.
    """

    model: str
    info: Mapping[str, Any]
    findings: tuple[Finding, ...]
    detectors: Mapping[str, Mapping[str, Any]]
    gates: Sequence[Mapping[str, Any]]
    outcomes: Mapping[str, int]
    errors: Mapping[str, int]
    samplers: Sequence[Mapping[str, Any]]
    prompts: int
    negative_prompts: Sequence[str]
    seeds: tuple[int, int, int] | None
    prompt_set: str
    weights: str | None
    seconds: float
    timed: int
    stored: tuple[int, int]
    journal: tuple[int, str]
    energy: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    change: Comparison | None = None

    @property
    def images(self) -> int:
        """Images that were made."""
        return self.outcomes.get("ok", 0)

    @property
    def planned(self) -> int:
        """Images that were asked for."""
        return sum(self.outcomes.values())

    @property
    def backend(self) -> Mapping[str, Any]:
        """What the backend said of itself."""
        return dict(self.info.get("backend") or {})

    def of(self, probe: str) -> list[Finding]:
        """A probe's findings."""
        return [finding for finding in self.findings if finding.probe == probe]

    @property
    def unavailable(self) -> dict[str, str]:
        """Detectors that could not serve this model, with the reason."""
        return {
            name: str(about["unavailable"])
            for name, about in self.detectors.items()
            if "unavailable" in about
        }

    @property
    def without_estimate(self) -> list[Finding]:
        """Findings that hold no number; the front matter has no place for them."""
        return [finding for finding in self.findings if finding.estimate is None]


def gather(run: Run) -> Card:
    """Read a run. Tables that are absent or empty are left out."""
    info = documents.info(run)
    found = {name: run.read_table(f"tables/{name}") for name in TABLES}
    return Card(
        model=_name(str(info.get("model", "unknown model"))),
        info=info,
        findings=tuple(documents.findings(run)),
        detectors=documents.mapping(run, "detectors.json", of_mappings=True),
        gates=documents.gates(run),
        weights=_combined(dict(info.get("backend") or {}).get("weights")),
        stored=_stored(run),
        journal=_journal(run),
        energy=documents.energy(run),
        tables={name: frame for name, frame in found.items() if not frame.empty},
        **_counts(run),
    )


def _counts(run: Run) -> dict[str, Any]:
    with run.connect() as database:

        def ask(query: str) -> list[Any]:
            return database.execute(query).fetchall()

        views = {name for (name,) in ask("SHOW TABLES")}
        if "requests" not in views:
            return {
                "outcomes": {},
                "errors": {},
                "samplers": [],
                "prompts": 0,
                "negative_prompts": [],
                "seeds": None,
                "prompt_set": _hash([]),
                "seconds": 0.0,
                "timed": 0,
            }
        prompts = [prompt for (prompt,) in ask("SELECT DISTINCT prompt FROM requests")]
        negative = ask("SELECT DISTINCT negative_prompt FROM requests WHERE negative_prompt <> ''")
        there = {row[0] for row in ask("DESCRIBE requests")}
        fields = [name for name in SAMPLER if name in there]
        chosen = ", ".join(fields)
        samplers = ask(
            f"SELECT {chosen}, count(*) AS images FROM requests GROUP BY {chosen} "
            f"ORDER BY images DESC, {chosen}"
        )
        seeds = ask("SELECT min(seed), max(seed), count(DISTINCT seed) FROM requests")[0]
        outcomes: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        seconds, timed = 0.0, 0
        if "records" in views:
            there = {row[0] for row in ask("DESCRIBE records")}
            error = "records.error" if "error" in there else "''"
            for outcome, message, count in ask(
                f"SELECT coalesce(outcome, 'missing'), coalesce({error}, ''), count(*) "
                "FROM requests LEFT JOIN records USING (request) GROUP BY ALL ORDER BY ALL"
            ):
                outcomes[outcome] += count
                if message:
                    errors[message] += count
            if "seconds" in there:
                seconds, timed = ask(
                    "SELECT coalesce(sum(seconds), 0), count(seconds) FROM records "
                    "WHERE isfinite(seconds)"
                )[0]
        else:
            outcomes["missing"] = ask("SELECT count(*) FROM requests")[0][0]
    return {
        "outcomes": {name: outcomes[name] for name in sorted(outcomes, key=_ok_first)},
        "errors": dict(errors),
        "samplers": [dict(zip([*fields, "images"], row, strict=True)) for row in samplers],
        "prompts": len(prompts),
        "negative_prompts": sorted(text for (text,) in negative),
        "seeds": seeds if seeds[2] else None,
        "prompt_set": _hash(sorted(prompts)),
        "seconds": float(seconds),
        "timed": int(timed),
    }


def _ok_first(outcome: str) -> tuple[bool, str]:
    return outcome != "ok", outcome


def _hash(prompts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest()


def _combined(weights: Any) -> str | None:
    if not isinstance(weights, Mapping) or not weights:
        return None
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(weights.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _stored(run: Run) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in run.path.glob("images/*/*.webp")]
    return len(sizes), sum(sizes)


def _journal(run: Run) -> tuple[int, str]:
    # Writing a card adds entries of its own; without them a second card equals the first.
    entries = [
        entry for entry in run.journal.entries() if not str(entry["file"]).startswith("card/")
    ]
    return len(entries), str(entries[-1]["hash"]) if entries else ""


def _name(model: str) -> str:
    is_path = model.startswith(("/", ".", "~")) or "\\" in model or model.count("/") > 1
    return (PurePath(model).name or model) if is_path else model
