"""Tables and texts that people write, read with the line of what is wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from audit.errors import AuditError
from audit.plugins import did_you_mean


def text_of(path: Path) -> str:
    """A file's text; a byte order mark is dropped.

    Raises:
        AuditError: it cannot be read, or is not UTF-8; with the line of the first wrong byte.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AuditError(
            f"{path}:{line}: not UTF-8 text (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from error


def rows(
    path: Path, required: Iterable[str], *, delimiter: str = ",", filled: Iterable[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table with a header, each with its place ``FILE:LINE``.

    Args:
        required: columns there must be.
        filled: of these, the columns that may not be empty.

    Raises:
        AuditError: a column is missing, a row has another number of fields than the header, a
            filled column is empty, or a quote is not closed.
    """
    lines = csv.reader(io.StringIO(text_of(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    where = f"{path}:1"
    try:
        for fields in lines:
            if not header:
                header = [name.strip() for name in fields]
                _check_header(header, list(required), where, delimiter)
            elif any(field.strip() for field in fields):
                if len(fields) != len(header):
                    raise AuditError(
                        f"{where}: {len(fields)} fields where the header has {len(header)}; "
                        "quote a field that holds the separator"
                    )
                row = dict(zip(header, fields, strict=True))
                for name in filled:
                    if not row[name].strip():
                        raise AuditError(f"{where}: '{name}' is empty")
                yield where, row
            where = f"{path}:{lines.line_num + 1}"
    except csv.Error as error:
        raise AuditError(f"{where}: not a valid table: {error}") from error
    if not header:
        raise AuditError(f"{path}:1: the file is empty")


def _check_header(header: list[str], required: list[str], where: str, delimiter: str) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        separator = {",": "comma", "\t": "tab", ";": "semicolon"}[delimiter]
        hint = did_you_mean(missing[0], header)
        raise AuditError(
            f"{where}: no column '{missing[0]}'{hint}; a {separator}-separated header with "
            f"{', '.join(required)} is expected"
        )
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise AuditError(f"{where}: the column '{twice}' is there twice")
