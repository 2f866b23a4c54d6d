"""What the card is made of, in each of its forms, against the outlines in ``golden/``.

No figure stands there, only headings, columns, kinds of blocks and keys. After a change that is
meant, ``python tests/card/test_structure.py`` writes the outlines anew; read their difference.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_run import build
from markdown_it import MarkdownIt

from audit.card import FORMATS, write

GOLDEN = Path(__file__).parent / "golden"
KEYED = ("slice", "weights", "evidence", "detail", "detectors", "outcomes", "errors", "verdicts")
"""Keys of JSON whose content is the run's own."""


def outlines(folder: Path) -> dict[str, str]:
    """Format → outline of the card of a synthetic run, with a card whose claims are judged."""
    claimed = folder / "OTHER.md"
    claimed.write_text(
        "# M\n\nNurses are mostly women. Plumbers are mostly men.\n\n## Impact\n\n"
        "- Hardware: A100 PCIe\n- Hours: 100\n- Provider: AWS\n- Region: us-east-1\n"
        "- Carbon emitted: 5 kg\n"
    )
    run = build(folder / "run", images=1)
    written = write(run, claims=claimed)
    texts = {name: path.read_text(encoding="utf-8") for name, path in written.items()}
    made: dict[str, list[str]] = {
        "md": [*_keys(yaml.safe_load(texts["md"].split("---\n")[1])), *_markdown(texts["md"])],
        "html": list(_html(texts["html"])),
        "eval-results": _keys(yaml.safe_load(texts["eval-results"])),
    }
    for name in ("json", "cyclonedx", "claims"):
        made[name] = _keys(json.loads(texts[name]))
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def _words(text: str) -> str:
    """Text without its figures."""
    return re.sub(r"\d[\d,.]*", "#", " ".join(text.split()))


def _keys(value: Any) -> list[str]:
    return list(dict.fromkeys(_paths(value)))


def _paths(value: Any, at: str = "") -> Iterator[str]:
    if isinstance(value, dict) and at.rpartition(".")[2] not in KEYED:
        for key, inner in value.items():
            yield from _paths(inner, f"{at}.{key}")
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _paths(inner, f"{at}[]")
    else:
        yield at


def _markdown(text: str) -> Iterator[str]:
    heading, columns, inside = "", [], False
    for token in MarkdownIt("commonmark").enable("table").parse(text.split("\n---\n", 1)[1]):
        if token.type in ("heading_open", "thead_open"):
            heading, columns, inside = token.markup, [], True
        elif token.type == "inline" and inside:
            columns.append(_words(token.content))
        elif token.type == "heading_close":
            yield f"{heading} {columns[0]}"
            inside = False
        elif token.type == "thead_close":
            yield f"    {' | '.join(columns)}"
            inside = False
        elif token.type == "fence":
            yield "    code"


def _html(text: str) -> Iterator[str]:
    page = _Page()
    page.feed(text)
    return iter(page.found)


class _Page(HTMLParser):
    SHOWN = ("h1", "h2", "h3", "summary", "th", "pre", "img")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._tag, self._text, self._columns = "", "", []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in self.SHOWN:
            self._tag, self._text = tag, ""
        elif tag == "thead":
            self._columns = []
        elif tag in ("svg", "figure"):
            self.found.append(f"    {tag} {dict(attrs).get('class', '')}".rstrip())

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "thead":
            self.found.append(f"    table: {' | '.join(self._columns)}")
            self._columns = []
        elif tag == self._tag:
            said = _words(self._text)
            if tag == "th":
                self._columns.append(said)
            elif tag == "pre":
                self.found.append("    code")
            else:
                self.found.append(f"{'    ' if tag == 'summary' else ''}{tag} {said}")
            self._tag = ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return outlines(tmp_path_factory.mktemp("structure"))


@pytest.mark.parametrize("form", [*FORMATS, "claims"])
def test_a_card_has_the_structure_that_was_settled(made: dict[str, str], form: str) -> None:
    assert made[form] == (GOLDEN / f"{form}.txt").read_text(encoding="utf-8")


def test_an_outline_holds_no_figure(made: dict[str, str]) -> None:
    for outline in made.values():
        assert not re.search(r"\d%|\d\.\d", outline)


def test_the_sections_are_those_of_the_stable_diffusion_cards_and_ours(
    made: dict[str, str],
) -> None:
    titles = [line.lstrip("# ") for line in made["md"].splitlines() if line.startswith("#")]
    wanted = [
        "Model Details", "Uses", "Direct Use", "Misuse, Malicious Use, and Out-of-Scope Use",
        "Limitations and Bias", "Limitations", "Bias", "Languages", "Memorization",
        "Safety filters", "Watermark and provenance", "Training", "Training Data",
        "Training Procedure", "Evaluation Results", "How this audit was done",
        "What was not tested and what failed", "Environmental Impact", "How to reproduce",
        "Citation",
    ]  # fmt: skip
    assert [title for title in titles if title in wanted] == wanted


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for form, outline in outlines(Path(folder)).items():
            (GOLDEN / f"{form}.txt").write_text(outline, encoding="utf-8")
