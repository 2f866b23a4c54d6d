from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pytest

import audit.statistics

MODULES = [m.name for m in pkgutil.iter_modules(audit.statistics.__path__) if m.name[0] != "_"]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_are_true(module: str):
    result = doctest.testmod(import_module(f"audit.statistics.{module}"))
    assert result.failed == 0
    assert result.attempted > 0


def test_every_public_name_is_exported_and_documented():
    for name in audit.statistics.__all__:
        assert getattr(audit.statistics, name).__doc__
