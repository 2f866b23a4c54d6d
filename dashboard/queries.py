"""What a run holds: its views and its probes."""

from __future__ import annotations

from audit.flagged import Catalog, catalog, flags, quoted

__all__ = ["Catalog", "catalog", "flags", "probes", "quoted"]


def probes(views: Catalog) -> list[str]:
    """The probes that asked for images, with dashes as underscores."""
    return [name.removeprefix("uses_") for name in views if name.startswith("uses_")]
