"""What an index holds, as ``index.yaml`` beside it declares, and whether it is to be opened.

**Rule.** An index is taken for LAION data from before the cleaning when

- its ``index.yaml`` declares a ``dataset`` whose name begins with ``laion`` (LAION-400M,
  LAION-2B-en, LAION-5B, LAION-Aesthetics …), or
- it declares none, and its metadata has a column of URLs together with one of LAION's own safety
  columns (``NSFW``, ``punsafe``), or
- it declares none, and its name contains ``laion`` and not ``relaion`` or ``re-laion``.

A declared dataset with any other name, such as ``relaion-2b-en-research-safe``, is believed. What
is taken for it is opened only with `allow_legacy_laion`; an exclusion list should then take out
the rows that Re-LAION-5B dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from audit.atomic import replace
from audit.errors import AuditError
from audit.yaml_files import parsed

CARD = "index.yaml"
_SAFETY_COLUMNS = {"nsfw", "punsafe"}
REASON = (
    "LAION withdrew its datasets in December 2023 because they linked to suspected illegal images "
    "of children, and cleaned them as Re-LAION-5B in August 2024"
)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an index folder; empty where there is none.

    Raises:
        AuditError: it is no YAML mapping.
    """
    path = folder / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"cannot read {path}: {error}") from error
    card = parsed(text, str(path))
    if not isinstance(card, dict):
        raise AuditError(f"{path}:1: must be a mapping such as 'dataset: our-portraits'")
    return card


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card of an index folder."""
    text = yaml.safe_dump(dict(card), sort_keys=False, allow_unicode=True)
    replace(folder / CARD, text.encode())


def legacy_laion(name: str, columns: Sequence[str], dataset: str | None) -> str | None:
    """Why an index is taken for LAION data from before the cleaning, or ``None``.

    Args:
        name: of the index: its folder's name, or a server's name for it.
        columns: of its metadata.
        dataset: as its card declares.

    >>> legacy_laion("web", ["URL", "TEXT", "NSFW"], None)
    'its metadata has the columns URL, NSFW and no index.yaml declares a dataset'
    >>> legacy_laion("web", ["URL", "TEXT", "NSFW"], "relaion-2b-en-research-safe")
    >>> legacy_laion("laion5B-H-14", [], None)
    "its name is 'laion5B-H-14' and no index.yaml declares a dataset"
    """
    if dataset:
        if re.match(r"laion", str(dataset), re.IGNORECASE):
            return f"its index.yaml declares the dataset '{dataset}'"
        return None
    lower = {column.lower(): column for column in columns}
    safety = sorted(_SAFETY_COLUMNS & lower.keys())
    if "url" in lower and safety:
        named = ", ".join(lower[column] for column in ("url", *safety))
        return f"its metadata has the columns {named} and no index.yaml declares a dataset"
    if re.search(r"(?<!re)(?<!re-)(?<!re_)laion", name, re.IGNORECASE):
        return f"its name is '{name}' and no index.yaml declares a dataset"
    return None


def refuse_legacy(
    name: str, columns: Sequence[str], dataset: str | None, allow_legacy_laion: bool
) -> None:
    """Refuse LAION data from before the cleaning, unless it is allowed.

    Raises:
        AuditError: with the reason and what to do.
    """
    why = legacy_laion(name, columns, dataset)
    if why and not allow_legacy_laion:
        raise AuditError(
            f"'{name}' is taken for LAION data from before its cleaning, because {why}. {REASON}. "
            "Build the index from Re-LAION-5B research-safe; or write 'dataset: NAME' into "
            "index.yaml if this is something else; or pass --allow-legacy-laion, with --exclude "
            "FILE for the rows that were removed"
        )
