"""Suites: the prompts and vocabularies of an audit, as YAML in `datasets/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import AuditError
from .plugins import did_you_mean


@dataclass(frozen=True)
class Suite:
    """A suite; each probe reads its own section.

    Attributes:
        name: the file's stem.
        about: one sentence.
        content: section → whatever that probe's documentation says.
    """

    name: str
    about: str
    content: Mapping[str, Any]

    def section(self, name: str) -> Mapping[str, Any]:
        """A section; empty when the suite has none, and then the probe has nothing to ask."""
        return self.content.get(name) or {}


def datasets() -> Path:
    """The folder `datasets/`: beside the packages in a checkout, inside `audit` in a wheel.

    In a wheel it may not lie at the top, where it would mix with Hugging Face's `datasets`.
    """
    here = Path(__file__).resolve().parent
    inside = here / "datasets"
    return inside if inside.is_dir() else here.parent / "datasets"


def names() -> list[str]:
    """The suites that ship with the toolkit."""
    return sorted(path.stem for path in (datasets() / "suites").glob("*.yaml"))


def load(name: str) -> Suite:
    """A shipped suite by name, or a user's YAML file by path.

    Raises:
        AuditError: there is none, or it is not valid YAML.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else datasets() / f"suites/{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AuditError(
            f"no suite '{name}'{did_you_mean(name, names())}; there are: {', '.join(names())}"
        ) from error
    except yaml.YAMLError as error:
        raise AuditError(f"{path}: not valid YAML: {error}".replace("\n", " ")) from error
    if not isinstance(content, dict):
        raise AuditError(f"{path}: a suite is a mapping of sections")
    return Suite(path.stem, str(content.pop("about", "")), content)
