"""HTML inside a card: the text that a reader sees, in pieces, each with its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

LARGEST = 100_000
"""Characters of one block of HTML; a larger one is counted and not read."""

_HIDDEN = ("script", "style", "template", "svg", "pre", "textarea")
_BLOCKS = (
    "p", "div", "li", "ul", "ol", "br", "hr", "table", "tr", "section", "article", "details",
    "summary", "blockquote", "dl", "dt", "dd", "center", "figure", "figcaption", "body", "html",
)  # fmt: skip
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


@dataclass(frozen=True)
class Piece:
    """A run of text, the lines before it, and the level of the heading that it is, or 0."""

    text: str
    line: int
    heading: int = 0


def pieces(content: str, count: Callable[[str], None]) -> Iterator[Piece]:
    """The pieces of a block of HTML; `count` is told what was left out."""
    if len(content) > LARGEST:
        count(f"blocks of HTML of more than {LARGEST:,} characters not read")
        return
    parser = _Parser(count)
    parser.feed(content)
    parser.close()
    parser.flush()
    yield from parser.found


class _Parser(HTMLParser):
    def __init__(self, count: Callable[[str], None]) -> None:
        super().__init__(convert_charrefs=True)
        self.count = count
        self.found: list[Piece] = []
        self._text: list[str] = []
        self._line = 0
        self._hidden = ""
        self._heading = 0
        self._cells = 0

    def flush(self) -> None:
        text = "".join(self._text)
        if text.strip():
            self.found.append(Piece(text.strip(), self._line, self._heading))
        self._text = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN and not self._hidden:
            self._hidden = tag
            self.count("scripts and styles left out" if tag != "pre" else "blocks of code left out")
        elif tag in _HEADINGS:
            self.flush()
            self._heading = int(tag[1])
        elif tag in ("td", "th"):
            # A row of two cells is a name and its value.
            if self._cells:
                self._text.append(": " if self._cells == 1 else " | ")
            self._cells += 1
        elif tag in _BLOCKS:
            self.flush()
            self._cells = 0

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""
        elif tag in _HEADINGS:
            self.flush()
            self._heading = 0
        elif tag in _BLOCKS:
            self.flush()
            self._cells = 0

    def handle_data(self, data: str) -> None:
        if self._hidden or not data.strip():
            if self._text:
                self._text.append("" if self._hidden else data)
            return
        if not self._text:
            self._line = self.getpos()[0] - 1 + data[: len(data) - len(data.lstrip())].count("\n")
        self._text.append(data)

    def handle_comment(self, data: str) -> None:
        self.count("HTML comments left out")
