"""t2i-audit measures what a text-to-image model does.

The public surface, imported when it is first used::

    from audit import Run, Spec, Finding, Request, table
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Analysis": "evidence",
    "AuditError": "errors",
    "Batch": "detectors",
    "Detector": "detectors",
    "EmbeddingFolder": "retrieval",
    "Finding": "findings",
    "Probe": "study",
    "Request": "plan",
    "Run": "store",
    "Spec": "spec",
    "Study": "study",
    "Suite": "suites",
    "Use": "plan",
    "search": "retrieval",
    "table": "evidence",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"audit.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'audit' has no attribute '{name}'")
