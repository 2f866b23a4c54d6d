"""The card as the README of a model on the Hugging Face Hub: YAML front matter and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .blocks import Block, Cell, Code, Figure, Fold, Pictures, Prose, Row, Section, Table
from .content import Card
from .formats.front_matter import front_matter
from .wording import clean
from .wording import markdown as escaped


def readme(card: Card, sections: Sequence[Section]) -> str:
    """Front matter, title and every section; figures and pictures are in the HTML."""
    parts = [f"---\n{front_matter(card)}\n---", f"# {escaped(card.model)} Model Card"]
    for section in sections:
        parts.append(f"{'#' * section.level} {escaped(section.title)}")
        parts += [shown for block in section.blocks if (shown := _block(block))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Prose():
            return block.markdown
        case Code():
            return _fenced(block.text)
        case Table():
            return _table(block)
        case Fold():
            return "\n\n".join(filter(None, map(_block, block.blocks)))
        case Figure() | Pictures():
            return ""


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(clean(line) for line in text.splitlines())
    return f"{fence}sh\n{lines}\n{fence}"


def _table(table: Table) -> str:
    numeric = [
        bool(table.rows) and all(row.cells[index].kind == "number" for row in table.rows)
        for index in range(len(table.columns))
    ]
    head = "| " + " | ".join(escaped(column) for column in table.columns) + " |"
    rule = "| " + " | ".join("---:" if right else "---" for right in numeric) + " |"
    title = f"**{escaped(table.title)}.**" + (f" {escaped(table.note)}" if table.note else "")
    return "\n".join([title, "", head, rule, *map(_row, table.rows)])


def _row(row: Row) -> str:
    return "| " + " | ".join(_cell(cell) or " " for cell in row.cells) + " |"


def _cell(cell: Cell) -> str:
    shown = clean(cell.text)
    if cell.kind == "code" and shown and not set(shown) & set("`|\\"):
        return f"`{shown}`"
    return escaped(shown)
