"""YAML that people write, read without surprises: one line for whatever is wrong with it."""

from __future__ import annotations

from typing import Any

import yaml

from .errors import AuditError

WRONG = (
    yaml.YAMLError,
    # What PyYAML lets through of a value that is none of its type, and of endless nesting.
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading YAML can end in."""
DEEPEST = 50
MOST = 1_000_000


def parsed(text: str, where: str) -> Any:
    """The value of a YAML document.

    Raises:
        AuditError: it is no YAML, nested too deeply, or its aliases make too much of it.
    """
    try:
        value = yaml.safe_load(text)
    except WRONG as error:
        raise refusal(error, where) from error
    check_size(value, where)
    return value


def refusal(error: Exception, where: str) -> AuditError:
    """What is wrong with a document, with its line where that is known."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        where = f"{where}:{mark.line + 1}"
    if isinstance(error, RecursionError):
        return AuditError(f"{where}: YAML is nested too deeply")
    said = getattr(error, "problem", None) or " ".join(str(error).split())[:200]
    return AuditError(f"{where}: not valid YAML: {said or type(error).__name__}")


def check_size(value: Any, where: str) -> None:
    """Refuse what a few aliases make endless: a value in itself, or lists of lists of lists.

    Raises:
        AuditError: more than `MOST` values, or nested more than `DEEPEST` deep.
    """
    left, seen = [(value, 0)], 0
    while left:
        item, depth = left.pop()
        seen += 1
        if depth > DEEPEST:
            raise AuditError(f"{where}: YAML is nested more than {DEEPEST} deep")
        if seen > MOST:
            raise AuditError(f"{where}: its aliases make more than {MOST:,} values of it")
        if isinstance(item, dict):
            left += [(one, depth + 1) for pair in item.items() for one in pair]
        elif isinstance(item, list | tuple | set):
            left += [(one, depth + 1) for one in item]
