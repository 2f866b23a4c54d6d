"""The card's section on what changed since the previous audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .blocks import Block, Prose, Section
from .wording import markdown, plain

if TYPE_CHECKING:
    from audit.compare import Comparison

    from .content import Card

TITLE = "Change since the previous audit"

_BEFORE = "How to reproduce"


def with_change(sections: Sequence[Section], card: Card) -> list[Section]:
    """The sections with that of the change before how to reproduce; without one, as they are."""
    if card.change is None:
        return list(sections)
    titles = [section.title for section in sections]
    at = titles.index(_BEFORE) if _BEFORE in titles else len(titles)
    return [*sections[:at], change_section(card.change), *sections[at:]]


def change_section(compared: Comparison) -> Section:
    """What is shown to have changed since the first of the two runs, and what differs in the setup.

    All changes stand on the page of ``t2i-audit compare``.
    """
    from audit.compare.blocks import (
        READING,
        figures,
        sentence,
        setup_table,
        slice_first,
        summary_table,
    )
    from audit.compare.report import notable

    made = str(compared.first.info.get("created", ""))[:10] or "unknown date"
    model = compared.first.info.get("model", "an unknown model")
    blocks: list[Block] = [
        Prose(
            f"Against the audit of {markdown(model)} of {markdown(made)}, the first run: "
            f"{sentence(compared)}"
        )
    ]
    table = summary_table(compared)
    if table.rows:
        blocks += [*figures("notable", notable(compared), slice_first), table]
    blocks += [
        Prose(f"**Not judged: {markdown(plain(probe))}**, for {markdown(reason)}.")
        for probe, reason in compared.unjudged_probes.items()
    ]
    blocks += [Prose(READING), setup_table(compared)]
    return Section(TITLE, blocks)
