"""The model card of a run: every number comes from a finding, a record or run.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import atomic
from audit.errors import AuditError

if TYPE_CHECKING:
    from audit.store import Run

    from .content import Card

_FILES = {
    "md": "README.md",
    "html": "card.html",
    "json": "card.json",
    "cyclonedx": "cyclonedx.json",
    "eval-results": "eval_results.yaml",
}
FORMATS = tuple(_FILES)


def write(
    run: Run,
    formats: Sequence[str] = FORMATS,
    *,
    claims: Path | None = None,
    previous: Path | None = None,
    out: Path | None = None,
) -> dict[str, Path]:
    """Write the card of a run; format → file. The same run gives the same bytes.

    Args:
        claims: a model card whose claims are judged; the result is a section of the card, and the
            format ``claims``.
        previous: an earlier run; what changed since is a section of the card.
        out: a folder, instead of the run's own ``card/``.

    Raises:
        AuditError: a format that there is not, a document or table of the run that is damaged, or
            a card of claims that cannot be read; nothing is written then.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise AuditError(f"no card format '{unknown[0]}'; there are: {', '.join(FORMATS)}")
    from .documents import whole_tables

    with whole_tables(run):
        return _write(run, formats, claims, previous, out)


def _write(
    run: Run, formats: Sequence[str], claims: Path | None, previous: Path | None, out: Path | None
) -> dict[str, Path]:
    from .content import gather

    card = gather(run)
    if claims is not None:
        from .claims import check, read

        card = replace(card, claims=check(read(claims), card.findings))
    if previous is not None:
        from audit.compare import Opened, compare

        card = replace(card, change=compare(Opened(previous), Opened(run.path)))
    written = {}
    for name, file, content in _contents(run, card, formats):
        # A lone surrogate in a prompt has no bytes in UTF-8.
        data = content.encode("utf-8", "replace")
        if out is None:
            run.write_bytes(f"card/{file}", data)
        else:
            atomic.replace(out / file, data)
        written[name] = (out or run.path / "card") / file
    return written


def _contents(run: Run, card: Card, formats: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Format, file and content of each."""
    from .change_section import with_change
    from .claims_section import with_claims
    from .formats.annex import annex
    from .markdown import readme
    from .page import page
    from .sections import sections, verdicts

    laid_out = []
    if {"md", "html"} & set(formats):
        laid_out = with_change(with_claims(sections(run, card), card), card)
        laid_out = [*laid_out, annex(card)]
    for name in dict.fromkeys(formats):
        if name == "md":
            content = readme(card, laid_out)
        elif name == "html":
            content = page(card, laid_out, verdicts(card))
        elif name == "cyclonedx":
            from .formats.cyclonedx import bom

            content = _json(bom(card))
        elif name == "eval-results":
            from .formats.eval_results import eval_results

            content = eval_results(card)
        else:
            content = _json(document(card))
        yield name, _FILES[name], content
    if card.claims:
        yield "claims", "claims.json", _json(card.claims)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def document(card: Card) -> dict[str, Any]:
    """card.json: what the card says, for programs."""
    from .formats.annex import items
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
        "annex": [vars(item) for item in items(card)],
        **({"claims": dict(card.claims)} if card.claims else {}),
    }


__all__ = ["FORMATS", "document", "write"]
