"""A model card in the wild: its metadata, and its sentences with their lines and headings.

Cards are written by hand: without front matter, in a broken encoding, with headings of both kinds,
bold lines in their place, and HTML. Nothing of that ends the reading; what was mended, left out or
could not be read is counted and said.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import AuditError

from .remains import pieces

if TYPE_CHECKING:
    from markdown_it.token import Token

LARGEST = 1_000_000
"""Bytes of a card. The largest on the Hub are a tenth of this; more is no card."""
LONGEST = 1500
"""Characters of one statement; a longer one is counted and not read."""
METADATA = 300_000
"""Characters of front matter."""
BODY = 300_000
"""Characters of Markdown: what can be parsed in seconds, whatever it is made of."""
TITLE = 90
"""A bold line of at most this many characters that ends no sentence stands for a heading."""

_ENDS = re.compile(
    r"(?<!\bet al)(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)(?<!\bapprox)(?<!\bFig)"
    r"[.!?][\"”’)\]]*(\s+)(?=[A-Z\"“(\[])"
)


@dataclass(frozen=True)
class Statement:
    """A sentence, list item or table row; `section` has its headings, the outermost first."""

    text: str
    line: int
    section: tuple[str, ...] = ()


@dataclass
class Document:
    """A card as it was read.

    Attributes:
        metadata: the front matter; empty without one, or with one that cannot be read.
        problems: ``FILE:LINE: …``, what could not be read as it stands.
        counts: how much was read, mended and left out.
    """

    name: str
    sha256: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, by: int = 1) -> None:
        """Add to a count."""
        if by:
            self.counts[what] = self.counts.get(what, 0) + by


def read(path: Path) -> Document:
    """Read a card.

    Raises:
        AuditError: there is no such file, it is no text, or it is larger than `LARGEST`.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise AuditError(
                f"{path}: {size / 1e6:,.1f} MB; a model card has at most {LARGEST / 1e6:g} MB: "
                "give the card's own Markdown file"
            )
        data = path.read_bytes()
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror or error}") from error
    document = Document(path.name, hashlib.sha256(data).hexdigest())
    lines = _decoded(data, document).split("\n")
    document.count("lines", len(lines))
    start = _front_matter(lines, document)
    _body("\n".join(lines[start:]), start, document)
    document.counts["statements"] = len(document.statements)
    return document


def _decoded(data: bytes, document: Document) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", "replace")
    elif b"\0" in data:
        raise AuditError(f"{document.name}: holds NUL bytes and is no text; give a Markdown file")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            document.problems.append(
                f"{document.name}:{line}: not UTF-8; the card was read as Windows-1252"
            )
            text = data.decode("cp1252", "replace")
    return _mended(re.sub(r"\r\n?|[\u2028\u2029\x0b\x0c]", "\n", text), document)


def _mended(text: str, document: Document) -> str:
    """Undo UTF-8 that was read in another encoding, line by line, where ftfy recognises it."""
    if text.isascii():
        return text
    from ftfy import fix_encoding

    lines = text.split("\n")
    for place, line in enumerate(lines):
        if not line.isascii() and len(line) <= 20 * LONGEST:
            lines[place] = fix_encoding(line).replace("\n", " ")
            document.count("lines of a broken encoding mended", lines[place] != line)
    return "\n".join(lines)


def _front_matter(lines: Sequence[str], document: Document) -> int:
    """Read the metadata; the number of lines that it takes."""
    import yaml

    from audit import yaml_files

    start = next((place for place, line in enumerate(lines) if line.strip()), len(lines))
    if start == len(lines) or lines[start].rstrip() != "---":
        document.problems.append(f"{document.name}: no front matter")
        return 0
    ends = (at for at in range(start + 1, len(lines)) if lines[at].rstrip() in ("---", "..."))
    end = next(ends, None)
    if end is None:
        document.problems.append(
            f"{document.name}:{start + 1}: front matter is opened and never closed; read as text"
        )
        return start + 1
    text = "\n".join(lines[start + 1 : end])
    wrong, line = "", start + 1
    if len(text) > METADATA:
        wrong = f"{len(text):,} characters of front matter; at most {METADATA:,} are read"
    else:
        try:
            # Not the C loader: deep nesting ends it, and the process with it.
            found = yaml.safe_load(text)
            yaml_files.check_size(found, "front matter")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line += 1 + (mark.line if mark else 0)
            wrong = f"front matter is not YAML: {error.problem or error.context}"
        except (*yaml_files.WRONG, AuditError) as error:
            wrong = f"front matter is not YAML: {' '.join(str(error).split())[:120]}"
        else:
            if isinstance(found, dict):
                document.metadata = {str(key): value for key, value in found.items()}
            elif found is not None:
                wrong = "front matter is YAML, but no mapping of keys to values"
    if wrong:
        document.problems.append(f"{document.name}:{line}: {wrong}; its fields were not read")
    return end + 1


# ---- the body --------------------------------------------------------------------------------


def _body(text: str, before: int, document: Document) -> None:
    from markdown_it import MarkdownIt

    headings = _Headings()
    parents: list[str] = []
    row: list[str] = []
    line, level = before + 1, 0
    if len(text) > BODY:
        cut = text.count("\n", 0, BODY) + before + 1
        document.problems.append(
            f"{document.name}:{cut}: {len(text):,} characters of Markdown; what follows the first "
            f"{BODY:,} was not read"
        )
        text = text[:BODY]
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.map:
            line = before + token.map[0] + 1
        if token.nesting == 1:
            parents.append(token.type)
            level = int(token.tag[1]) if token.type == "heading_open" else level
        elif token.nesting == -1:
            parents.pop()
        if token.type == "tr_close":
            # Most two-column tables are a name and its value.
            _state(": ".join(row) if len(row) == 2 else " | ".join(row), line, headings, document)
            row = []
        elif token.type in ("fence", "code_block"):
            document.count("blocks of code left out")
        elif token.type == "html_block":
            _html(token.content, line, headings, document)
        elif token.type == "inline":
            shown, bold = _inline(token, document)
            if "heading_open" in parents:
                headings.enter(level, shown, document)
            elif parents[-1] in ("th_open", "td_open"):
                row.append(shown.strip())
            elif bold and len(shown) <= TITLE and "list_item_open" not in parents:
                headings.enter(_Headings.BOLD, shown, document)
            else:
                _state(shown, line, headings, document)


class _Headings:
    """The headings that a line stands under."""

    BOLD = 7

    def __init__(self) -> None:
        self.open: list[tuple[int, str]] = []

    def enter(self, level: int, text: str, document: Document) -> None:
        title = " ".join(text.split()).strip(" :")[:200]
        document.title = document.title or title
        self.open = [*((at, name) for at, name in self.open if at < level), (level, title)]

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.open if name)


def _inline(token: Token, document: Document) -> tuple[str, bool]:
    """The text of a paragraph without its markup, and whether all of it is bold."""
    parts: list[str] = []
    inside = 0
    bold, depth = bool(token.children), 0
    hidden = ""
    for child in token.children or []:
        if child.type in ("strong_open", "strong_close"):
            depth += child.nesting
        elif child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif child.type == "html_inline":
            tag = re.match(r"<(/?)(script|style|br)\b", child.content, re.IGNORECASE)
            name = tag[2].lower() if tag else ""
            if name == "br":
                parts.append("\n")
            elif name:
                hidden = "" if tag and tag[1] else name
                document.count("scripts and styles left out", bool(hidden))
            document.count("HTML comments left out", child.content.startswith("<!--"))
        elif child.type in ("text", "code_inline") and not hidden:
            parts.append(child.content)
            inside += bool(child.content.strip())
            bold = bold and (depth > 0 or not child.content.strip())
    return "".join(parts), bold and inside > 0


def _html(content: str, line: int, headings: _Headings, document: Document) -> None:
    for piece in pieces(content, document.count):
        if piece.heading:
            headings.enter(piece.heading, piece.text, document)
        else:
            _state(piece.text, line + piece.line, headings, document)


def _state(text: str, line: int, headings: _Headings, document: Document) -> None:
    for sentence, offset in sentences(text):
        if len(sentence) > LONGEST:
            document.count(f"statements of more than {LONGEST:,} characters not read")
        elif re.search(r"\w\W*\w", sentence):
            document.statements.append(Statement(sentence, line + offset, headings.titles))


def sentences(text: str) -> Iterator[tuple[str, int]]:
    """Each sentence on one line, with the number of line breaks before it.

    >>> list(sentences("It is lossy.\\nAs Rombach et al. say, it\\nmemorizes."))
    [('It is lossy.', 0), ('As Rombach et al. say, it memorizes.', 1)]
    """
    start, line = 0, 0
    for end in [*(match.start(1) for match in _ENDS.finditer(text)), len(text)]:
        part = text[start:end]
        if part.strip():
            lead = len(part) - len(part.lstrip())
            yield " ".join(part.split()), line + part.count("\n", 0, lead)
        line += part.count("\n")
        start = end
