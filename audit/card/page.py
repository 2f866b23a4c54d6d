"""The card as one HTML file that fetches nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .blocks import Section
from .content import Card
from .strokes import STYLE
from .wording import clean

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def page(card: Card, sections: Sequence[Section], verdicts: Sequence[tuple[str, int]]) -> str:
    """The whole page. Text of the run is escaped by the template; our prose is Markdown."""
    return (
        environment()
        .get_template("card.html.jinja")
        .render(
            card=card,
            sections=sections,
            verdicts=verdicts,
            style=(TEMPLATES / "card.css").read_text(encoding="utf-8") + STYLE,
        )
    )


@cache
def environment() -> Environment:
    """The templates of the card; whatever they are given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    prose = MarkdownIt("commonmark", {"html": False})

    def kind(block: Any) -> str:
        return type(block).__name__

    def rendered(text: str) -> Markup:
        return Markup(prose.render(text))

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "clean": clean,
        "kind": kind,
        "prose": rendered,
    }
    return environment
