"""Plug-ins by lazy entry points: a name costs nothing until it is used."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from .errors import AuditError

Kind = Literal["backends", "detectors", "latent_watermarks", "probes", "trials", "watermarks"]


@cache
def _found(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"t2i_audit.{kind}")}


def names(kind: Kind) -> list[str]:
    """The names of all installed plug-ins of one kind, without importing any."""
    return sorted(_found(kind))


def load(kind: Kind, name: str) -> Any:
    """Import one plug-in.

    Raises:
        AuditError: no plug-in has this name, or its import fails.
    """
    found = _found(kind)
    if name not in found:
        raise AuditError(
            f"unknown {kind.removesuffix('s')} '{name}'{did_you_mean(name, found)}; "
            f"there are: {', '.join(sorted(found)) or 'none'}"
        )
    try:
        return found[name].load()
    except ImportError as error:
        raise AuditError(f"{kind.removesuffix('s')} '{name}' cannot be loaded: {error}") from error


def did_you_mean(word: str, known: Any) -> str:
    """A suggestion such as ``; did you mean 'languages'?``, or nothing.

    >>> did_you_mean("langages", ["languages", "watermarks"])
    "; did you mean 'languages'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
