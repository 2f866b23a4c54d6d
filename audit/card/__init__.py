"""The model card of a run: every number comes from a finding, a record or run.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import AuditError

if TYPE_CHECKING:
    from audit.store import Run

    from .content import Card

FORMATS = ("md", "html", "json")
_FILES = {"md": "README.md", "html": "card.html", "json": "card.json"}


def write(run: Run, formats: Sequence[str] = FORMATS) -> dict[str, Path]:
    """Write the card of a run into its folder ``card/``; format → file.

    The same run gives the same bytes.

    Raises:
        AuditError: a format that there is not; nothing is written then.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise AuditError(f"no card format '{unknown[0]}'; there are: {', '.join(FORMATS)}")
    from .content import gather
    from .markdown import readme
    from .page import page
    from .sections import sections, verdicts

    card = gather(run)
    laid_out = [] if set(formats) <= {"json"} else sections(run, card)
    written = {}
    for name in dict.fromkeys(formats):
        if name == "md":
            content = readme(card, laid_out)
        elif name == "html":
            content = page(card, laid_out, verdicts(card))
        else:
            content = json.dumps(document(card), indent=1, ensure_ascii=False) + "\n"
        file = f"card/{_FILES[name]}"
        # A lone surrogate in a prompt has no bytes in UTF-8.
        run.write_bytes(file, content.encode("utf-8", "replace"))
        written[name] = run.path / file
    return written


def document(card: Card) -> dict[str, Any]:
    """card.json: what the card says, for programs."""
    from .sections import verdicts
    from .wording import query

    return {
        "schema_version": 1,
        "model": card.model,
        "run": dict(card.info),
        "weights_sha256": card.weights,
        "prompts": {"distinct": card.prompts, "sha256": card.prompt_set},
        "negative_prompts": list(card.negative_prompts),
        "seeds": None
        if card.seeds is None
        else dict(zip(("first", "last", "distinct"), card.seeds, strict=True)),
        "samplers": [dict(row) for row in card.samplers],
        "images": {
            "planned": card.planned,
            "outcomes": dict(card.outcomes),
            "errors": dict(card.errors),
            "files": card.stored[0],
            "bytes": card.stored[1],
        },
        "seconds": {"generation": card.seconds, "images": card.timed},
        "journal": {"entries": card.journal[0], "last_hash": card.journal[1]},
        "verdicts": dict(verdicts(card)),
        "findings": [f.as_dict() | {"evidence_query": query(f)} for f in card.findings],
        "gates": [dict(gate) for gate in card.gates],
        "detectors": dict(card.detectors),
    }


__all__ = ["FORMATS", "document", "write"]
