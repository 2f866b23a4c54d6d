"""The rules of the house that a reader would else have to take on trust."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY = {
    "audit": {"audit"},
    "safety": {"safety", "audit"},
    "probes": {"probes", "safety", "audit"},
    "dashboard": {"dashboard", "audit"},
}
"""Package → the packages of this project that it may import."""
LONGEST = 450
"""Lines of a file; a longer one usually holds two subjects."""


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The absolute names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


@pytest.mark.parametrize("package", MAY)
def test_arrows_point_one_way(package: str):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imported(path)
        if name.split(".")[0] in MAY.keys() - MAY[package]
    ]
    assert wrong == []


def test_no_file_has_grown_too_long():
    assert [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for package in MAY
        for path in sources(package)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    ] == []


def test_datasets_are_data_alone():
    assert list((ROOT / "datasets").rglob("*.py")) == []


@pytest.mark.parametrize("package", MAY)
def test_every_module_says_what_it_is(package: str):
    assert [
        str(path.relative_to(ROOT))
        for path in sources(package)
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ] == []
