"""Cards in the wild: whatever a file is made of, it is read, counted, or refused in one line."""

from __future__ import annotations

import time
from pathlib import Path

import ftfy.bad_codecs  # noqa: F401, registers the codec of the browsers
import pytest

from audit.card.claims import read
from audit.card.claims.reading import LARGEST, LONGEST, Document
from audit.card.claims.statements import claims
from audit.errors import AuditError


def document(tmp_path: Path, data: bytes | str) -> Document:
    path = tmp_path / "CARD.md"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read(path)


def test_statements_have_their_lines_and_headings(tmp_path: Path) -> None:
    found = document(
        tmp_path,
        "---\nlicense: mit\n---\n\nThe Model\n=========\n\n## Limits ##\n\n* One is\n  lossy. "
        "Two is\n  et al. small.\n\n**Bold title**\n\nIt has [a link](http://x.example) and `code`."
        "\n\n| Name | Value |\n|---|---|\n| Hours | 12 |\n\n```\nnot read\n```\n",
    )
    assert found.title == "The Model"
    assert found.metadata == {"license": "mit"}
    assert [(one.line, one.text, one.section) for one in found.statements] == [
        (10, "One is lossy.", ("The Model", "Limits")),
        (11, "Two is et al. small.", ("The Model", "Limits")),
        (16, "It has a link and code.", ("The Model", "Limits", "Bold title")),
        (18, "Name: Value", ("The Model", "Limits", "Bold title")),
        (20, "Hours: 12", ("The Model", "Limits", "Bold title")),
    ]
    assert found.counts["blocks of code left out"] == 1
    assert found.problems == []


def test_remains_of_html_are_text_and_what_is_hidden_is_counted(tmp_path: Path) -> None:
    found = document(
        tmp_path,
        "# M\n\n<!-- the model is perfect -->\n<div align=center>\n<h2>Bias &amp; limits</h2>\n"
        "<p>It is <b>biased</b>.</p>\n<script>claim('it is unbiased')</script>\n<table><tr><td>"
        "Hours</td><td>5</td></tr></table>\n</div>\n\nInline <!-- c --> text<br>and <script>evil()"
        "</script> more.\n",
    )
    assert [(one.line, one.text) for one in found.statements] == [
        (6, "It is biased."),
        (8, "Hours: 5"),
        (11, "Inline text and more."),
    ]
    assert found.statements[0].section == ("M", "Bias & limits")
    assert found.counts["HTML comments left out"] == 2
    assert found.counts["scripts and styles left out"] == 2


@pytest.mark.parametrize("wrong", ["mac_roman", "sloppy-windows-1252"])
def test_utf8_that_was_read_in_another_encoding_is_mended(tmp_path: Path, wrong: str) -> None:
    broken = "Images of “a red cube” are poor".encode().decode(wrong)
    found = document(tmp_path, f"# M\n\n{broken}\n")
    assert found.statements[0].text in (
        "Images of “a red cube” are poor", 'Images of "a red cube" are poor',
    )  # fmt: skip
    assert found.counts["lines of a broken encoding mended"] == 1


def test_a_card_in_an_old_encoding_is_read_and_said(tmp_path: Path) -> None:
    found = document(tmp_path, "# Modèle\n\nIl est biaisé à 30 %.\n".encode("cp1252"))
    assert found.statements[0].text == "Il est biaisé à 30 %."
    assert "CARD.md:1: not UTF-8; the card was read as Windows-1252" in found.problems
    wide = document(tmp_path, "# M\n\nIt is biased.\n".encode("utf-16"))
    assert wide.statements[0].text == "It is biased."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# M\n", "CARD.md: no front matter"),
        ("---\na: 1\n# M\n", "CARD.md:1: front matter is opened and never closed; read as text"),
        ("---\na: 1\nb: [1, 2\nc: }\n---\n", "CARD.md:4: front matter is not YAML: "),
        ("---\na: &x\n - *y\n---\n", "CARD.md:3: front matter is not YAML: found undefined alias"),
        ("---\n- a\n- b\n---\n", "CARD.md:1: front matter is YAML, but no mapping"),
        ("---\na: !!python/object:os.system {}\n---\n", "CARD.md:2: front matter is not YAML"),
        ("---\na: 2020-13-45\n---\n", "CARD.md:1: front matter is not YAML: month must be in"),
        ("---\na: " + "[" * 2_000 + "\n---\n", "CARD.md:"),
    ],
)
def test_front_matter_that_cannot_be_read_is_said_with_its_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    found = document(tmp_path, text + "\nIt is biased.\n")
    assert [one for one in found.problems if one.startswith(problem)], found.problems
    assert found.metadata == {}
    assert found.statements[-1].text == "It is biased."


def test_junk_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"CARD\.md: 5\.0 MB; a model card has at most 1 MB"):
        document(tmp_path, b"x" * (5 * LARGEST))
    with pytest.raises(AuditError, match="NUL bytes"):
        document(tmp_path, b"\x89PNG\r\n\0\0\0\rIHDR")
    with pytest.raises(AuditError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    "junk", ["[", "<!", "`a``", "not no biased women ", "safety checker block explicit ", "é"]
)
def test_junk_under_the_limit_is_read_in_seconds(tmp_path: Path, junk: str) -> None:
    start = time.process_time()
    found = document(tmp_path, f"# M\n\n{junk * (30_000 // len(junk))}\n\nIt is biased.\n")
    claims(found)
    assert time.process_time() - start < 5
    assert found.statements[-1].text == "It is biased."


def test_a_statement_that_is_too_long_is_counted(tmp_path: Path) -> None:
    found = document(tmp_path, "# M\n\n" + "biased " * LONGEST + "\n\nIt is lossy.\n")
    assert [one.text for one in found.statements] == ["It is lossy."]
    assert found.counts["statements of more than 1,500 characters not read"] == 1


def test_what_lies_behind_the_part_that_is_read_is_said(tmp_path: Path) -> None:
    found = document(tmp_path, "# M\n\n" + "It is so.\n\n" + "x" * 300_000)
    assert [one for one in found.problems if "was not read" in one]
