"""A comparison as one HTML file that fetches nothing and runs nothing, in the card's style."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from audit.card import page as card_page
from audit.card.strokes import STYLE
from audit.card.wording import VERDICTS, clean

from .blocks import sections
from .changes import Comparison, tally
from .setup import weights_hash

TEMPLATES = Path(__file__).parent / "templates"


def page(compared: Comparison, gates: Sequence[dict[str, Any]] = ()) -> str:
    """The whole page. Text of the runs is escaped by the template."""
    from jinja2 import ChoiceLoader, FileSystemLoader

    environment = card_page.environment().overlay(
        loader=ChoiceLoader([FileSystemLoader(TEMPLATES), FileSystemLoader(card_page.TEMPLATES)])
    )
    css = (card_page.TEMPLATES / "card.css").read_text(encoding="utf-8")
    # The card's template holds the macros of blocks; with nothing to show, the rest of it is empty.
    nothing = SimpleNamespace(model="", images=0, findings=())
    return environment.get_template("comparison.html.jinja").render(
        parts=sections(compared, gates),
        tally=[(VERDICTS[name], number) for name, number in tally(compared.changes).items()],
        runs=[_run(side) for side in (compared.first, compared.second)],
        css=css + STYLE,
        card=nothing,
        sections=(),
        verdicts=(),
        style="",
    )


def _run(side: Any) -> dict[str, str]:
    return {
        "model": clean(side.info.get("model")),
        "folder": clean(side.path.name or side.path),
        "made": clean(side.info.get("created", "")),
        "weights": weights_hash(side)[:16],
    }
