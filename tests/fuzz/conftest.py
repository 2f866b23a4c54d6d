"""Counts the inputs of each fuzz test; tests/conftest.py prints the sum at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .fuzzing import TRIED


@pytest.fixture(autouse=True)
def inputs_tried(record_property: Callable[[str, object], None]) -> Iterator[None]:
    before = TRIED.total()
    yield
    record_property("inputs_tried", TRIED.total() - before)
