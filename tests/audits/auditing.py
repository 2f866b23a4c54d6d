"""A whole audit, without the command line."""

from __future__ import annotations

from pathlib import Path

from audit import engine
from audit.spec import Spec
from audit.store import Run


def audit(out: Path, **settings) -> Run:
    study, backend, probes = engine.prepare(Spec(**settings))
    return engine.run(study, backend, probes, out)
