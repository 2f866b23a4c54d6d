"""Suites: the prompts and vocabularies of an audit, as YAML in `datasets/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import yaml_files
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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise AuditError(
            f"no suite '{name}'{did_you_mean(name, names())}; there are: {', '.join(names())}"
        ) from error
    except UnicodeDecodeError as error:
        raise AuditError(f"the suite {path} is not UTF-8 text") from error
    content = yaml_files.parsed(text, str(path))
    if not isinstance(content, dict):
        raise AuditError(f"{path}: a suite is a mapping of sections")
    about = str(content.pop("about", ""))
    for name, section in content.items():
        if not isinstance(name, str) or not isinstance(section or {}, dict):
            raise AuditError(f"{path}: the section '{name}' is no mapping of names to values")
    return Suite(path.stem, about, content)
