"""A card's page, taken apart without the card's own code, and held against findings.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements, the text of each, and what does not nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.faults: list[str] = []

    @classmethod
    def of(cls, source: str) -> Page:
        page = cls()
        page.feed(source)
        page.close()
        page.faults += [f"not closed: {element['tag']}" for element in page.open]
        return page

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"an attribute is given twice: {tag}")
        inside = [element["tag"] for element in self.open]
        row = next((e for e in reversed(self.open) if e["tag"] == "tr"), None)
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "inside": inside, "row": row}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1]["tag"] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1]['tag'] if self.open else None}")
            return
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, *tags: str) -> list[dict[str, Any]]:
        return [element for element in self.elements if element["tag"] in tags]


def numbers(value: Any) -> Iterator[float]:
    """Every number inside a JSON value."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def agrees(shown: str, value: float) -> bool:
    """Whether a printed number is `value`, to its last digit; read without the card's own code."""
    digits = shown.replace("−", "-").replace(",", "").lstrip("+")
    unit = 100 if digits.endswith("%") else 1
    digits = digits.rstrip("%")
    places = len(digits.partition(".")[2])
    return abs(float(digits) - unit * value) <= 0.5 * 10.0**-places + 1e-9


def wrong_numbers(page: Page, findings: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], int]:
    """Numbers beside a finding that are not among its own, or are printed otherwise; and how many
    numbers were looked at.

    Args:
        findings: id → the finding as findings.json has it.
    """
    wrong, checked = [], 0
    for element in page.all("data"):
        row = element["row"]
        if row is None or "data-finding" not in row["attrs"]:
            continue
        name, value = row["attrs"]["data-finding"], float(element["attrs"]["value"])
        if value not in set(numbers(dict(findings[name]))) or not agrees(element["text"], value):
            wrong.append(f"{name}: {element['text']} ({value})")
        checked += 1
    return wrong, checked
