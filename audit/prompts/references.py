"""Reference distributions: what a measured share is compared with. None is a target of fairness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.suites import datasets

from .reading import rows, text_of

_TOLERANCE = 0.005
"""Published shares are rounded; a row that names all labels may miss 1 by this much."""


@dataclass(frozen=True)
class Reference:
    """Shares by prompt and label.

    Attributes:
        name: the file's stem.
        title: as findings name it.
        about: what was counted, of whom, when.
        shares: prompt's id → label → share in [0, 1]. A prompt without a published figure has no
            entry; a label that is not named has what is left to 1.
        overall: label → share over everyone, where it is published.
    """

    name: str
    title: str
    about: str
    shares: Mapping[str, Mapping[str, float]]
    overall: Mapping[str, float] = field(default_factory=dict)

    def share(self, prompt: str, label: str) -> float | None:
        """A share, or ``None`` where there is no figure: never a guess."""
        return self.shares.get(prompt, {}).get(label)


def names() -> list[str]:
    """The reference distributions that ship with the toolkit."""
    return sorted(path.stem for path in (datasets() / "references").glob("*.csv"))


def reference(name: str) -> Reference:
    """A shipped reference by name, or a user's CSV file by path.

    The file has a column ``id`` and one ``share_LABEL`` in [0, 1] for each label; an empty field
    means that there is no figure.

    Raises:
        AuditError: there is none, or a share is not one; with the line.
    """
    path = Path(name) if name.endswith(".csv") else datasets() / f"references/{name}.csv"
    if not name.endswith(".csv") and name not in names():
        raise AuditError(
            f"no reference '{name}'{did_you_mean(name, names())}; there are: {', '.join(names())}, "
            "or a CSV file of yours"
        )
    shares: dict[str, dict[str, float]] = {}
    for where, row in rows(path, ["id"], filled=["id"]):
        labels = [column for column in row if column.startswith("share_")]
        if not labels:
            raise AuditError(f"{path}:1: no column 'share_LABEL', such as share_female")
        if row["id"] in shares:
            raise AuditError(f"{where}: '{row['id']}' is there twice")
        found = {
            label.removeprefix("share_"): _share(row[label], label, where)
            for label in labels
            if row[label].strip()
        }
        total = sum(found.values())
        if total > 1 + _TOLERANCE:
            raise AuditError(
                f"{where}: the shares of '{row['id']}' sum to {total:.3f}, more than 1"
            )
        shares[row["id"]] = found
    about = _index().get(path.stem, {}) if path.parent == datasets() / "references" else {}
    return Reference(
        path.stem,
        str(about.get("title", path.stem)),
        str(about.get("about", "")),
        {prompt: found for prompt, found in shares.items() if found},
        about.get("overall", {}),
    )


def _index() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = yaml.safe_load(
        text_of(datasets() / "references/index.yaml")
    )
    return content


def _share(text: str, column: str, where: str) -> float:
    try:
        share = float(text)
    except ValueError as error:
        raise AuditError(f"{where}: {column} must be a number, not '{text}'") from error
    if not 0 <= share <= 1:
        raise AuditError(f"{where}: {column} must be from 0 to 1 (not percent), not {text}")
    return share
